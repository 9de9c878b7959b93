"""A whole scene: background, clutter, overlapping objects, camera; and its exact masks."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from examples.scenes.backgrounds import background, clutter
from examples.scenes.forms import FORMS
from examples.scenes.objects import Light, crop_to, lay, lit_sprite, random_light
from examples.scenes.textures import Float, object_colours, vary
from pipeline.imaging.classes import VOID

CLASSES = ("background", *FORMS)
"""Class names by class number."""

LONGER_SIDE, SHORTEST_SIDE = 320, 200
SMALLEST, LARGEST = 45.0, 190.0
"""Range of the objects' extent, in pixels."""
MOST_OBJECTS = 6
PLACE_TRIES = 10
LEAST_VISIBLE = 0.4
"""Share of an object that the border and later objects must leave visible."""
CAMOUFLAGED = 0.25
"""Share of objects that take a colour of their surroundings."""


@dataclass(frozen=True)
class Scene:
    """A picture and its labels, all `[H, W]` uint8."""

    image_HW3: NDArray[np.uint8]
    """RGB."""
    classes_HW: NDArray[np.uint8]
    """Class number of each pixel; 0 background, 255 void contour."""
    objects_HW: NDArray[np.uint8]
    """Object number of each pixel, 1 to n; 0 background, 255 void contour."""


@dataclass(frozen=True)
class _Placed:
    class_number: int
    area: int
    """Pixels of the whole object, hidden or not."""


def render_scene(rng: np.random.Generator) -> Scene:
    """Draw a random scene of one to six objects; all randomness comes from `rng`."""
    short = int(rng.integers(SHORTEST_SIDE, LONGER_SIDE + 1))
    height, width = (short, LONGER_SIDE) if rng.random() < 0.6 else (LONGER_SIDE, short)
    light = random_light(rng)
    picture = background(rng, height, width)
    clutter(rng, picture, light)
    ids_HW, placed = np.zeros((height, width), np.uint8), [_Placed(class_number=0, area=0)]
    to_try = int(rng.integers(1, MOST_OBJECTS + 1))
    while to_try > 0 or len(placed) == 1:
        _place(rng, picture, ids_HW, placed, light)
        to_try -= 1
    return Scene(_camera(rng, picture), *_masks(ids_HW, placed))


def _place(
    rng: np.random.Generator, picture_HW3: Float, ids_HW: NDArray[np.uint8], placed: list[_Placed], light: Light
) -> None:
    """Draw a random object where enough of it and of earlier ones stays visible; nothing if no such place is found."""
    class_number = int(rng.integers(1, len(CLASSES)))
    size = float(np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST))))
    colours = object_colours(rng)
    if rng.random() < CAMOUFLAGED:
        seen = picture_HW3[int(rng.integers(len(picture_HW3))), int(rng.integers(picture_HW3.shape[1]))]
        colours[0] = vary(rng, seen, 0.15)
    sprite = lit_sprite(rng, CLASSES[class_number], size, colours, light)
    solid = sprite.alpha_HW > 0.5
    area, (height, width) = int(solid.sum()), solid.shape
    for _ in range(PLACE_TRIES):
        left = int(rng.integers(-width // 3, ids_HW.shape[1] - width * 2 // 3))
        top = int(rng.integers(-height // 3, ids_HW.shape[0] - height * 2 // 3))
        where, part = crop_to(ids_HW.shape, solid.shape, left, top)
        after = ids_HW.copy()
        after[where][solid[part]] = len(placed)
        visible = np.bincount(after.ravel(), minlength=len(placed) + 1)
        areas = [*(other.area for other in placed), area]
        if all(visible[1:] >= LEAST_VISIBLE * np.array(areas[1:])):
            lay(picture_HW3, sprite, left, top, light)
            ids_HW[:] = after
            placed.append(_Placed(class_number, area))
            return


def _masks(ids_HW: NDArray[np.uint8], placed: list[_Placed]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Class and object masks: contours are void; objects that are more than contour are numbered from 1."""
    void_HW = _contour(ids_HW)
    present = np.bincount(ids_HW[~void_HW], minlength=len(placed)) > 0
    present[0] = False
    numbers = np.where(present, np.cumsum(present), 0).astype(np.uint8)
    classes_HW = np.array([one.class_number for one in placed], np.uint8)[ids_HW]
    objects_HW = numbers[ids_HW]
    classes_HW[void_HW] = objects_HW[void_HW] = VOID
    return classes_HW, objects_HW


def _contour(ids_HW: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels that have a pixel of another object, or of none, among their eight neighbours."""
    edge: NDArray[np.uint8] = cv2.morphologyEx(ids_HW, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    return edge > 0


def _camera(rng: np.random.Generator, picture_HW3: Float) -> NDArray[np.uint8]:
    """The scene as a camera sees it: exposure, tint, vignette, slight blur, sensor noise, 8 bits."""
    height, width = picture_HW3.shape[:2]
    if rng.random() < 0.7:
        picture_HW3 = cv2.GaussianBlur(picture_HW3, (0, 0), rng.uniform(0.3, 0.9))
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None]
    vignette = 1 - np.float32(rng.uniform(0, 0.3)) * (x * x + y * y) / 2
    gain = (rng.uniform(0.85, 1.2) * (1 + rng.normal(0, 0.04, 3))).astype(np.float32)
    seen = rng.standard_normal(picture_HW3.shape, dtype=np.float32)
    seen *= np.float32(rng.uniform(0.005, 0.03))
    seen += picture_HW3 * vignette[..., None] * gain
    seen *= 255
    seen += 0.5
    return np.clip(seen, 0, 255, out=seen).astype(np.uint8)
