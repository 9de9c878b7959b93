"""Edges from the colour gradient, without a model."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.config import ProposeConfig
from pipeline.proposals.edge_maps import FloatArray, half_angle, thin_edges

SCALES = (1.5, 3.0, 6.0)
"""Standard deviations of the Gaussians, in pixels. Fine texture, which only the smallest one sees, counts a third."""
FULL_CONTRAST = 50.0
"""Height of an isolated step, in Lab units (black to white is 100), that makes an edge of strength tanh(1) = 0.76."""


def find_edges(image_HW3: NDArray[np.uint8], _config: ProposeConfig) -> tuple[FloatArray, FloatArray]:
    """See `gradient_edges`; it has no settings."""
    return gradient_edges(image_HW3)


def gradient_edges(image_HW3: NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
    """Thin edges of an RGB image from its colour gradient; needs no model file.

    The gradients of the Lab channels at three scales are summed into one colour structure tensor (Di Zenzo 1986),
    which the strongest channel and scale dominate. Its orientation is the edge's, and the root of the difference of
    its eigenvalues is the edge's contrast: gradients that agree add up, those that cross (corners, texture) cancel.
    Each scale is weighted so that an isolated step gives about its own height at any scale.

    Strengths are comparable between images: contrast is measured in Lab units, not relative to the rest of the image,
    and compressed by tanh(contrast / 50). Nothing is clipped, so strong edges keep their order.

    Returns:
        Edge strength and orientation, float32 `[H, W]`; see `proposals.edge_maps` for their ranges. Strength is
        0 off the edges.
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
    orientation_HW = half_angle(2 * xy_HW, xx_HW - yy_HW)
    return thin_edges(np.tanh(contrast_HW / np.float32(FULL_CONTRAST)), orientation_HW), orientation_HW
