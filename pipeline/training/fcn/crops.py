"""Which crop of which photograph a training step sees; follows from the seed, the step and the place in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.imaging.classes import VOID

Image = NDArray[np.uint8]

LONG_SIDE = 320
"""The photograph's longer side in pixels at scale 1."""
SCALES = (0.7, 1.7)
"""Range of the random scale."""
BALANCE = 0.3
"""A class with n photographs is drawn with a probability proportional to n to this power."""
GAIN, SATURATION, TINT = 0.3, 0.4, 12.0
"""Largest random changes: of brightness and contrast, of saturation (exponents of factors), and of each channel."""
GREY = 127
"""Value around the photograph; the network's input is 0 there."""


class Choice(NamedTuple):
    """A class and a photograph that shows it."""

    label: int
    photograph: int


@dataclass(frozen=True)
class Draw:
    """Draws a class first, then one of its photographs: rare classes are seen more often than they occur."""

    photographs_of: tuple[tuple[int, ...], ...]
    """For each class, background included, the numbers of the photographs that show it; background is not drawn."""
    probabilities: NDArray[np.float64]

    def __call__(self, rng: np.random.Generator) -> Choice:
        """Draw one."""
        label = int(rng.choice(len(self.probabilities), p=self.probabilities))
        photographs = self.photographs_of[label]
        return Choice(label, photographs[rng.integers(len(photographs))])


def draw_of(labels: Sequence[Sequence[int]], num_classes: int) -> Draw:
    """The draw over photographs, given the labels that each shows.

    Raises:
        ValueError: no photograph shows anything but background.
    """
    photographs_of = tuple(
        tuple(number for number, shown in enumerate(labels) if label in shown) for label in range(num_classes)
    )
    weights = np.array([len(photographs) ** BALANCE if photographs else 0.0 for photographs in photographs_of])
    weights[0] = 0
    if weights.sum() == 0:
        raise ValueError("no class but background is in any mask: there is nothing to learn")
    return Draw(photographs_of, weights / weights.sum())


def rng_of(seed: int, step: int, place: int) -> np.random.Generator:
    """The random generator of one crop; a resumed run, or one with another number of workers, draws the same.

    Args:
        seed: the run's seed.
        step: number of the step.
        place: the crop's place in the batch of all workers.
    """
    return np.random.default_rng([seed, step, place])


def cut(image_HW3: Image, mask_HW: Image, label: int, side: int, rng: np.random.Generator) -> tuple[Image, Image]:
    """A square of a photograph at a random scale that shows a class, maybe mirrored, with slightly changed colours.

    Args:
        image_HW3: RGB.
        mask_HW: labels of the same size.
        label: the class that the square shows, if the mask has it.
        side: of the square, in pixels.
        rng: the randomness.

    Returns:
        RGB `[side, side, 3]` and labels `[side, side]`; `VOID` outside the photograph.
    """
    scale = float(np.exp(rng.uniform(*np.log(SCALES)))) * LONG_SIDE / max(mask_HW.shape)
    window = side / scale
    ys, xs = np.nonzero(mask_HW == label)
    at = int(rng.integers(len(ys))) if len(ys) else 0
    y, x = (int(ys[at]), int(xs[at])) if len(ys) else (mask_HW.shape[0] // 2, mask_HW.shape[1] // 2)
    top, left = (_start(place, size, window, rng) for place, size in zip((y, x), mask_HW.shape, strict=True))
    # Pixel centres: the output's pixel i lies at (i + 0.5) / scale + start - 0.5 of the photograph.
    matrix_23 = np.array([[1 / scale, 0, 0.5 / scale + left - 0.5], [0, 1 / scale, 0.5 / scale + top - 0.5]])
    if rng.random() < 0.5:
        matrix_23[0] = -1 / scale, 0, left + window - 0.5 / scale - 0.5
    if scale < 0.75:  # smooth before scaling down, against aliasing
        image_HW3 = np.asarray(cv2.GaussianBlur(image_HW3, (0, 0), 0.4 / scale), np.uint8)
    image = cv2.warpAffine(
        image_HW3, matrix_23, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT, borderValue=(GREY, GREY, GREY),
    )  # fmt: skip
    mask = cv2.warpAffine(
        mask_HW, matrix_23, (side, side), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT, borderValue=VOID,
    )  # fmt: skip
    return recoloured(np.asarray(image, np.uint8), rng), np.asarray(mask, np.uint8)


def _start(place: int, size: int, window: float, rng: np.random.Generator) -> float:
    """Start of a window that holds a place; the window lies inside the photograph if it fits, around it if not."""
    if window >= size:
        return float(rng.uniform(size - window, 0))
    return float(np.clip(rng.uniform(place - window, place), 0, size - window))


def recoloured(image_HW3: Image, rng: np.random.Generator) -> Image:
    """The image with slightly changed brightness, contrast, saturation and tint."""
    brightness, contrast = np.exp(rng.uniform(-GAIN, GAIN, 2))
    saturation = np.exp(rng.uniform(-SATURATION, SATURATION))
    grey_HW1 = (image_HW3 @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    mean = float(grey_HW1.mean())
    x_HW3 = grey_HW1 + (image_HW3 - grey_HW1) * np.float32(saturation)
    x_HW3 = (x_HW3 - mean) * np.float32(contrast) + np.float32(mean * brightness)
    x_HW3 += rng.uniform(-TINT, TINT, 3).astype(np.float32)
    return np.clip(x_HW3, 0, 255).astype(np.uint8)
