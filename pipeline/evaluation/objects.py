"""Scores of single objects by their size: the paper's figure 1 has very large and very small ones that an FCN misses.

A mask of classes does not say which object a wrong pixel belongs to. Here it counts against the nearest object of its
class.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.objects import MIN_PART_PIXELS, object_map
from pipeline.evaluation.bootstrap import ratio_interval
from pipeline.imaging.classes import VOID

SIZES = (0.0, 0.01, 0.05, 0.2, 1.0)
"""Bounds of the groups, as shares of the image; an object of exactly a bound is in the group above it."""


class ScoredObject(NamedTuple):
    """One object of a ground truth, and how well it was found."""

    class_id: int
    share: float
    """Its share of the image's pixels, above 0, at most 1."""
    parts: int
    """Its 8-connected parts of `MIN_PART_PIXELS` or more: several where something lies in front of it."""
    iou: float
    """0..1; 0: it was missed."""


def score_objects(
    truth_HW: NDArray[np.uint8], object_mask_HW: NDArray[np.uint8] | None, labels_HW: NDArray[np.uint8]
) -> list[ScoredObject]:
    """Score each object of an image.

    An object's IoU is that of the pixels with its class in the result that lie in it, or outside of all objects of its
    class and nearer to it than to others of its class (the first of equally near ones). Void pixels do not count, nor
    do pixels of its class that belong to no object (specks, see `object_map`).

    Args:
        truth_HW: class of each pixel, 255 for void.
        object_mask_HW: object number of each pixel, 0 for none and 255 for void; None: the connected parts are objects.
        labels_HW: predicted class of each pixel, of the same size.

    Raises:
        ValueError: the masks differ in size.
    """
    found = object_map(truth_HW, object_mask_HW)
    scored = []
    for class_id in np.unique(found.class_ids_N):
        numbers = found.ids_N[found.class_ids_N == class_id]
        objects_NHW = (found.map_HW == numbers[:, None, None]) & (truth_HW == class_id)
        found_HW = labels_HW == class_id
        strays_HW = found_HW & (truth_HW != class_id) & (truth_HW != VOID)
        strays_N = _strays(objects_NHW, strays_HW)
        for object_HW, strays in zip(objects_NHW, strays_N, strict=True):
            pixels, right = int(object_HW.sum()), int((object_HW & found_HW).sum())
            parts = _parts(object_HW)
            scored.append(ScoredObject(int(class_id), pixels / truth_HW.size, parts, right / (pixels + strays)))
    return scored


def _strays(objects_NHW: NDArray[np.bool_], strays_HW: NDArray[np.bool_]) -> list[int]:
    """How many of the wrong pixels are nearest to each object."""
    if len(objects_NHW) == 1 or not strays_HW.any():
        return [int(strays_HW.sum()), *[0] * (len(objects_NHW) - 1)]
    distances_NP = np.stack([
        cv2.distanceTransform((~object_HW).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[strays_HW]
        for object_HW in objects_NHW
    ])  # fmt: skip
    # Squares of distances are whole numbers: rounded, so that equally near objects are so whatever the last bit is.
    nearest_P = (distances_NP**2).round().argmin(axis=0)
    return [int((nearest_P == number).sum()) for number in range(len(objects_NHW))]


def _parts(object_HW: NDArray[np.bool_]) -> int:
    _, _, stats, _ = cv2.connectedComponentsWithStats(object_HW.astype(np.uint8), connectivity=8)
    return int((stats[1:, cv2.CC_STAT_AREA] >= MIN_PART_PIXELS).sum())


def by_size(objects_of: Sequence[Sequence[ScoredObject]]) -> list[dict[str, Any]]:
    """Means over the objects of each size, and over those in several parts, as JSON values.

    Args:
        objects_of: the objects of each image.

    Returns:
        An entry for each group: `objects`, their number; `mean_iou`, with its bootstrap interval over images; `missed`,
        the share of objects of which no pixel has their class. None where there are no objects.
    """
    rows = []
    for group, (low, high) in enumerate(pairwise(SIZES)):
        members = [[one for one in objects if _group(one) == group] for objects in objects_of]
        rows.append({"share_from": low, "share_to": high} | _means(members))
    in_parts = [[one for one in objects if one.parts > 1] for objects in objects_of]
    return [*rows, {"parts_from": 2} | _means(in_parts)]


def _group(one: ScoredObject) -> int:
    return int(np.searchsorted(SIZES[1:-1], one.share, side="right"))


def _means(objects_of: list[list[ScoredObject]]) -> dict[str, Any]:
    counts_N = np.array([len(objects) for objects in objects_of])
    sums_N = np.array([sum(one.iou for one in objects) for objects in objects_of], np.float64)
    total = int(counts_N.sum())
    if not total:
        return {"objects": 0, "mean_iou": None, "mean_iou_interval": None, "missed": None}
    missed = sum(one.iou == 0 for objects in objects_of for one in objects)
    return {
        "objects": total,
        "mean_iou": float(sums_N.sum() / total),
        "mean_iou_interval": list(ratio_interval(sums_N, counts_N)),
        "missed": missed / total,
    }
