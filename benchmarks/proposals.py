"""Recall of objects by EdgeBoxes, and its time per image."""

from __future__ import annotations

import statistics
import time
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.config import Proposals
from pipeline.config import ConfigError, DecodeConfig
from pipeline.datasets.layouts import voc_pairs
from pipeline.datasets.masks import load_mask, load_pair
from pipeline.datasets.objects import find_objects
from pipeline.imaging.geometry import box_iou
from pipeline.proposals.edgeboxes import keep, raw_boxes

LARGE = 0.05
"""Least share of the image that the box of a large object covers."""
LONG = 2.0
"""Least aspect ratio of a long object's box."""


def run(config: Proposals) -> list[dict[str, Any]]:
    """Recall at IoU 0.5 and 0.7 of the top k boxes, as EdgeBoxes returns them and as the network gets them.

    Raises:
        ConfigError: no image of the split has an object mask.
        FileNotFoundError: the folder has another layout, or no such split.
    """
    cv2.setNumThreads(1)
    large: list[NDArray[np.bool_]] = []
    long: list[NDArray[np.bool_]] = []
    recalls: dict[tuple[str, int], list[NDArray[np.float64]]] = {}
    seconds = []
    pairs = [one for one in voc_pairs(config.data, config.split, all_if_unlisted=True) if one.object_mask_uri]
    if not pairs[: config.limit]:
        raise ConfigError(f"{config.data} has no image of {config.split} with a mask in SegmentationObject to measure")
    for pair in pairs[: config.limit]:
        assert pair.object_mask_uri is not None
        image_HW3, class_mask_HW = load_pair(pair.image_uri, pair.class_mask_uri, DecodeConfig().max_megapixels)
        objects = find_objects(class_mask_HW, load_mask(pair.object_mask_uri))
        sides_N2 = objects.boxes_N4[:, 2:] - objects.boxes_N4[:, :2]
        large.append(sides_N2.prod(axis=1) > LARGE * class_mask_HW.size)
        long.append(sides_N2.max(axis=1) > LONG * sides_N2.min(axis=1))
        started = time.perf_counter()
        raw = raw_boxes(image_HW3, config.propose)
        seconds.append(time.perf_counter() - started)
        # Compared with objects before they are extended.
        kept_N4 = keep(raw, image_HW3.shape[0], image_HW3.shape[1], config.propose).boxes_N4
        for k in (10, 50, 200, 2000):
            best_N = box_iou(objects.boxes_N4, raw.boxes_N4[:k]).max(axis=1, initial=0)
            recalls.setdefault(("raw", k), []).append(best_N)
        recalls.setdefault(("filtered", config.propose.proposals), []).append(
            box_iou(objects.boxes_N4, kept_N4).max(axis=1, initial=0)
        )
    large_N, long_N = np.concatenate(large), np.concatenate(long)
    return [
        {"boxes": name, "top": k, "objects": len(found := np.concatenate(ious)), "recall 0.5": (found >= 0.5).mean(),
         "recall 0.7": (found >= 0.7).mean(), "large, 0.5": (found[large_N] >= 0.5).mean(),
         "long, 0.5": (found[long_N] >= 0.5).mean() if long_N.any() else float("nan"),
         "seconds, median": statistics.median(seconds), "seconds, worst": max(seconds)}
        for (name, k), ious in recalls.items()
    ]  # fmt: skip
