"""The learned edge detector: the network of `pipeline.models.edgenet` in numpy and OpenCV, without torch.

torch would cost each worker that proposes half a gigabyte more; a network this small does not need it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from safetensors.numpy import load_file

from pipeline.config import ProposeConfig
from pipeline.proposals.edge_maps import FloatArray, normal_orientation, thin_edges

Weights = Mapping[str, FloatArray]

SHIPPED = Path(__file__).parents[2] / "checkpoints" / "edges.safetensors"
LEVELS = 4
"""Number of resolutions: 1/2, 1/4, 1/8 and 1/16 of the image's."""
MULTIPLE = 2**LEVELS
"""The image is padded to a multiple of this, in pixels."""
SMOOTH = 1.0
"""Standard deviation, in pixels, of the Gaussian before thinning; the map's blocks of 2x2 pixels would break lines."""
STRIP = 2048
"""Pixels per matrix product of a convolution; so many that their patches stay in the processor's cache."""


def find_edges(image_HW3: NDArray[np.uint8], _config: ProposeConfig) -> tuple[FloatArray, FloatArray]:
    """See `learned_edges`, with the bundled weights; it has no settings."""
    return learned_edges(image_HW3)


def learned_edges(image_HW3: NDArray[np.uint8], weights: Weights | None = None) -> tuple[FloatArray, FloatArray]:
    """Thin edges of an RGB image from a network trained on outlines that people drew on BSDS500's photographs.

    Args:
        image_HW3: RGB, of any size.
        weights: as `pipeline.models.edgenet.tensors` returns them; None: the bundled ones.

    Returns:
        Edge strength and orientation, float32 `[H, W]`; see `proposals.edge_maps` for their ranges. Strength is
        0 off the edges.
    """
    strength_HW = edge_strength(image_HW3, weights or bundled_weights())
    orientation_HW = normal_orientation(strength_HW)
    smooth_HW = cv2.GaussianBlur(strength_HW, (0, 0), SMOOTH, borderType=cv2.BORDER_REPLICATE)
    return thin_edges(smooth_HW, orientation_HW), orientation_HW


@lru_cache(maxsize=1)
def bundled_weights() -> Weights:
    """The bundled network's tensors, read once per process."""
    return {name: values.astype(np.float32) for name, values in load_file(SHIPPED).items()}


def edge_strength(image_HW3: NDArray[np.uint8], weights: Weights) -> FloatArray:
    """The network's map of an RGB image: about the share of people who would draw an outline, 0..1, `[H, W]`."""
    height, width = image_HW3.shape[:2]
    x_CHW = network_input(image_HW3)
    skips = []
    for level in range(LEVELS):
        if level:
            x_CHW = _pool(x_CHW)
        for layer in ("first", "second"):
            x_CHW = np.maximum(_convolve(x_CHW, weights, f"down.{level}.{layer}"), 0)
        skips.append(x_CHW)
    for level in reversed(range(LEVELS - 1)):
        fine_CHW = _convolve(x_CHW, weights, f"lateral.{level}").repeat(2, axis=1).repeat(2, axis=2)
        x_CHW = np.maximum(_convolve(skips[level] + fine_CHW, weights, f"up.{level}"), 0)
    logits_4HW = _convolve(x_CHW, weights, "out")
    _, half_height, half_width = logits_4HW.shape
    logits_HW = logits_4HW.reshape(2, 2, half_height, half_width).transpose(2, 0, 3, 1).reshape(2 * half_height, -1)
    return np.asarray(1 / (1 + np.exp(-logits_HW[:height, :width])), np.float32)


def network_input(image_HW3: NDArray[np.uint8]) -> FloatArray:
    """Lab scaled to about -1..1, padded to a multiple of 16 by repeating the border; 2x2 pixels become 12 channels.

    Returns:
        float32 `[12, H', W']`; channel `4 c + 2 y + x` is channel c of the pixel (y, x) of the four.
    """
    lab_HW3 = cv2.cvtColor(np.divide(image_HW3, 255, dtype=np.float32), cv2.COLOR_RGB2LAB) / np.float32(50)
    lab_HW3[:, :, 0] -= 1
    below, right = -lab_HW3.shape[0] % MULTIPLE, -lab_HW3.shape[1] % MULTIPLE
    lab_HW3 = cv2.copyMakeBorder(lab_HW3, 0, below, 0, right, cv2.BORDER_REPLICATE)
    height, width = lab_HW3.shape[:2]
    return np.ascontiguousarray(
        lab_HW3.reshape(height // 2, 2, width // 2, 2, 3).transpose(4, 1, 3, 0, 2).reshape(12, height // 2, width // 2)
    )


def _pool(x_CHW: FloatArray) -> FloatArray:
    """Maximum of each 2x2 cell."""
    rows_CHW = np.maximum(x_CHW[:, ::2], x_CHW[:, 1::2])
    return np.maximum(rows_CHW[:, :, ::2], rows_CHW[:, :, 1::2])


def _convolve(x_CHW: FloatArray, weights: Weights, name: str) -> FloatArray:
    """A 3x3 (zero-padded) or 1x1 convolution with bias, as one matrix product for each strip of pixels."""
    kernel_OC33, bias_O = weights[f"{name}.weight"], weights[f"{name}.bias"]
    kernel_OK = kernel_OC33.reshape(len(kernel_OC33), -1)
    channels, height, width = x_CHW.shape
    if kernel_OC33.shape[2:] == (1, 1):
        y_ON = kernel_OK @ x_CHW.reshape(channels, -1)
        return (y_ON + bias_O[:, None]).reshape(-1, height, width)
    # Rows are concatenated with two zeros between them, so that a pixel's neighbours are at fixed distances.
    padded_CHW = np.zeros((channels, height + 3, width + 2), np.float32)
    padded_CHW[:, 1 : height + 1, 1 : width + 1] = x_CHW
    line_CN = padded_CHW.reshape(channels, -1)
    across, along = line_CN.strides
    count = height * (width + 2)
    y_ON = np.empty((len(kernel_OK), count), np.float32)
    for start in range(0, count, STRIP):
        size = min(STRIP, count - start)
        patches_C33N = as_strided(
            line_CN[:, start:], (channels, 3, 3, size), (across, (width + 2) * along, along, along)
        )
        np.matmul(kernel_OK, patches_C33N.reshape(-1, size), out=y_ON[:, start : start + size])
    y_ON += bias_O[:, None]
    return y_ON.reshape(-1, height, width + 2)[:, :, :width]
