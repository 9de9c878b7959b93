"""Boxes and windows: pure functions over coordinates, no pixels.

Coordinates are continuous: pixel (row r, column c) covers the square [c, c+1) x [r, r+1) and its centre is
(c + 0.5, r + 0.5). A box or rectangle is `x0, y0, x1, y1`, float, half-open, and may leave the image.

The paper's windows: a box is resized to 250x250 and a 224x224 part of it is fed to the network (the central
part at inference, a random one in training). Bilinear resizing maps crop pixel j, taken at offset o of the
250 grid, to `x0 + (o + j + 0.5) * w / 250`. That equals resizing the rectangle
`[x0 + o * w / 250, x0 + (o + 224) * w / 250]` straight to 224 pixels. So at inference a window is just such a
*fed rectangle*, and pasting the score map onto the same rectangle is the exact inverse. Training cuts the
whole 250x250 window by the same formula (`training.windows`), since its offsets are drawn later.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.config.stages import WindowRule, WindowShape

"""Shape of the window around a box: the box's own, or a square."""

RESIZED = 250
"""Side to which a box is resized, in pixels (paper section 6)."""
CROP = 224
"""Side of what the network sees."""
MAX_OFFSET = RESIZED - CROP
"""Largest offset of a 224 crop in a 250 window, for the random crops of training; the central one is half of it."""

FloatArray = NDArray[np.floating]


def extend_boxes(boxes_N4: FloatArray, factor: float, shape: WindowShape = "box") -> NDArray[np.float32]:
    """Windows around the centres of boxes, float32 `[N, 4]`; they may leave the image.

    Args:
        boxes_N4: boxes.
        factor: 1.2 in section 6 of the paper.
        shape: `box`: both sides are scaled; `square`: a square with a side of `factor` times the longer side, as in the
            release's list of windows.
    """
    x0, y0, x1, y1 = np.asarray(boxes_N4, dtype=np.float64).reshape(-1, 4).T
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    half_w, half_h = (x1 - x0) * factor / 2, (y1 - y0) * factor / 2
    if shape == "square":
        half_w = half_h = np.maximum(half_w, half_h)
    return np.stack([cx - half_w, cy - half_h, cx + half_w, cy + half_h], axis=1).astype(np.float32)


def fed_rectangles(boxes_N4: FloatArray, window: WindowRule) -> NDArray[np.float64]:
    """The part of each box that fills the network's 224x224 input at inference, float64 `[N, 4]`.

    Args:
        boxes_N4: extended boxes with positive width and height.
        window: `250-224` takes the central 224 of the box resized to 250; `direct` takes the whole box.

    Raises:
        ValueError: a box has no area.
    """
    boxes = np.asarray(boxes_N4, dtype=np.float64).reshape(-1, 4)
    sizes = boxes[:, 2:] - boxes[:, :2]
    if not (sizes > 0).all():
        raise ValueError("a box has no area: x1 > x0 and y1 > y0 are needed")
    if window == "direct":
        return boxes
    corners = boxes[:, :2] + MAX_OFFSET / 2 * sizes / RESIZED
    return np.concatenate([corners, corners + sizes * (CROP / RESIZED)], axis=1)


def covered_pixels(rectangle_4: FloatArray, height: int, width: int) -> tuple[int, int, int, int]:
    """Rows and columns of the image's pixels whose centres lie in a rectangle.

    Args:
        rectangle_4: `x0, y0, x1, y1`; may leave the image.
        height: the image's, in pixels.
        width: the image's, in pixels.

    Returns:
        `(r0, r1, c0, c1)`, half-open. An empty range (`r1 <= r0` or `c1 <= c0`) means that the rectangle covers no
        pixel of the image.
    """
    x0, y0, x1, y1 = np.ceil(np.asarray(rectangle_4, dtype=np.float64) - 0.5).astype(int)
    return max(int(y0), 0), min(int(y1), height), max(int(x0), 0), min(int(x1), width)


def box_iou(a_N4: FloatArray, b_M4: FloatArray) -> NDArray[np.float64]:
    """Intersection over union of every pair of boxes, `[N, M]` in 0..1 (0 where both are empty)."""
    a = np.asarray(a_N4, dtype=np.float64).reshape(-1, 1, 4)
    b = np.asarray(b_M4, dtype=np.float64).reshape(1, -1, 4)
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    intersection = sides.prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - intersection
    iou: NDArray[np.float64] = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return iou
