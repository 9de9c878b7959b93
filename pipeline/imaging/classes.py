"""Class names and colours: PASCAL VOC's 21 by default, any list of 2 to 255 names otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

VOID = 255
"""Label of pixels that neither train nor count (VOC's object contours)."""

VOC_CLASSES: tuple[str, ...] = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""PASCAL VOC's classes in the order of their labels, background first."""


def voc_palette() -> NDArray[np.uint8]:
    """Return the VOC colour map, which spreads a label's bits over the high bits of red, green and blue.

    Bits 0, 3 and 6 of the label are red's bits 7, 6 and 5; bits 1, 4, 7 green's; bits 2, 5 blue's.

    Returns:
        RGB colours, uint8 `[256, 3]`; row `VOID` is VOC's cream-white contour.
    """
    labels = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= ((labels >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return colours


def class_table(names: Iterable[str]) -> list[dict[str, Any]]:
    """Number, name and colour (as in palette masks, RGB, 0..255) of each class, as JSON values."""
    colours = voc_palette()
    return [{"number": i, "name": name, "colour": colours[i].tolist()} for i, name in enumerate(names)]


def check_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Return `names` as a tuple if they can be the classes of a run: background first, labels 0 to 254.

    Raises:
        ValueError: fewer than 2 or more than 255 names, an empty name, or a name that occurs twice.
    """
    classes = tuple(names)
    if not 2 <= len(classes) < VOID + 1:
        raise ValueError(f"{len(classes)} class names; need 2 to {VOID}, background first ({VOID} itself means void)")
    for label, name in enumerate(classes):
        if not name.strip():
            raise ValueError(f"the name of class {label} is empty; give every class a name")
        if name in classes[:label]:
            raise ValueError(f"class name {name!r} occurs twice, for labels {classes.index(name)} and {label}")
    return classes
