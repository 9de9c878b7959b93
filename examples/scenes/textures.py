"""Noise, colours and surface patterns for objects, clutter and backgrounds.

Letters in names: H and W pixels, 3 the channels R, G, B. All maps are float32; colours and patterns lie in 0..1.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]


def unit(values: NDArray[np.floating]) -> Float:
    """Clip values to 0..1."""
    cut: Float = np.clip(values, 0, 1).astype(np.float32, copy=False)
    return cut


def coverage(canvas_HW: NDArray[np.uint8]) -> Float:
    """Coverage, 0..1, from an antialiased drawing in 255 on 0."""
    covered: Float = np.multiply(canvas_HW, np.float32(1 / 255), dtype=np.float32)
    return covered


def cells(rng: np.random.Generator, height: int, width: int, cell_h: float, cell_w: float) -> Float:
    """Random values on a grid, interpolated: about uniform in 0..1, `[H, W]`.

    Args:
        rng: the randomness.
        height: of the map, in pixels.
        width: of the map, in pixels.
        cell_h: height of a grid cell, in pixels.
        cell_w: width of a grid cell, in pixels.
    """
    rows, columns = max(2, round(height / cell_h) + 2), max(2, round(width / cell_w) + 2)
    grid = rng.random((rows, columns), dtype=np.float32)
    noise: Float = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return noise


def fractal(
    rng: np.random.Generator,
    height: int,
    width: int,
    cell: float,
    *,
    octaves: int = 4,
    stretch: float = 1.0,
    gain: float = 0.55,
) -> Float:
    """Multi-octave value noise, scaled to exactly 0..1, `[H, W]`.

    Args:
        rng: the randomness.
        height: of the map, in pixels.
        width: of the map, in pixels.
        cell: cell size of the first octave, in pixels.
        octaves: at most how many; each has half the cell size of the one before.
        stretch: above 1, the noise is stretched along x.
        gain: amplitude of an octave relative to the one before.
    """
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        size = cell / 2**octave
        if size < 1:
            break
        total += gain**octave * cells(rng, height, width, size, size * stretch)
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def hsv(hue: float, saturation: float, value: float) -> Float:
    """An RGB colour `[3]` from hue (turns, wraps), saturation and value (clipped to 0..1)."""
    rgb = colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))
    return np.asarray(rgb, np.float32)


def vary(rng: np.random.Generator, colour: Float, amount: float) -> Float:
    """A colour near another, `[3]`, 0..1: each channel moves by up to `amount`, half of it equally for all three."""
    shift = rng.uniform(-amount, amount) + rng.uniform(-amount, amount, 3)
    return np.clip(colour + 0.5 * shift, 0.02, 0.98).astype(np.float32)


def ramp(values_HW: Float, colours_K3: Float) -> Float:
    """Colours `[H, W, 3]` for values 0..1 along an evenly spaced colour ramp `[K, 3]`."""
    table = np.linspace(0, len(colours_K3) - 1, 256)
    stops = np.arange(len(colours_K3))
    lut = np.stack([np.interp(table, stops, colours_K3[:, c]) for c in range(3)], axis=1).astype(np.float32)
    colours_HW3: Float = np.take(lut, np.clip(values_HW * 255, 0, 255).astype(np.uint8), axis=0)
    return colours_HW3


def _plain(rng: np.random.Generator, side: int) -> Float:
    return 0.25 * fractal(rng, side, side, side / 3, octaves=3)


def _coordinate(rng: np.random.Generator, side: int) -> Float:
    """A coordinate of -1..1 across the tile in a random direction."""
    u, v = tile_grid(side)
    angle = rng.uniform(0, 2 * np.pi)
    return np.asarray(np.cos(angle) * u + np.sin(angle) * v, np.float32)


def tile_grid(side: int) -> tuple[Float, Float]:
    """Coordinates u (right) and v (down) of a tile's pixels, -1 to 1, as `[1, S]` and `[S, 1]`."""
    line = np.linspace(-1, 1, side, dtype=np.float32)
    return line[None], line[:, None]


def _soft_step(wave: Float, edge: float, side: int, frequency: float) -> Float:
    """0 or 1 with an edge of about a pixel, for a wave of -1..1 that has `frequency` radians per half-tile."""
    return unit((wave - edge) * side / (2 * frequency) + 0.5)


def _stripes(rng: np.random.Generator, side: int) -> Float:
    frequency = rng.uniform(6, 22)
    bend = rng.uniform(0, 0.12) * fractal(rng, side, side, side / 2, octaves=2)
    wave = np.sin(frequency * (_coordinate(rng, side) + bend) + rng.uniform(0, 6.28))
    return _soft_step(wave, rng.uniform(-0.5, 0.5), side, frequency)


def _checks(rng: np.random.Generator, side: int) -> Float:
    frequency = rng.uniform(5, 13)
    u, v = tile_grid(side)
    angle = rng.uniform(0, np.pi)
    a, b = np.cos(angle) * u + np.sin(angle) * v, np.cos(angle) * v - np.sin(angle) * u
    return _soft_step(np.sin(frequency * a) * np.sin(frequency * b), 0.0, side, frequency)


def _marble(rng: np.random.Generator, side: int) -> Float:
    warp = fractal(rng, side, side, side / 3, octaves=4)
    wave = np.sin(rng.uniform(2, 5) * _coordinate(rng, side) + rng.uniform(5, 12) * warp)
    return np.asarray(0.5 + 0.5 * wave, np.float32)


def _mottle(rng: np.random.Generator, side: int) -> Float:
    return fractal(rng, side, side, side * rng.uniform(0.05, 0.25), octaves=4)


def _spots(rng: np.random.Generator, side: int) -> Float:
    spots = np.zeros((side, side), np.uint8)
    base = rng.uniform(0.03, 0.09) * side
    for x, y, size in rng.random((int(rng.integers(15, 45)), 3)):
        centre = (int(x * side * 16), int(y * side * 16))
        cv2.circle(spots, centre, int(base * (0.6 + 0.7 * size) * 16), 255, -1, cv2.LINE_AA, 4)
    return coverage(spots)


PATTERNS: tuple[Callable[[np.random.Generator, int], Float], ...] = (
    _plain,
    _plain,
    _stripes,
    _checks,
    _marble,
    _mottle,
    _spots,
)
"""Surface patterns, the same for every object class and for clutter, so that a pattern does not reveal the class."""


def surface(rng: np.random.Generator, side: int, colours_K3: Float) -> Float:
    """A square tile `[side, side, 3]`, 0..1, in a random pattern of the given colours, with fine grain."""
    pattern = PATTERNS[int(rng.integers(len(PATTERNS)))](rng, side)
    grain = 0.9 + 0.2 * fractal(rng, side, side, max(4.0, side / 16), octaves=3)
    return unit(ramp(pattern, colours_K3) * grain[..., None])


def object_colours(rng: np.random.Generator) -> Float:
    """Two colours `[2, 3]` of a random hue; the second contrasts with the first."""
    hue, saturation, value = rng.random(), rng.uniform(0.1, 0.9), rng.uniform(0.3, 0.95)
    other = value - 0.4 if value > 0.6 else value + 0.4
    first = hsv(hue, saturation, value)
    second = hsv(hue + rng.normal(0, 0.2), rng.uniform(0.05, 0.9), other + rng.uniform(-0.15, 0.15))
    return np.stack([first, second])


def accent_colours(rng: np.random.Generator, colours_K3: Float) -> Float:
    """The colours in reverse order, faded towards black or white, for parts that contrast with the rest."""
    towards = rng.choice([0.05, 0.95])
    return unit(colours_K3[::-1] * 0.45 + 0.55 * towards)
