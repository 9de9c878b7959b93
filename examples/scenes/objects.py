"""From form to sprite: pose a tile, light it by its relief, and draw it on a picture with its shadow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from examples.scenes.forms import FORMS, Form
from examples.scenes.textures import Float, unit

MOST_SQUEEZED = {"ball": 0.88}
"""How far a class may be squeezed without looking like something else, if that is less than for the others."""

UPRIGHT = ("bottle", "crate")
"""Classes that lean only slightly from their upright pose; the others rotate freely."""

STEEPEST = 3.0
"""Relief gradients are clipped here, so that an outline is not a black line."""


@dataclass(frozen=True)
class Light:
    """One distant lamp for a whole scene."""

    direction_3: Float
    """Unit vector towards the lamp: x right, y down, z to the viewer."""
    ambient: float
    """Share of the light that comes from everywhere, 0..1."""
    shadow: float
    """Darkness of a full shadow, 0..1."""
    softness: float
    """Blur of shadows as a share of their object's size."""


@dataclass(frozen=True)
class Sprite:
    """A lit object, cropped to its own pixels."""

    rgb_HW3: Float
    alpha_HW: Float
    rise: float
    """Typical height above the ground in pixels, which throws the shadow."""


def random_light(rng: np.random.Generator) -> Light:
    """A lamp at any azimuth, 35 to 70 degrees above the ground."""
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(35, 70))
    flat = np.cos(elevation)
    direction = np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], np.float32)
    return Light(direction, rng.uniform(0.3, 0.55), rng.uniform(0.3, 0.7), rng.uniform(0.02, 0.07))


def shade(rgb_HW3: Float, relief_HW: Float, light: Light, *, gloss: float, hardness: float) -> Float:
    """Light a surface by its relief: Lambert's diffuse light, and Blinn's highlight.

    Args:
        rgb_HW3: reflectance, 0..1.
        relief_HW: height in pixels.
        light: the scene's lamp.
        gloss: strength of the highlight.
        hardness: its exponent; a larger one makes a smaller highlight.

    Returns:
        RGB `[H, W, 3]`, 0..1.
    """
    slope_x = np.clip(cv2.Scharr(relief_HW, cv2.CV_32F, 1, 0, scale=1 / 32), -STEEPEST, STEEPEST)
    slope_y = np.clip(cv2.Scharr(relief_HW, cv2.CV_32F, 0, 1, scale=1 / 32), -STEEPEST, STEEPEST)
    lx, ly, lz = (float(c) for c in light.direction_3)
    norm = 1 / np.sqrt(slope_x**2 + slope_y**2 + 1)
    facing = np.maximum((lz - lx * slope_x - ly * slope_y) * norm, 0)
    # The half vector of lamp and viewer, (lx, ly, lz + 1), has length sqrt(2 + 2 lz).
    mirror = np.maximum((lz + 1 - lx * slope_x - ly * slope_y) * norm, 0) / math.sqrt(2 + 2 * lz)
    # Facets that point away from the viewer get less light from the sky.
    ambient = light.ambient * (0.55 + 0.45 * norm)
    lit = rgb_HW3 * (ambient + (1 - light.ambient) * facing / max(lz, 0.5))[..., None]
    lit += (gloss * mirror**hardness)[..., None]
    return unit(lit)


def _pose(rng: np.random.Generator, name: str, tile: int, size: float) -> tuple[NDArray[np.float32], int]:
    """Homography from tile pixels to a patch of the returned side: turn, squeeze, slight perspective."""
    turn = rng.normal(0, 0.5) if name in UPRIGHT else rng.uniform(0, 2 * np.pi)
    squeeze, lean = rng.uniform(MOST_SQUEEZED.get(name, 0.72), 1.0), rng.uniform(0, np.pi)
    rotate = _rotation(lean + turn) @ np.diag([1.0, squeeze]) @ _rotation(-lean)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (1 + rng.uniform(-0.08, 0.08, (4, 2)))
    posed = corners @ rotate.T * size / 2
    half = float(np.abs(posed).max())
    source = np.array([[0, 0], [tile, 0], [tile, tile], [0, tile]], np.float32)
    warp: NDArray[np.float32] = cv2.getPerspectiveTransform(source, (posed + half).astype(np.float32))
    return warp, int(np.ceil(2 * half)) + 1


def _rotation(angle: float) -> NDArray[np.float64]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def lit_sprite(rng: np.random.Generator, name: str, size: float, colours_K3: Float, light: Light) -> Sprite:
    """Make, pose and light an object of a class.

    Args:
        rng: the randomness.
        name: the class.
        size: about its longest extent, in pixels.
        colours_K3: ramp of its colours, 0..1.
        light: the scene's lamp.
    """
    tile = int(np.clip(1.3 * size, 96, 224))
    form: Form = FORMS[name](rng, tile, colours_K3)
    warp, side = _pose(rng, name, tile, size)
    stack = np.dstack([form.paint_SS3, form.relief_SS, form.alpha_SS])
    posed: Float = np.dstack(
        [
            cv2.warpPerspective(stack[..., :3], warp, (side, side)),
            cv2.warpPerspective(stack[..., 3:], warp, (side, side)),
        ]
    )
    alpha = posed[..., 4]
    rows, columns = np.flatnonzero(alpha.max(1) > 0.02), np.flatnonzero(alpha.max(0) > 0.02)
    posed = posed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    relief = np.ascontiguousarray(posed[..., 3]) * np.float32(size / 2)
    rgb = shade(posed[..., :3], relief, light, gloss=float(rng.choice([0.05, 0.25, 0.6])), hardness=rng.uniform(12, 60))
    return Sprite(rgb, np.ascontiguousarray(posed[..., 4]), float(np.percentile(relief, 75)))


def crop_to(
    canvas_hw: tuple[int, int], sprite_hw: tuple[int, int], left: int, top: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of a canvas that a sprite covers, and the part of the sprite that lies on the canvas.

    Args:
        canvas_hw: height and width of the canvas.
        sprite_hw: height and width of the sprite.
        left: column of the sprite's left edge on the canvas; may be negative.
        top: row of the sprite's top edge on the canvas; may be negative.

    Returns:
        Rows and columns of the canvas, and rows and columns of the sprite.
    """
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + sprite_hw[0], canvas_hw[0]), min(left + sprite_hw[1], canvas_hw[1])
    y1, x1 = max(y0, y1), max(x0, x1)
    return ((slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)))


def lay(picture_HW3: Float, sprite: Sprite, left: int, top: int, light: Light) -> None:
    """Draw a sprite and its soft shadow on a picture.

    Args:
        picture_HW3: RGB, 0..1; changed in place.
        sprite: the lit object.
        left: column of its left edge; may be negative.
        top: row of its top edge; may be negative.
        light: the scene's lamp.
    """
    canvas = picture_HW3.shape[:2]
    extent = max(sprite.alpha_HW.shape)
    sigma = max(1.0, light.softness * extent)
    margin = int(2 * sigma) + 1
    soft: Float = cv2.GaussianBlur(np.pad(sprite.alpha_HW, margin), (0, 0), sigma)
    throw = -light.direction_3[:2] / light.direction_3[2] * min(sprite.rise, 0.3 * extent) * 0.8
    for dx, dy, strength in ((throw[0], throw[1], light.shadow), (0.0, 0.0, 0.5 * light.shadow)):
        where, part = crop_to(canvas, soft.shape, left - margin + round(float(dx)), top - margin + round(float(dy)))
        picture_HW3[where] *= 1 - strength * soft[part][..., None]
    where, part = crop_to(canvas, sprite.alpha_HW.shape, left, top)
    alpha = sprite.alpha_HW[part][..., None]
    picture_HW3[where] += alpha * (sprite.rgb_HW3[part] - picture_HW3[where])
