"""Label maps against ground truth: confusion matrix, intersection over union, pixel accuracy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.imaging.classes import VOID


def confusion_matrix(truth_HW: NDArray[np.uint8], labels_HW: NDArray[np.uint8], num_classes: int) -> NDArray[np.int64]:
    """Count pixels by true and predicted class, without those whose truth is void (255).

    Args:
        truth_HW: uint8, labels below `num_classes`, or void.
        labels_HW: uint8, predicted labels below `num_classes`, of the same size.
        num_classes: background included.

    Returns:
        int64 `[C, C]`; rows are true, columns predicted classes. Matrices of several images add up.

    Raises:
        ValueError: the maps differ in size, or hold a label that is not a class.
    """
    if truth_HW.shape != labels_HW.shape:
        turned = "; it seems to have been drawn before the photograph was turned as its EXIF orientation says"
        raise ValueError(f"the ground truth is {_size(truth_HW)} pixels, the result {_size(labels_HW)}"
                         f"{turned if truth_HW.shape == labels_HW.shape[::-1] else ''}")  # fmt: skip
    counted_HW = truth_HW != VOID
    true, predicted = truth_HW[counted_HW].astype(np.int64), labels_HW[counted_HW]
    for name, labels in (("ground truth", true), ("result", labels_HW)):
        if labels.size and labels.max() >= num_classes:
            raise ValueError(f"the {name} holds label {labels.max()}, but there are only {num_classes} classes")
    pairs = np.bincount(true * num_classes + predicted, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes).astype(np.int64)


def per_class_iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union: a class's right pixels, divided by those that have it in truth or prediction.

    Returns:
        float64 `[C]` in 0..1; NaN for a class that is in neither.
    """
    right = np.diag(confusion).astype(np.float64)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - right
    ious = np.full(len(right), np.nan)
    np.divide(right, union, out=ious, where=union > 0)
    return ious


def mean_iou(confusion: NDArray[np.int64]) -> float:
    """VOC's measure: the mean of `per_class_iou` over the classes in truth or prediction; NaN without pixels."""
    ious = per_class_iou(confusion)
    present = ious[~np.isnan(ious)]
    return float(present.mean()) if present.size else float("nan")


def pixel_accuracy(confusion: NDArray[np.int64]) -> float:
    """Share of the counted pixels whose label is right, 0..1; NaN if there are no pixels."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else float("nan")


def _size(labels_HW: NDArray[np.uint8]) -> str:
    return "x".join(str(side) for side in reversed(labels_HW.shape))
