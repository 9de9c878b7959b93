"""The photographs of the training: reading them, and which classes each shows."""

from __future__ import annotations

import numpy as np

from pipeline.config import DecodeConfig
from pipeline.datasets.coco import draw_masks
from pipeline.datasets.layouts import Pair
from pipeline.datasets.masks import UInt8Array, check_sizes, load_image, load_pair
from pipeline.imaging.classes import VOID

MAX_MEGAPIXELS = DecodeConfig().max_megapixels


def load(pair: Pair) -> tuple[UInt8Array, UInt8Array]:
    """A photograph, uint8 RGB `[H, W, 3]`, and its class mask, uint8 `[H, W]`.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file cannot be used, or the mask does not fit; the message names it.
    """
    if pair.annotations is None:
        return load_pair(pair.image_uri, pair.class_mask_uri, MAX_MEGAPIXELS)
    image_HW3 = load_image(pair.image_uri, MAX_MEGAPIXELS)
    class_mask_HW = draw_masks(pair.annotations)[0]
    check_sizes(image_HW3, class_mask_HW, f"{pair.image_uri} as annotated")
    return image_HW3, class_mask_HW


def labels_of(pair: Pair, num_classes: int) -> list[int]:
    """The labels that a photograph shows, ascending, void left out.

    Raises:
        OSError, ValueError: as `load`, or the mask has labels that are not classes.
    """
    labels = np.unique(load(pair)[1])
    labels = labels[labels != VOID]
    if labels.size and labels[-1] >= num_classes:
        raise ValueError(
            f"{pair.class_mask_uri} has label {labels[-1]}, but there are {num_classes} classes (0..{num_classes - 1}, "
            f"and {VOID} for void); give the right list of classes"
        )
    return [int(label) for label in labels]


def looked_at(pairs: list[Pair], num_classes: int) -> list[list[int] | str]:
    """`labels_of` each photograph, or what is wrong with it."""
    found: list[list[int] | str] = []
    for pair in pairs:
        try:
            found.append(labels_of(pair, num_classes))
        except (OSError, ValueError) as error:
            found.append(str(error))
    return found
