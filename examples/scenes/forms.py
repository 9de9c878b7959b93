"""The six object classes as forms: outline, relief and paint in a square tile, before pose and light.

A tile covers -1..1 in u (right) and v (down). Relief is in units of half a tile, so that after posing it is as
deep as the object is wide. Classes differ only by outline and relief; colours and patterns are drawn in the same way
for all.

A form's function takes the random generator, the tile's side S in pixels and a ramp of colours `[K, 3]`, 0..1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from examples.scenes.textures import Float, accent_colours, coverage, fractal, surface, tile_grid, unit


@dataclass(frozen=True)
class Form:
    """An object in its tile of S x S pixels, float32."""

    alpha_SS: Float
    """Coverage, 0..1."""
    relief_SS: Float
    """Height above the ground in half-tiles, 0 or more; meaningless where alpha is 0."""
    paint_SS3: Float
    """RGB reflectance, 0..1."""


def _cover(distance_SS: NDArray[np.floating], side: int) -> Float:
    """Coverage from a signed distance in half-tiles, positive inside, softened over one pixel."""
    return unit(distance_SS * side / 2 + 0.5)


def _polygon(points_N2: NDArray[np.floating], side: int) -> Float:
    """Antialiased coverage of a polygon with vertices in tile coordinates."""
    canvas = np.zeros((side, side), np.uint8)
    fixed = np.round((points_N2 + 1) * (side - 1) / 2 * 256).astype(np.int32)
    cv2.fillPoly(canvas, [fixed], 255, cv2.LINE_AA, 8)
    return coverage(canvas)


def _depth(alpha_SS: Float, side: int) -> Float:
    """Distance to the outline in half-tiles."""
    inside = (alpha_SS > 0.5).astype(np.uint8)
    distance: Float = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    return distance * (2 / side)


def ball(rng: np.random.Generator, side: int, colours_K3: Float) -> Form:
    """A sphere with its pattern bent around it."""
    u, v = tile_grid(side)
    radius = 0.97
    rho = np.sqrt(u * u + v * v)
    relief = np.sqrt(np.maximum(radius**2 - rho**2, 0))
    inner = np.clip(rho / radius, 1e-4, 1)
    bend = np.arcsin(inner) / inner / (np.pi / 2) * (side - 1) / 2
    paint = surface(rng, side, colours_K3)
    centre = (side - 1) / 2
    wrapped: Float = cv2.remap(
        paint, u / radius * bend + centre, v / radius * bend + centre, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    return Form(_cover(radius - rho, side), relief, wrapped)


def ring(rng: np.random.Generator, side: int, colours_K3: Float) -> Form:
    """A torus; its hole is not part of it."""
    u, v = tile_grid(side)
    tube = rng.uniform(0.15, 0.25)
    offset = np.abs(np.sqrt(u * u + v * v) - (0.97 - tube))
    relief = np.sqrt(np.maximum(tube**2 - offset**2, 0))
    return Form(_cover(tube - offset, side), relief, surface(rng, side, colours_K3))


def star(rng: np.random.Generator, side: int, colours_K3: Float) -> Form:
    """A five- or six-pointed star with bevelled arms."""
    points = int(rng.integers(5, 7))
    angle = np.arange(2 * points) * np.pi / points
    radius = np.where(np.arange(2 * points) % 2 == 0, 0.97, rng.uniform(0.4, 0.52))
    alpha = _polygon(np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1), side)
    relief = rng.uniform(0.6, 1.1) * _depth(alpha, side)
    return Form(alpha, cv2.GaussianBlur(relief, (0, 0), side / 110), surface(rng, side, colours_K3))


def leaf(rng: np.random.Generator, side: int, colours_K3: Float) -> Form:
    """A pointed blade with a bent midrib, side veins and a stem."""
    along = np.linspace(0, 1, 60)
    belly, width = rng.uniform(0.7, 1.25), rng.uniform(0.34, 0.5)
    teeth = 1 + rng.uniform(0, 0.05) * np.sin(along * np.pi * rng.integers(14, 22))
    half = width * np.sin(np.pi * along**belly) ** 0.85 * teeth
    half[[0, -1]] = 0
    bend = rng.uniform(-0.28, 0.28)

    def rib(t: NDArray[np.floating]) -> NDArray[np.floating]:
        return np.asarray(bend * np.sin(np.pi * t))

    v = 1.6 * along - 0.97
    outline = np.concatenate([np.stack([rib(along) + half, v], 1), np.stack([rib(along) - half, v], 1)[::-1]])
    stem_v = np.linspace(0.6, 0.97, 6)
    stem = rib((stem_v + 0.97) / 1.6)
    stalk = np.concatenate([np.stack([stem + 0.025, stem_v], 1), np.stack([stem - 0.025, stem_v], 1)[::-1]])
    alpha = np.maximum(_polygon(outline, side), _polygon(stalk, side))

    u_SS, v_SS = tile_grid(side)
    across = np.abs(u_SS - bend * np.sin(np.pi * np.clip((v_SS + 0.97) / 1.6, 0, 1.3)))
    dome = np.sqrt(np.maximum(_depth(alpha, side), 0) * 0.12)
    veins = np.exp(-((np.sin(rng.uniform(16, 24) * (v_SS + 0.8 * across)) - 1) ** 2) / 0.02)
    veins = np.maximum(0.6 * veins, np.exp(-((across / 0.025) ** 2)))
    relief = dome + 0.3 * across * (alpha > 0.5) - 0.015 * veins
    paint = surface(rng, side, colours_K3) * (1 + float(rng.choice([-0.35, 0.35])) * veins[..., None])
    return Form(alpha, cv2.GaussianBlur(relief, (0, 0), side / 130), unit(paint))


def bottle(rng: np.random.Generator, side: int, colours_K3: Float) -> Form:
    """A body of revolution: body, shoulder, neck and cap, with a label around the body."""
    u, v = tile_grid(side)
    body, neck = rng.uniform(0.28, 0.42), rng.uniform(0.1, 0.15)
    neck_end, shoulder_end = rng.uniform(-0.55, -0.35), rng.uniform(-0.2, 0.1)
    cap_end = -0.97 + rng.uniform(0.12, 0.22)
    heights = np.linspace(-1, 1, side)
    ease = np.clip((heights - neck_end) / (shoulder_end - neck_end), 0, 1)
    half = neck + (body - neck) * (0.5 - 0.5 * np.cos(np.pi * ease))
    half[heights < cap_end] = neck + 0.03
    foot = np.clip((0.97 - heights) / 0.08, 0, 1)
    half = (half * (0.85 + 0.15 * np.sqrt(foot)))[:, None].astype(np.float32)
    alpha = _cover(half - np.abs(u), side) * _cover(0.97 - np.abs(v), side)
    relief = np.sqrt(np.maximum(half**2 - u**2, 0))
    paint = surface(rng, side, colours_K3)
    label_from, label_to = shoulder_end + 0.1, rng.uniform(0.6, 0.85)
    label = surface(rng, side, accent_colours(rng, colours_K3)) if rng.random() < 0.7 else paint
    paint = np.where(((v > label_from) & (v < label_to))[..., None], label, paint)
    paint = np.where((v < cap_end)[..., None], colours_K3[1] * 0.8, paint)
    return Form(alpha, relief, paint.astype(np.float32))


def _planks(rng: np.random.Generator, side: int, colours_K3: Float) -> Float:
    """A crate's face: boards inside a frame, with dark gaps."""
    paint = surface(rng, side, colours_K3)
    boards = int(rng.integers(3, 6))
    frame = max(2, int(side * rng.uniform(0.1, 0.16)))
    gap = max(1, side // 40)
    tone = np.ones((side, side), np.float32)
    for board in range(boards):
        top = frame + board * (side - 2 * frame) // boards
        tone[top:] = rng.uniform(0.7, 1.05)
        tone[top : top + gap] = 0.35
    inner = np.zeros((side, side), bool)
    inner[frame:-frame, frame:-frame] = True
    tone[~inner] = 1.1
    tone[frame - gap : frame, frame:-frame] = tone[-frame : gap - frame or None, frame:-frame] = 0.35
    tone[frame:-frame, frame - gap : frame] = tone[frame:-frame, -frame : gap - frame or None] = 0.35
    tone *= 0.85 + 0.25 * fractal(rng, side, side, side / 10, octaves=2, stretch=6)
    return unit(paint * tone[..., None])


CUBE_FACES = (((1, 0, 0), (0, 1, 0), (0, 0, 1)), ((0, 1, 0), (1, 0, 0), (0, 0, 1)), ((0, 0, 1), (1, 0, 0), (0, 1, 0)))
"""Normal and the two edges of the faces that point to the viewer (up to sign)."""


def crate(rng: np.random.Generator, side: int, colours_K3: Float) -> Form:
    """A box of boards seen from a corner: two or three faces, each flat."""
    yaw, pitch = rng.uniform(0.3, 1.27), rng.uniform(0.25, 0.75)
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    tilt = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    half = np.array([1, rng.uniform(0.65, 1.0), rng.uniform(0.75, 1.0)])
    axes = tilt @ turn * half
    axes *= 0.97 / np.abs(axes[:2]).sum(axis=1).max()
    u, v = tile_grid(side)
    alpha, relief = np.zeros((side, side), np.float32), np.zeros((side, side), np.float32)
    paint = np.zeros((side, side, 3), np.float32)
    corner = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float32)
    board = _planks(rng, side, colours_K3)
    for normal, first, second in CUBE_FACES:
        out = axes @ np.array(normal)
        out = out if out[2] > 0 else -out
        a, b = axes @ np.array(first), axes @ np.array(second)
        quad = np.array([out + i * a + j * b for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))])
        face = _polygon(quad[:, :2], side)
        pixels = ((quad[:, :2] + 1) * (side - 1) / 2).astype(np.float32)
        warp = cv2.getPerspectiveTransform(corner, pixels)
        seen = cv2.warpPerspective(board, warp, (side, side), borderMode=cv2.BORDER_REPLICATE)
        slope = np.linalg.solve(np.stack([a[:2], b[:2]]), np.array([a[2], b[2]]))
        plane = out[2] + (u - out[0]) * slope[0] + (v - out[1]) * slope[1]
        on = face > 0.5
        paint[on], relief[on] = seen[on], plane[on]
        alpha = np.maximum(alpha, face)
    relief -= relief[alpha > 0.5].min()
    return Form(alpha, relief, paint)


FORMS: dict[str, Callable[[np.random.Generator, int, Float], Form]] = {
    "ball": ball,
    "crate": crate,
    "bottle": bottle,
    "leaf": leaf,
    "star": star,
    "ring": ring,
}
"""Class name to form, in the order of the class numbers 1, 2, ..."""
