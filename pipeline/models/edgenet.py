"""A small network that finds the outlines of objects, for EdgeBoxes.

This is the form for training; workers that propose run the same network in numpy (`proposals.detectors.learned`).
"""

from __future__ import annotations

import copy
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

WIDTHS = (16, 32, 48, 64)
"""Channels at 1/2, 1/4, 1/8 and 1/16 of the image's resolution."""


class Layer(nn.Sequential):
    """Convolution 3x3, batch normalisation, ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU(inplace=True)


class Down(nn.Sequential):
    """Two layers at one resolution."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.first = Layer(channels_in, channels_out)
        self.second = Layer(channels_out, channels_out)


class EdgeNet(nn.Module):
    """Two layers at each of four resolutions and one at each on the way back up, joined by sums (a light U-Net)."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([Down(a, b) for a, b in zip((12, *WIDTHS[:-1]), WIDTHS, strict=True)])
        pairs = list(pairwise(WIDTHS))
        self.lateral = nn.ModuleList([nn.Conv2d(coarse, fine, 1) for fine, coarse in pairs])
        self.up = nn.ModuleList([Layer(fine, fine) for fine, _ in pairs])
        self.out = nn.Conv2d(WIDTHS[0], 4, 3, padding=1)

    def forward(self, x_N12HW: Tensor) -> Tensor:
        """Edge logits at full resolution.

        Args:
            x_N12HW: float `[N, 12, H/2, W/2]`, H and W multiples of 16, as `learned.network_input` makes it.

        Returns:
            float `[N, H, W]`; its sigmoid is about the share of people who would draw an outline at a pixel.
        """
        x, skips = x_N12HW, []
        for level, down in enumerate(self.down):
            x = down(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for level in reversed(range(len(self.up))):
            fine = F.interpolate(self.lateral[level](x), scale_factor=2, mode="nearest")
            x = self.up[level](skips[level] + fine)
        return F.pixel_shuffle(self.out(x), 2)[:, 0]


def fold(net: EdgeNet) -> EdgeNet:
    """A copy in evaluation mode with batch normalisation folded into the convolutions; it gives the same maps."""
    folded = copy.deepcopy(net).eval()
    for module in list(folded.modules()):
        if isinstance(module, Layer):
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()  # type: ignore[assignment]
    return folded.requires_grad_(False)


def tensors(net: EdgeNet) -> dict[str, Tensor]:
    """The folded network's weights under the names that `learned` and `load` expect."""
    return {name.replace(".conv.", "."): t.contiguous() for name, t in fold(net).state_dict().items()}


def load(weights: dict[str, Tensor]) -> EdgeNet:
    """The folded network with weights from `tensors`, in evaluation mode."""
    net = fold(EdgeNet())
    state = net.state_dict()
    net.load_state_dict({name: weights[name.replace(".conv.", ".")].float() for name in state})
    return net
