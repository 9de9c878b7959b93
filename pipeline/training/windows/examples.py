"""The rules that turn an annotated image into training windows (paper sections 4 and 6): pure functions, no files.

Stage 1 (easy): one window around every object, labelled with the class of that object only.
Stage 2 (hard): object proposals that overlap an object enough, labelled with everything in the window.
Both: windows of rare classes are repeated, so that every class is seen about equally often.

Masks hold class ids; 0 is background and 255 is void: pixels without a label, which the loss ignores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config.stages import WindowShape
from pipeline.datasets.objects import BACKGROUND, NO_OBJECTS, IntArray, Objects, UInt8Array
from pipeline.imaging.classes import VOID
from pipeline.imaging.geometry import box_iou, extend_boxes

FloatArray = NDArray[np.floating]


@dataclass(frozen=True)
class Windows:
    """The training windows of one image, for one stage."""

    boxes_N4: NDArray[np.float32]
    """Extended boxes, half-open, in pixels of the full image; they may leave it."""
    class_ids_N: IntArray
    """Class of the object each window is for."""
    overlaps_N: NDArray[np.float32]
    """IoU of the unextended box with that object's tight box; 1 in stage 1."""


def stage1_windows(objects: Objects, extend: float, shape: WindowShape = "box") -> Windows:
    """One window per object, in their order: its tight box extended about its centre.

    Args:
        objects: the objects of the image.
        extend: factor of the extension, 1.2 in the paper.
        shape: shape of the windows.
    """
    return Windows(
        extend_boxes(objects.boxes_N4, extend, shape),
        objects.class_ids_N,
        np.ones(len(objects.class_ids_N), dtype=np.float32),
    )


def stage2_windows(
    objects: Objects,
    proposal_boxes_N4: FloatArray,
    scores_N: FloatArray,
    *,
    min_iou: float,
    windows_per_image: int,
    extend: float,
    shape: WindowShape = "box",
) -> Windows:
    """Proposals that overlap an object enough, as windows.

    A proposal belongs to the object whose tight box it overlaps best, and counts when that overlap is at least
    `min_iou`. When more count than `windows_per_image`, the best-scored proposal of every object is taken first, then
    every object's second, and so on, so that one large object does not take all places.

    Args:
        objects: the objects of the image.
        proposal_boxes_N4: boxes as EdgeBoxes returns them, neither extended nor filtered.
        scores_N: their scores, higher is better.
        min_iou: least overlap, 0..1, inclusive.
        windows_per_image: most windows returned.
        extend: factor by which the chosen boxes are extended about their centres.
        shape: shape of the windows.
    """
    iou_NM = box_iou(proposal_boxes_N4, objects.boxes_N4)
    if iou_NM.size == 0:
        return stage1_windows(NO_OBJECTS, extend)
    object_N, overlap_N = iou_NM.argmax(axis=1), iou_NM.max(axis=1)
    best_scored_first = np.argsort(-np.asarray(scores_N), kind="stable")
    chosen = best_scored_first[overlap_N[best_scored_first] >= min_iou]
    turn = _occurrence(object_N[chosen])
    chosen = chosen[np.argsort(turn, kind="stable")][:windows_per_image]
    return Windows(
        extend_boxes(np.asarray(proposal_boxes_N4)[chosen], extend, shape),
        objects.class_ids_N[object_N[chosen]],
        overlap_N[chosen].astype(np.float32),
    )


def any_windows(
    objects: Objects,
    shown_boxes_N4: FloatArray,
    *,
    count: int,
    min_iou: float,
    extend: float,
    shape: WindowShape = "box",
) -> Windows:
    """Some of the windows that inference would use, whatever they overlap (not in the paper).

    Args:
        objects: the objects of the image.
        shown_boxes_N4: the boxes that inference would use, not extended, best first.
        count: how many of them to take, evenly spread over their order.
        min_iou: a box that overlaps every object's tight box less than this gets class 0, background.
        extend: factor by which the boxes are extended about their centres.
        shape: shape of the windows.
    """
    picked = np.unique(np.linspace(0, len(shown_boxes_N4) - 1, min(count, len(shown_boxes_N4))).round().astype(int))
    boxes_N4 = np.asarray(shown_boxes_N4, dtype=np.float32)[picked]
    iou_NM = box_iou(boxes_N4, objects.boxes_N4)
    overlap_N = iou_NM.max(axis=1, initial=0)
    class_N = objects.class_ids_N[iou_NM.argmax(axis=1)] if iou_NM.size else np.zeros(len(boxes_N4), np.int32)
    windows_N4 = extend_boxes(boxes_N4, extend, shape)
    return Windows(windows_N4, np.where(overlap_N >= min_iou, class_N, BACKGROUND), overlap_N.astype(np.float32))


def listed_windows(class_mask_HW: UInt8Array, boxes_N4: FloatArray) -> Windows:
    """Windows from a list; each is for the class with most of its pixels, background not counted.

    Args:
        class_mask_HW: class of each pixel, 255 for void.
        boxes_N4: the windows, in whole pixels; they may leave the image.
    """
    class_ids = []
    for x0, y0, x1, y1 in np.asarray(boxes_N4, dtype=int).clip(0, None).tolist():
        counts = np.bincount(class_mask_HW[y0:y1, x0:x1].ravel(), minlength=VOID + 1)[:VOID]
        counts[BACKGROUND] = 0
        class_ids.append(int(counts.argmax()))  # background if there is no other class
    boxes_N4 = np.asarray(boxes_N4, dtype=np.float32)
    return Windows(boxes_N4, np.array(class_ids, np.int32), np.ones(len(boxes_N4), np.float32))


def join_windows(first: Windows, second: Windows) -> Windows:
    """The windows of one image from both, those of `first` before those of `second`."""
    return Windows(
        np.concatenate([first.boxes_N4, second.boxes_N4]),
        np.concatenate([first.class_ids_N, second.class_ids_N]).astype(np.int32),
        np.concatenate([first.overlaps_N, second.overlaps_N]),
    )


def balance(class_ids_N: NDArray[np.integer], max_repeats: int) -> IntArray:
    """How often each window is shown in an epoch, so that all classes are shown equally often.

    Windows of background are shown once and do not count. Another class with n windows is shown
    `min(largest class, n * max_repeats)` times, exactly: if that is not a multiple of n, some of its windows are shown
    once more than others, spread evenly over their order. The largest class's windows are shown once each.

    Args:
        class_ids_N: class of each window.
        max_repeats: most times one window is shown, at least 1.

    Returns:
        int32 `[N]`, each in 1..max_repeats.
    """
    repeats_of_all_N: IntArray = np.ones(len(class_ids_N), dtype=np.int32)
    of_object_N = np.asarray(class_ids_N) != BACKGROUND
    _, class_N, counts_C = np.unique(class_ids_N[of_object_N], return_inverse=True, return_counts=True)
    if counts_C.size == 0:
        return repeats_of_all_N
    totals_C = np.minimum(counts_C.max(), counts_C * max_repeats)
    count_N, total_N, k_N = counts_C[class_N], totals_C[class_N], _occurrence(class_N)
    repeats_of_all_N[of_object_N] = (k_N + 1) * total_N // count_N - k_N * total_N // count_N
    return repeats_of_all_N


def _occurrence(keys_N: NDArray[np.integer]) -> NDArray[np.intp]:
    """How many equal keys come before each key: `[a, b, a, a]` gives `[0, 0, 1, 2]`."""
    order = np.argsort(keys_N, kind="stable")
    _, first, counts = np.unique(keys_N[order], return_index=True, return_counts=True)
    occurrence = np.empty(len(keys_N), dtype=np.intp)
    occurrence[order] = np.arange(len(keys_N)) - np.repeat(first, counts)
    return occurrence


def stage1_labels(label_HW: UInt8Array, class_id: int, object_HW: NDArray[np.bool_] | None = None) -> UInt8Array:
    """Labels of a stage-1 window: the centred object keeps its class, void stays void, all else becomes background.

    Args:
        label_HW: class of each pixel, 255 for void.
        class_id: class of the centred object.
        object_HW: its pixels; None: all pixels of its class keep their label.
    """
    kept_HW = label_HW == class_id
    if object_HW is not None:
        kept_HW &= object_HW
    labels: UInt8Array = label_HW * (kept_HW | (label_HW == VOID))
    return labels
