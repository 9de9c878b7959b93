"""Results near object boundaries: the trimap experiment of Kohli et al. (2009), as DeepLab ran it on VOC (2015).

Only pixels within r pixels of a boundary of the ground truth are counted, for r = 1, 2, ... That is where a CRF should
help most.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.imaging.classes import VOID


def boundary_distances(truth_HW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Distance of each pixel from the nearest pixel with another label, centre to centre.

    Void is a label like any other here. In VOC, where void contours about five pixels wide surround the objects,
    distances therefore start at the edges of the contours, as in DeepLab's experiment. The image's border is not a
    boundary.

    Returns:
        float32 `[H, W]` in pixels, at least 1; infinite where the whole map has one label.
    """
    present = np.unique(truth_HW)
    distances_HW = np.full(truth_HW.shape, np.inf, dtype=np.float32)
    if len(present) > 1:
        for label in present:
            own_HW = truth_HW == label
            inside_HW = cv2.distanceTransform(own_HW.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            distances_HW[own_HW] = inside_HW[own_HW]
    return distances_HW


def trimap_confusions(
    truth_HW: NDArray[np.uint8], labels_HW: NDArray[np.uint8], num_classes: int, widest: int
) -> NDArray[np.int64]:
    """Confusion matrices of the pixels within 1, 2, ... `widest` pixels of a boundary, void ones left out.

    Args:
        truth_HW: labels below `num_classes`, or void.
        labels_HW: predicted labels below `num_classes`, of the same size.
        num_classes: background included.
        widest: half the width of the widest band, in pixels.

    Returns:
        int64 `[widest, C, C]`; rows are true, columns predicted classes. Matrices of several images add up.
    """
    # Distances are roots of whole numbers: those above r exceed it by more than the slack, which is there for rounding.
    band_HW = np.ceil(boundary_distances(truth_HW) - 1e-3)
    counted_HW = (truth_HW != VOID) & (band_HW <= widest)
    band, true = band_HW[counted_HW].astype(np.int64) - 1, truth_HW[counted_HW].astype(np.int64)
    triples = (band * num_classes + true) * num_classes + labels_HW[counted_HW]
    counts = np.bincount(triples, minlength=widest * num_classes**2).reshape(widest, num_classes, num_classes)
    return counts.cumsum(axis=0, dtype=np.int64)
