"""Edge detectors for EdgeBoxes that are not learned here: a colour gradient, and OpenCV's structured forests.

`proposals.edge_network` has the default. All return thin edges, strength 0..1, and their orientation: the direction
of the edge's *normal*, in radians 0..pi, x to the right and y down, so a vertical contour has 0. That is what OpenCV's
`computeOrientation` gives and what its EdgeBoxes reads when it links edges to contours. Average recall (IoU 0.5 to
0.95) of the 50 best boxes on 179 VOC 2012 train images with the gradient: 0.40; orientation turned by 90 degrees:
0.33, mirrored: 0.37.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

SCALES = (1.5, 3.0, 6.0)
"""Standard deviations of the Gaussians, in pixels. Fine texture that only the smallest one sees counts a third."""
RIDGE_SCALE = 2.0
"""Standard deviation, in pixels, of the Gaussian over a strength map before its ridges' direction is read."""
FULL_CONTRAST = 50.0
"""Height of an isolated step, in Lab units (black to white is 100), that makes an edge of strength tanh(1) = 0.76."""

FOREST_COUNTS = ("numberOfTrees", "numberOfTreesToEvaluate", "patchSize", "patchInnerSize", "shrinkNumber", "stride")
FOREST_PARTS = ("childs", "featureIds", "thresholds", "edgeBoundaries", "edgeBins")
"""What a structured-forest file must hold: options that OpenCV divides by, and a sequence of trees in each part."""


def gradient_edges(image_HW3: NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
    """Thin edges of an RGB image from its colour gradient; needs no model file.

    The gradients of the Lab channels at three scales are summed into one colour structure tensor (Di Zenzo 1986); the
    strongest channel and scale dominate it. Its orientation is the edge's, and the root of the difference of its
    eigenvalues is the edge's contrast: gradients that agree add up, those that cross (corners, texture) cancel. Each
    scale is weighted so that an isolated step gives about its height, whatever the scale.

    Strengths are comparable between images: contrast is measured in Lab units, never against the rest of the image,
    and squashed by tanh(contrast / 50). Nothing clips, so strong edges keep their order.

    Returns:
        Edge strength and orientation, float32 `[H, W]`; see the module for their ranges. Strength is 0 off the edges.
    """
    lab_HW3 = cv2.cvtColor(np.divide(image_HW3, 255, dtype=np.float32), cv2.COLOR_RGB2LAB)
    xx_HW, yy_HW, xy_HW = (np.zeros(image_HW3.shape[:2], np.float32) for _ in range(3))
    for sigma in SCALES:
        smooth_HW3 = cv2.GaussianBlur(lab_HW3, (0, 0), sigma)
        unit = sigma * np.sqrt(2 * np.pi) / 8  # 8: Sobel's gain; the rest: a unit step's peak slope under the blur
        dx_HW3 = cv2.Sobel(smooth_HW3, cv2.CV_32F, 1, 0, scale=unit)
        dy_HW3 = cv2.Sobel(smooth_HW3, cv2.CV_32F, 0, 1, scale=unit)
        xx_HW += np.square(dx_HW3).sum(axis=2) / len(SCALES)
        yy_HW += np.square(dy_HW3).sum(axis=2) / len(SCALES)
        xy_HW += (dx_HW3 * dy_HW3).sum(axis=2) / len(SCALES)
    contrast_HW = np.sqrt(np.hypot(xx_HW - yy_HW, 2 * xy_HW))
    orientation_HW = _half_angle(2 * xy_HW, xx_HW - yy_HW)
    return thin_edges(np.tanh(contrast_HW / np.float32(FULL_CONTRAST)), orientation_HW), orientation_HW


def normal_orientation(strength_HW: FloatArray) -> FloatArray:
    """Orientation of the normal of the ridges of a strength map: where its smoothed surface bends down most.

    The bend is the Hessian's lowest eigenvalue. Its direction holds along the whole ridge, top and sides.
    """
    smooth_HW = cv2.GaussianBlur(strength_HW, (0, 0), RIDGE_SCALE, borderType=cv2.BORDER_REPLICATE)
    xx_HW = cv2.Sobel(smooth_HW, cv2.CV_32F, 2, 0, borderType=cv2.BORDER_REPLICATE)
    yy_HW = cv2.Sobel(smooth_HW, cv2.CV_32F, 0, 2, borderType=cv2.BORDER_REPLICATE)
    xy_HW = cv2.Sobel(smooth_HW, cv2.CV_32F, 1, 1, borderType=cv2.BORDER_REPLICATE)
    return _half_angle(-2 * xy_HW, yy_HW - xx_HW)


def _half_angle(sine_HW: FloatArray, cosine_HW: FloatArray) -> FloatArray:
    return np.mod(np.arctan2(sine_HW, cosine_HW) / 2, np.float32(np.pi))


def thin_edges(strength_HW: FloatArray, orientation_HW: FloatArray) -> FloatArray:
    """Non-maximum suppression: zero what is weaker than the strength one pixel away along the normal, on either side.

    The strength between pixels is interpolated bilinearly. On a tie the first of the two along the normal stays, so
    a plateau two pixels wide gives a line one pixel wide. OpenCV's `edgesNms` can't be had without a model file.
    """
    rows_HW, columns_HW = np.indices(strength_HW.shape, dtype=np.float32)
    across_HW, down_HW = np.cos(orientation_HW), np.sin(orientation_HW)

    def one_pixel(sign: int) -> FloatArray:
        neighbour_HW: FloatArray = cv2.remap(
            strength_HW,
            columns_HW + sign * across_HW,
            rows_HW + sign * down_HW,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return neighbour_HW

    peak_HW = (strength_HW > one_pixel(-1)) & (strength_HW >= one_pixel(+1))
    return np.where(peak_HW, strength_HW, np.float32(0))


def structured_edges(image_HW3: NDArray[np.uint8], model_path: str) -> tuple[FloatArray, FloatArray]:
    """Thin edges of an RGB image from OpenCV's structured forests (Dollar and Zitnick 2013), as EdgeBoxes was built on.

    Args:
        image_HW3: RGB; at least 32 pixels on each side.
        model_path: local file in OpenCV's format (`model.yml.gz` of opencv_extra).

    Returns:
        Edge strength and orientation, float32 `[H, W]`; see the module for their ranges. Strength is 0 off the edges.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no structured-forest model.
    """
    forest = load_forest(model_path)
    strength_HW = forest.detectEdges(np.divide(image_HW3, 255, dtype=np.float32))
    orientation_HW = forest.computeOrientation(strength_HW)
    return np.clip(forest.edgesNms(strength_HW, orientation_HW, r=2, s=0, m=1), 0, 1), orientation_HW


@lru_cache(maxsize=1)
def load_forest(model_path: str) -> Any:
    """Load a structured forest once a process; check first, for OpenCV divides by zero on a file that is not one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no structured-forest model.
    """
    if not Path(model_path).is_file():
        raise FileNotFoundError(
            f"no edge model at {model_path}: give the path of OpenCV's model.yml.gz as --edge-model, "
            "or use --edges learned or gradient, which need none"
        )
    if not _is_forest(model_path):
        raise ValueError(
            f"{model_path} is not a structured-forest edge model in OpenCV's format (model.yml.gz of opencv_extra)"
        )
    return cv2.ximgproc.createStructuredEdgeDetection(model_path)


def _is_forest(model_path: str) -> bool:
    storage = cv2.FileStorage()
    try:
        storage.open(model_path, cv2.FILE_STORAGE_READ)
        options = storage.getNode("options")
        counts = [options.getNode(name) for name in FOREST_COUNTS]
        parts = [storage.getNode(name) for name in FOREST_PARTS]
        return all(node.isInt() and node.real() >= 1 for node in counts) and all(node.size() > 0 for node in parts)
    except cv2.error:
        return False
