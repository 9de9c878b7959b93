"""Object proposals by EdgeBoxes (Zitnick and Dollar 2014; paper section 6; the filter is the release's)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.config import ProposeConfig
from pipeline.config.stages import WindowShape
from pipeline.imaging.geometry import extend_boxes
from pipeline.proposals.detectors import find_edges

FloatArray = NDArray[np.float32]

# Chosen on 179 VOC 2012 train images (305 objects). With these and `learned_edges`, recall at IoU 0.5 / 0.7 of the 50
# best boxes is 0.75 / 0.57, of 2000 0.96 / 0.76. Also tried on the learned edges, with changes within 0.02 and so left
# at OpenCV's defaults: kappa 1.3, edgeMergeThr 0.3 and 0.8, clusterMinMag 0.2 and 1, strengths to the power 0.5 to 2.
ALPHA = 0.55
"""IoU of neighbouring sliding windows: a coarser, faster search than OpenCV's 0.65, with the same recall of 50."""
MAX_ASPECT_RATIO = 4.0
"""Largest aspect ratio of a window. With this ALPHA there are five ratios; 3 gives three, and 0.03 less recall."""
BETA = 0.7
"""Non-maximum suppression of boxes. OpenCV's 0.75 gives 0.03 less recall of 50 at IoU 0.5 and 0.01 less at 0.7, but
2000 boxes find 0.05 more at 0.7."""
MAX_EDGE_FRACTION = 0.08
"""Share of an image's pixels that may be edges: the time of EdgeBoxes grows fast with their number. A third of the
photographs have a few more, and lose no recall. Noise, text and mosaics have 0.17 to 0.5: with this limit, 640x480
pixels of noise take 0.6 s instead of 6.5 with the gradient, which sees edges everywhere in them."""
SMALLEST_SIDE = 32
"""Images with a shorter side, in pixels, are not searched: EdgeBoxes' smallest box has 1000 pixels."""
LARGEST_HALF_PERIMETER = 20_000
"""On images whose width and height sum to more, OpenCV's EdgeBoxes reads past the end of one of its tables."""


@dataclass(frozen=True)
class Proposals:
    """Boxes of one image, best first; either as they were found, or as the windows around them."""

    boxes_N4: FloatArray
    """`x0, y0, x1, y1`, half-open, in pixels of the image."""
    scores_N: FloatArray
    """EdgeBoxes' score, 0 or more: contour strength wholly inside the box, relative to its perimeter."""


def propose(image_HW3: NDArray[np.uint8], config: ProposeConfig) -> Proposals:
    """The windows that the network sees: EdgeBoxes extended, small ones skipped, the best kept (paper section 6).

    If no box is left (a flat or tiny image), the whole image, extended like any box, is the only proposal, with score
    0. The same image gives the same boxes on machines of one kind if NumPy has the same number of threads (Ray gives
    each task one); with another number the edge network's sums are rounded differently, and a box or two may change.

    Returns:
        1 to `config.proposals` boxes; extended, so they may leave the image.

    Raises:
        ValueError: the image is not uint8 RGB or is too large; `edge_model` is not a model.
        FileNotFoundError: `edge_model` does not exist.
    """
    return choose(raw_boxes(image_HW3, config), image_HW3.shape[0], image_HW3.shape[1], config)


def choose(found: Proposals, height: int, width: int, config: ProposeConfig) -> Proposals:
    """The part of `propose` after EdgeBoxes: the windows around the boxes of `keep`.

    Args:
        found: raw boxes, best first.
        height: the image's, in pixels.
        width: the image's, in pixels.
        config: sizes, shapes and number of windows.
    """
    kept = keep(found, height, width, config)
    return Proposals(window_boxes(kept.boxes_N4, config), kept.scores_N)


def window_boxes(boxes_N4: FloatArray, config: ProposeConfig) -> FloatArray:
    """The window around each box, with the settings' factor and shape."""
    return extend_boxes(boxes_N4, config.extend, shape_of(config))


def shape_of(config: ProposeConfig) -> WindowShape:
    """The shape of windows; `auto` means a box, if no network has decided it."""
    return "square" if config.window_shape == "square" else "box"


def keep(found: Proposals, height: int, width: int, config: ProposeConfig) -> Proposals:
    """The raw boxes whose windows the network sees: small ones skipped, the best kept; or the whole image.

    By default the longer side of a window is measured: where windows keep the shape of their boxes, measuring the
    shorter side would skip long thin objects of any size.

    Args:
        found: raw boxes, best first.
        height: the image's, in pixels.
        width: the image's, in pixels.
        config: smallest side and number of windows.
    """
    windows_N4 = window_boxes(found.boxes_N4, config)
    sides_N2 = windows_N4[:, 2:] - windows_N4[:, :2]
    measured_N = sides_N2.max(axis=1) if config.min_side_of == "longer" else sides_N2.min(axis=1)
    share = config.small_image_share or np.inf
    needed = min(config.min_side, share * min(height, width))
    best_K = np.flatnonzero(measured_N >= needed)[: config.proposals]
    if len(best_K) == 0:
        return Proposals(np.array([[0, 0, width, height]], np.float32), np.zeros(1, np.float32))
    return Proposals(found.boxes_N4[best_K], found.scores_N[best_K])


def raw_boxes(image_HW3: NDArray[np.uint8], config: ProposeConfig) -> Proposals:
    """Boxes as EdgeBoxes returns them, neither extended nor filtered: up to `config.max_boxes`, inside the image.

    Returns:
        The boxes, best first; none for an image without edges or with a side below 32 pixels.

    Raises:
        ValueError: the image is not uint8 RGB or is too large; `edge_model` is not a model.
        FileNotFoundError: `edge_model` does not exist.
    """
    if image_HW3.dtype != np.uint8 or image_HW3.ndim != 3 or image_HW3.shape[2] != 3:
        raise ValueError(f"the image is {image_HW3.dtype} {image_HW3.shape}; uint8 (H, W, 3), RGB, is needed")
    height, width = image_HW3.shape[:2]
    if height + width > LARGEST_HALF_PERIMETER:
        raise ValueError(
            f"the image is {width}x{height}; EdgeBoxes takes width + height up to {LARGEST_HALF_PERIMETER}: "
            "set `max-side`"
        )
    nothing = Proposals(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    if min(height, width) < SMALLEST_SIDE:
        return nothing
    edges_HW, orientation_HW = find_edges(image_HW3, config)
    search = cv2.ximgproc.createEdgeBoxes(
        alpha=ALPHA,
        beta=BETA,
        maxAspectRatio=MAX_ASPECT_RATIO,
        maxBoxes=config.max_boxes,
        edgeMinMag=0,  # weak edges are gone already
    )
    sparse_HW = sparse_edges(edges_HW, config.edge_threshold, MAX_EDGE_FRACTION)
    xywh_N4, scores_N = search.getBoundingBoxes(sparse_HW, orientation_HW)
    if len(xywh_N4) == 0:
        return nothing
    boxes_N4 = np.asarray(xywh_N4, np.float32)
    boxes_N4[:, 2:] += boxes_N4[:, :2]
    return Proposals(boxes_N4, np.asarray(scores_N, np.float32).reshape(-1))


def sparse_edges(edges_HW: FloatArray, threshold: float, max_fraction: float) -> FloatArray:
    """Zero the edges weaker than `threshold`; if more than `max_fraction` of pixels are left, keep the strongest.

    Edges as strong as the first that does not fit are removed too, so that a regular pattern is not kept in one corner
    only.

    Args:
        edges_HW: strengths, float32, 0..1.
        threshold: least strength, 0..1.
        max_fraction: share of pixels that may be edges, 0..1.
    """
    kept_HW = np.where(edges_HW >= threshold, edges_HW, np.float32(0))
    room = int(max_fraction * kept_HW.size)
    if np.count_nonzero(kept_HW) > room:
        first_left_out = np.partition(kept_HW, -room - 1, axis=None)[-room - 1]
        kept_HW[kept_HW <= first_left_out] = 0
    return kept_HW
