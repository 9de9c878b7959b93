"""Which pixels of a mask are one object: from a mask of objects, or else the connected parts of a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.imaging.classes import VOID

BACKGROUND = 0
MIN_PART_PIXELS = 64
"""Connected parts of a class with fewer pixels are specks, not objects (only without an object mask)."""

UInt8Array = NDArray[np.uint8]
IntArray = NDArray[np.int32]


@dataclass(frozen=True)
class Objects:
    """The annotated objects of one image."""

    boxes_N4: NDArray[np.float32]
    """Tight boxes, half-open, in pixels of the full image."""
    class_ids_N: IntArray
    """Class of each object, 1..254."""
    object_ids_N: IntArray | None = None
    """Value of each object in the object mask; None without an object mask."""


NO_OBJECTS = Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.int32))


class ObjectMap(NamedTuple):
    """The objects of one image, pixel by pixel."""

    map_HW: IntArray
    """Number of the object at each pixel; other values than those of `ids_N` are none."""
    ids_N: IntArray
    class_ids_N: IntArray
    """Class of each object, 1..254."""


def object_map(class_mask_HW: UInt8Array, object_mask_HW: UInt8Array | None) -> ObjectMap:
    """Number the objects in an image.

    With an object mask, every value in it except 0 and 255 is an object. Its class is the most frequent one there in
    the class mask, void not counted; an object that is mostly background or void is dropped. Without an object mask,
    the objects are the 8-connected parts of each class, except those under `MIN_PART_PIXELS`.

    Args:
        class_mask_HW: class of each pixel, 255 for void.
        object_mask_HW: object number of each pixel, 0 for none and 255 for void; None: there is no such mask.

    Raises:
        ValueError: the masks differ in size.
    """
    if object_mask_HW is None:
        return _connected_parts(class_mask_HW)
    if object_mask_HW.shape != class_mask_HW.shape:
        raise ValueError(
            f"the object mask is {object_mask_HW.shape} pixels and the class mask {class_mask_HW.shape}; "
            "both must have the size of the image"
        )
    pixels = np.bincount(object_mask_HW.ravel() * np.intp(256) + class_mask_HW.ravel(), minlength=256 * 256)
    classes = pixels.reshape(256, 256)[:, :VOID].argmax(axis=1)  # background for a value that does not occur
    ids_N = np.array([number for number in range(1, VOID) if classes[number] != BACKGROUND], np.int32)
    return ObjectMap(object_mask_HW.astype(np.int32), ids_N, classes[ids_N].astype(np.int32))


def _connected_parts(class_mask_HW: UInt8Array) -> ObjectMap:
    map_HW = np.zeros(class_mask_HW.shape, np.int32)
    class_ids: list[int] = []
    for class_id in np.unique(class_mask_HW):
        if class_id in (BACKGROUND, VOID):
            continue
        of_class = (class_mask_HW == class_id).astype(np.uint8)
        _, parts_HW, stats, _ = cv2.connectedComponentsWithStats(of_class, connectivity=8)
        areas = stats[:, cv2.CC_STAT_AREA]
        numbers = np.zeros(len(areas), np.int32)
        for part in range(1, len(areas)):  # part 0 is the rest of the image
            if areas[part] >= MIN_PART_PIXELS:
                class_ids.append(int(class_id))
                numbers[part] = len(class_ids)
        map_HW += numbers[parts_HW]
    return ObjectMap(map_HW, np.arange(1, len(class_ids) + 1, dtype=np.int32), np.array(class_ids, np.int32))


def find_objects(class_mask_HW: UInt8Array, object_mask_HW: UInt8Array | None) -> Objects:
    """Tight boxes and classes of the objects in an image; rules, arguments and errors are those of `object_map`."""
    found = object_map(class_mask_HW, object_mask_HW)
    boxes_N4 = np.array([_box(found.map_HW == number) for number in found.ids_N], np.float32).reshape(-1, 4)
    return Objects(boxes_N4, found.class_ids_N, None if object_mask_HW is None else found.ids_N)


def _box(object_HW: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    x, y, w, h = cv2.boundingRect(object_HW.astype(np.uint8))
    return x, y, x + w, y + h
