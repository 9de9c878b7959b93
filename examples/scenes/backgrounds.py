"""Natural-looking backgrounds and the clutter on them: everything of class 0.

A background function takes the random generator and a height and width in pixels, and returns RGB, float32
`[height, width, 3]`, 0..1.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from examples.scenes.objects import Light, Sprite, crop_to, lay, shade
from examples.scenes.textures import Float, cells, coverage, fractal, hsv, object_colours, ramp, surface, unit, vary

NATURAL_HUES = ((0.04, 0.12), (0.08, 0.16), (0.2, 0.4), (0.5, 0.65))
"""Hues of earth, sand, plants, water and sky."""


def ground_colours(rng: np.random.Generator, hue: float | None = None) -> Float:
    """A ramp of four similar colours, dark to light, `[4, 3]`, 0..1."""
    if hue is None:
        hue = rng.uniform(*NATURAL_HUES[int(rng.integers(4))]) if rng.random() < 0.7 else rng.random()
    saturation, value = rng.uniform(0.02, 0.6), rng.uniform(0.3, 0.8)
    contrast = rng.uniform(0.15, 0.5)
    steps = np.linspace(-0.5, 0.5, 4)
    return np.stack(
        [
            hsv(
                hue + rng.normal(0, 0.03),
                saturation - 0.3 * step + rng.normal(0, 0.04),
                value * (1 + 1.3 * contrast * step),
            )
            for step in steps
        ]
    )


def terrain(rng: np.random.Generator, height: int, width: int) -> Float:
    """Earth, sand or moss: multi-octave noise with grain."""
    noise = fractal(
        rng, height, width, rng.uniform(60, 200), octaves=7, stretch=rng.uniform(1, 2), gain=rng.uniform(0.5, 0.75)
    )
    return ramp(noise, ground_colours(rng))


def sky(rng: np.random.Generator, height: int, width: int) -> Float:
    """A clouded gradient over a horizon of terrain."""
    top, bottom = (
        hsv(rng.uniform(0.52, 0.66), rng.uniform(0.2, 0.7), rng.uniform(0.6, 0.95)),
        hsv(rng.uniform(0.0, 0.16), rng.uniform(0, 0.3), rng.uniform(0.75, 0.98)),
    )
    fade = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    air = top * (1 - fade) + bottom * fade
    clouds = np.clip(fractal(rng, height, width, 120, octaves=5, stretch=2.5) * 2.2 - 1, 0, 1)[..., None]
    air = air + clouds * rng.uniform(0.3, 0.9) * (0.95 - air)
    ridge = height * rng.uniform(0.35, 1.1) + 40 * (fractal(rng, 2, width, 70, octaves=5)[0] - 0.5)
    land = np.clip(np.arange(height)[:, None] - ridge + 0.5, 0, 1)[..., None]
    return unit(air + land * (terrain(rng, height, width) - air))


def grass(rng: np.random.Generator, height: int, width: int) -> Float:
    """Blades drawn over dark ground."""
    colours = ground_colours(rng, rng.uniform(0.1, 0.36))
    picture = np.ascontiguousarray(ramp(fractal(rng, height, width, 50, octaves=5), colours * 0.75))
    count, length, lean = height * width // 90, rng.uniform(8, 26), rng.normal(0, 0.3)
    roots = rng.random((count, 2)) * (width, height + length)
    blades = np.stack([rng.normal(lean, 0.35, count), np.ones(count)], 1) * length
    tips = roots - blades * rng.uniform(0.5, 1.2, (count, 1))
    tones = ramp(rng.random((1, count), dtype=np.float32), colours)[0] * rng.uniform(0.8, 1.25, (count, 1))
    fixed = np.round(np.concatenate([roots, tips], 1) * 16).astype(int).tolist()
    for (x0, y0, x1, y1), tone in zip(fixed, tones.tolist(), strict=True):
        cv2.line(picture, (x0, y0), (x1, y1), tone, 1, cv2.LINE_8, 4)
    return picture


def stones(rng: np.random.Generator, height: int, width: int) -> Float:
    """Flagstones: the cells nearest to random points, each of its own tone, with dark joints."""
    pitch = rng.uniform(25, 80)
    seeds = np.full((height, width), 255, np.uint8)
    count = max(4, int(height * width / pitch**2))
    seeds[rng.integers(0, height, count), rng.integers(0, width, count)] = 0
    _, nearest = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_CCOMP)
    joints = cv2.morphologyEx(nearest.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    joints = cv2.GaussianBlur(joints.astype(np.float32), (0, 0), rng.uniform(0.8, 2.0))
    tones = rng.random(count + 2, dtype=np.float32)[nearest]
    values = 0.45 * tones + 0.55 * fractal(rng, height, width, 40, octaves=5, gain=0.7)
    picture = ramp(values, ground_colours(rng)) * (1 - rng.uniform(0.3, 0.8) * joints[..., None])
    return np.asarray(picture, np.float32)


def wood(rng: np.random.Generator, height: int, width: int) -> Float:
    """Floor boards: stretched grain with growth rings, board by board."""
    upright = rng.random() < 0.5
    rows, columns = (width, height) if upright else (height, width)
    board = int(rng.uniform(30, 110))
    number = (np.arange(rows) + int(rng.integers(board))) // board
    shift = rng.random(int(number.max()) + 1, dtype=np.float32)[number][:, None]
    warp = fractal(rng, rows, columns, 40, octaves=3, stretch=8)
    rings = 0.5 + 0.5 * np.sin(rng.uniform(15, 45) * (warp + shift))
    values = 0.35 * rings + 0.4 * fractal(rng, rows, columns, 8, octaves=3, stretch=14) + 0.25 * shift
    picture = ramp(values.astype(np.float32), ground_colours(rng, rng.uniform(0.03, 0.13)))
    picture[np.flatnonzero(np.diff(number))] *= 0.45
    return np.ascontiguousarray(picture.transpose(1, 0, 2)) if upright else picture


def ripples(rng: np.random.Generator, height: int, width: int) -> Float:
    """Wind-blown sand, water or cloth: waves with wandering crests."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle, length = rng.uniform(0, np.pi), rng.uniform(8, 40)
    phase = (np.cos(angle) * x + np.sin(angle) * y) / length * 2 * np.pi
    warp = fractal(rng, height, width, 110, octaves=3) * rng.uniform(4, 16)
    wave = 0.5 + 0.5 * np.sin(phase + warp)
    values = 0.4 * wave + 0.6 * fractal(rng, height, width, 90, octaves=6, gain=0.65)
    return ramp(values.astype(np.float32), ground_colours(rng))


GROUNDS: tuple[Callable[[np.random.Generator, int, int], Float], ...] = (terrain, terrain, grass, stones, wood, ripples)


def background(rng: np.random.Generator, height: int, width: int) -> Float:
    """A random background with uneven light; sometimes two of them meet along a wavy border."""
    first, second, kind = int(rng.integers(len(GROUNDS))), int(rng.integers(len(GROUNDS))), rng.random()
    picture = sky(rng, height, width) if kind < 0.15 else GROUNDS[first](rng, height, width)
    if kind > 0.75:
        other = GROUNDS[second](rng, height, width)
        border = (fractal(rng, height, width, 220, octaves=4) - rng.uniform(0.4, 0.6)) * rng.uniform(20, 90)
        picture = picture + np.clip(border + 0.5, 0, 1)[..., None] * (other - picture)
    picture *= (0.8 + 0.4 * cells(rng, height, width, 160, 160))[..., None]
    return unit(picture)


def _blob(rng: np.random.Generator, size: float) -> Float:
    """Coverage of a smooth irregular blob about `size` pixels across, in its own tile."""
    side = int(size * 1.3) + 4
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    waves = np.arange(2, 7)[:, None]
    radius = 1 + (rng.normal(0, 0.3 / waves) * np.cos(waves * angle + rng.uniform(0, 6.3, (5, 1)))).sum(0)
    squeeze = rng.uniform(0.5, 1.0)
    points = np.stack([radius * np.cos(angle), squeeze * radius * np.sin(angle)], 1) * size / 2 / max(radius.max(), 1)
    turn = rng.uniform(0, np.pi)
    points = points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + side / 2
    tile = np.zeros((side, side), np.uint8)
    cv2.fillPoly(tile, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return coverage(tile)


def _somewhere(rng: np.random.Generator, picture_HW3: Float, side: int) -> tuple[int, int]:
    height, width = picture_HW3.shape[:2]
    return int(rng.integers(-side // 2, width - side // 2)), int(rng.integers(-side // 2, height - side // 2))


def _colour(rng: np.random.Generator, picture_HW3: Float) -> Float:
    """A colour of the picture, or a random one."""
    if rng.random() < 0.6:
        height, width = picture_HW3.shape[:2]
        return vary(rng, picture_HW3[int(rng.integers(height)), int(rng.integers(width))], 0.4)
    return np.asarray(object_colours(rng)[0])


def _flat_blob(rng: np.random.Generator, picture_HW3: Float, light: Light) -> None:
    """A stain or scrap in an object's colours and pattern, but without relief."""
    alpha = _blob(rng, rng.uniform(15, 90))
    if rng.random() < 0.5:
        alpha = cv2.GaussianBlur(alpha, (0, 0), rng.uniform(1, 6)) * np.float32(rng.uniform(0.4, 1))
    side = len(alpha)
    sprite = Sprite(surface(rng, side, object_colours(rng)), alpha, 0.0)
    lay(picture_HW3, sprite, *_somewhere(rng, picture_HW3, side), light)


def _pebble(rng: np.random.Generator, picture_HW3: Float, light: Light) -> None:
    """A solid bit too small or too irregular for any class."""
    size = float(rng.choice([rng.uniform(4, 10), rng.uniform(10, 28)]))
    alpha = _blob(rng, size)
    depth = cv2.distanceTransform((alpha > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    relief = cv2.GaussianBlur(np.sqrt(depth * np.float32(size / 3)), (0, 0), 1.0)
    side = len(alpha)
    colour = np.stack([_colour(rng, picture_HW3)] * 2)
    paint = shade(surface(rng, side, colour), relief, light, gloss=0.1, hardness=20)
    lay(picture_HW3, Sprite(paint, alpha, float(relief.max())), *_somewhere(rng, picture_HW3, side), light)


def _line(rng: np.random.Generator, picture_HW3: Float, light: Light) -> None:
    """A twig, wire or scratch: a thin curve."""
    del light
    height, width = picture_HW3.shape[:2]
    ends = rng.random((3, 2)) * (width * 1.2, height * 1.2) - (width * 0.1, height * 0.1)
    t = np.linspace(0, 1, 24)[:, None]
    curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
    left, top = (int(c) - 3 for c in curve.min(0))
    right, bottom = (int(c) + 5 for c in curve.max(0))
    canvas = np.zeros((bottom - top, right - left), np.uint8)
    fixed = np.round((curve - (left, top)) * 16).astype(np.int32)
    cv2.polylines(canvas, [fixed], False, 255, int(rng.integers(1, 4)), cv2.LINE_AA, 4)
    where, part = crop_to((height, width), canvas.shape, left, top)
    strength = coverage(canvas[part])[..., None] * np.float32(rng.uniform(0.4, 1))
    picture_HW3[where] += strength * (_colour(rng, picture_HW3) - picture_HW3[where])


def clutter(rng: np.random.Generator, picture_HW3: Float, light: Light) -> None:
    """Scatter lines, stains and pebbles over a picture, none of which is an object.

    Args:
        rng: the randomness.
        picture_HW3: RGB, 0..1; changed in place.
        light: the scene's lamp.
    """
    for draw, most in ((_flat_blob, 5), (_line, 4), (_pebble, 14)):
        for _ in range(int(rng.integers(0, most + 1))):
            draw(rng, picture_HW3, light)
