"""Cutting the network's input out of an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.imaging.geometry import CROP


def cut_crops(image_3HW: Tensor, rectangles_N4: Tensor) -> Tensor:
    """Resample fed rectangles (`geometry.fed_rectangles`) to the network's size.

    Bilinear between pixel centres, without a smoothing filter when shrinking (as in OpenCV and Caffe); everything
    outside the image is zero.

    Args:
        image_3HW: RGB, 0..255, any dtype, on the device to work on.
        rectangles_N4: `x0, y0, x1, y1` in the image's pixels, same device.

    Returns:
        float32 `[N, 3, 224, 224]`, 0..255.
    """
    height, width = image_3HW.shape[1:]
    grid_x = _sample_places(rectangles_N4[:, 0], rectangles_N4[:, 2], width)
    grid_y = _sample_places(rectangles_N4[:, 1], rectangles_N4[:, 3], height)
    n = len(rectangles_N4)
    grid_NHW2 = torch.stack(
        [grid_x[:, None, :].expand(n, CROP, CROP), grid_y[:, :, None].expand(n, CROP, CROP)], dim=-1
    )
    image_N3HW = image_3HW.float().expand(n, -1, -1, -1)
    return F.grid_sample(image_N3HW, grid_NHW2, mode="bilinear", padding_mode="zeros", align_corners=False)


def _sample_places(low_N: Tensor, high_N: Tensor, size: int) -> Tensor:
    """Centres of the crop's 224 pixels along one axis, in `grid_sample`'s -1..1 across `size` pixels: `[N, 224]`."""
    steps = (torch.arange(CROP, device=low_N.device, dtype=torch.float64) + 0.5) / CROP
    places = low_N.double()[:, None] + (high_N - low_N).double()[:, None] * steps
    return (places * (2 / size) - 1).float()
