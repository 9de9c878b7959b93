"""Which window of which photograph a training step of the light DeconvNet sees, and with which labels.

There is no search for proposals: windows lie around objects at random, with the sizes and offsets that proposals have.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.imaging.classes import VOID
from pipeline.imaging.geometry import CROP
from pipeline.training.fcn.crops import Image, recoloured

EXTEND = 1.2
"""Side of an object's tight window relative to the object's longer side, as at inference."""
SCALES = {1: (0.9, 1.3), 2: (0.8, 2.5)}
"""By stage: range of a window's side relative to the tight one."""
SHIFT = {1: 0.1, 2: 0.25}
"""By stage: largest offset of an object from a window's centre, relative to the window's side."""
WHOLE = 0.2
"""Share of the second stage's windows that show the whole photograph."""
WHOLE_SCALES = (1.0, 1.25)
"""Their side relative to the photograph's longer side."""
SMALLEST = 0.2
"""Smallest window relative to the photograph's longer side; smaller proposals are skipped at inference."""
SMALLEST_OBJECT = 0.002
"""Smallest part of a class that counts as an object, relative to the photograph's area; if none does, all count."""


class Object(NamedTuple):
    """A connected part of a class."""

    pixels_HW: NDArray[np.bool_]
    box_4: tuple[float, float, float, float]
    """`x0, y0, x1, y1`, half-open."""


def object_of(mask_HW: Image, label: int, rng: np.random.Generator) -> Object:
    """One of the parts of a class in a mask that shows it, drawn at random.

    Args:
        mask_HW: labels, uint8.
        label: a class that the mask shows.
        rng: the randomness.
    """
    count, parts_HW, stats, _ = cv2.connectedComponentsWithStats((mask_HW == label).astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    large = np.flatnonzero(areas >= SMALLEST_OBJECT * mask_HW.size)
    part = 1 + int(rng.choice(large) if len(large) else areas.argmax()) if count > 1 else 0
    x, y, width, height = (float(value) for value in stats[part, :4])
    return Object(parts_HW == part, (x, y, x + width, y + height))


def square_of(
    box_4: tuple[float, ...], shape: tuple[int, int], stage: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """A square window around an object; in the second stage, sometimes around the whole photograph.

    Args:
        box_4: the object's box, in pixels of the photograph.
        shape: height and width of the photograph.
        stage: 1 or 2.
        rng: the randomness.

    Returns:
        Left, top and side, in pixels of the photograph.
    """
    longer = max(shape)
    if stage == 2 and rng.random() < WHOLE:
        side = longer * float(rng.uniform(*WHOLE_SCALES))
        x, y = shape[1] / 2, shape[0] / 2
    else:
        x0, y0, x1, y1 = box_4
        scale = float(np.exp(rng.uniform(*np.log(SCALES[stage]))))
        side = float(np.clip(EXTEND * max(x1 - x0, y1 - y0) * scale, SMALLEST * longer, longer))
        x, y = (
            float((low + high) / 2 + rng.uniform(-SHIFT[stage], SHIFT[stage]) * side)
            for low, high in ((x0, x1), (y0, y1))
        )
    return x - side / 2, y - side / 2, side


def cut(image_HW3: Image, mask_HW: Image, label: int, stage: int, rng: np.random.Generator) -> tuple[Image, Image]:
    """A window with an object of a class, resampled as at inference, maybe mirrored, with slightly changed colours.

    Args:
        image_HW3: RGB.
        mask_HW: labels of the same size.
        label: a class that the mask shows.
        stage: 1: tight around the object; only its pixels keep their label, and all others become background, except
            void; 2: anywhere around it, with all labels (paper section 4.2).
        rng: the randomness.

    Returns:
        RGB `[224, 224, 3]` and labels `[224, 224]`; outside the photograph black and `VOID`.
    """
    found = object_of(mask_HW, label, rng)
    if stage == 1:
        mask_HW = np.where(found.pixels_HW | (mask_HW == VOID), mask_HW, 0).astype(np.uint8)
    left, top, side = square_of(found.box_4, (mask_HW.shape[0], mask_HW.shape[1]), stage, rng)
    step = side / CROP
    # Pixel centres: the window's pixel i lies at start + (i + 0.5) * step - 0.5 in OpenCV's coordinates.
    matrix_23 = np.array([[step, 0, left + 0.5 * step - 0.5], [0, step, top + 0.5 * step - 0.5]])
    if rng.random() < 0.5:
        matrix_23[0] = -step, 0, left + side - 0.5 * step - 0.5
    image = cv2.warpAffine(image_HW3, matrix_23, (CROP, CROP), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    mask = cv2.warpAffine(
        mask_HW, matrix_23, (CROP, CROP), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT, borderValue=VOID,
    )  # fmt: skip
    inside_HW1 = _inside(matrix_23, (mask_HW.shape[0], mask_HW.shape[1]))[..., None]
    return recoloured(np.asarray(image, np.uint8), rng) * inside_HW1, np.asarray(mask, np.uint8)


def _inside(matrix_23: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixels of a window lie on the photograph, `[224, 224]`."""
    places = np.arange(CROP)
    xs, ys = matrix_23[0, 0] * places + matrix_23[0, 2], matrix_23[1, 1] * places + matrix_23[1, 2]
    on_x, on_y = (np.abs(at - (n - 1) / 2) <= n / 2 for at, n in ((xs, shape[1]), (ys, shape[0])))
    inside: NDArray[np.bool_] = on_y[:, None] & on_x[None]
    return inside
