"""DeconvNet: a VGG-16 encoder and its mirrored deconvolution decoder (Noh et al. 2015, section 3, figure 2).

Letters in tensor names: N crops, C channels, H and W pixels. The network maps float crops `[N, 3, 224, 224]`
to float score maps `[N, num_classes, 224, 224]` (before any softmax). The checkpoint, not the network, defines what
the pixel values mean (`pipeline.models.checkpoint_header.Preprocessing`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

# Output channels of each block's layers at width 1, by the paper's block numbers. A pooling layer follows every
# encoder block; an unpooling layer with that pooling's switches precedes the decoder block of the same number.
ENCODER = {1: (64, 64), 2: (128, 128), 3: (256, 256, 256), 4: (512, 512, 512), 5: (512, 512, 512)}
DECODER = {5: (512, 512, 512), 4: (512, 512, 256), 3: (256, 256, 128), 2: (128, 64), 1: (64, 64)}
FC_CHANNELS = 4096
FC_KERNEL = 7

CHANNEL_MULTIPLE = 8


def scaled(channels: int, width: float) -> int:
    """Channels of a layer at a width multiplier: rounded to a multiple of 8, at least 8 (exact at width 1)."""
    return max(CHANNEL_MULTIPLE, round(channels * width / CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE)


def pool(x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """2x2 max-pooling, stride 2, that remembers where each maximum was (section 3.2.1).

    Returns the pooled map and its switches, both `[N, C, H/2, W/2]`; a switch is an int64 index into the
    flattened H*W plane, the first maximum on ties.
    """
    pooled_NCHW, switches_NCHW = F.max_pool2d(x_NCHW, kernel_size=2, stride=2, return_indices=True)
    return pooled_NCHW, switches_NCHW


def unpool(x_NCHW: Tensor, switches_NCHW: Tensor) -> Tensor:
    """Put each value back where its pooling switch says, zeros elsewhere: `[N, C, H, W]` -> `[N, C, 2H, 2W]`."""
    return F.max_unpool2d(x_NCHW, switches_NCHW, kernel_size=[2, 2], stride=[2, 2])


class Deconv3x3(nn.ConvTranspose2d):
    """3x3 transposed convolution, stride 1, padding 1, run as a convolution with the flipped, swapped kernel.

    At stride 1 the two are equal, and the convolution is the faster one. The weight keeps the transposed
    convolution's layout `[in, out, 3, 3]`.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, x_NCHW: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: ARG002
        """`[N, in, H, W]` -> `[N, out, H, W]`; at stride 1 the output has the input's size."""
        return F.conv2d(x_NCHW, self.weight.flip(2, 3).transpose(0, 1), self.bias, padding=1)


class Layer(nn.Module):
    """A convolution or transposed convolution, its batch normalisation and its ReLU."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.conv = conv
        self.bn: nn.Module = nn.BatchNorm2d(conv.out_channels)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """`[N, in, H, W]` -> `[N, out, H', W']`, all values 0 or more."""
        normalised: Tensor = self.bn(self.conv(x_NCHW))
        return F.relu(normalised, inplace=True)


def _block(
    make: Callable[[int, int], nn.Conv2d | nn.ConvTranspose2d],
    prefix: str,
    block: int,
    in_channels: int,
    out_channels: tuple[int, ...],
    width: float,
) -> nn.Sequential:
    """One encoder or decoder block; its layers carry the release's names, such as `conv3_1` or `deconv3_1`."""
    layers = nn.Sequential()
    for i, full_channels in enumerate(out_channels, start=1):
        channels = scaled(full_channels, width)
        layers.add_module(f"{prefix}{block}_{i}", Layer(make(in_channels, channels)))
        in_channels = channels
    return layers


class DeconvNet(nn.Module):
    """The network of the paper's section 3.1 for any set of classes.

    Args:
        num_classes: score maps to produce, background included (21 for PASCAL VOC).
        width: multiplier of every hidden channel count; 1.0 is the paper's network of 251.8 M parameters.
    """

    def __init__(self, num_classes: int = 21, width: float = 1.0) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; at least 2 are needed, background included")
        if not 0 < width <= 4:
            raise ValueError(f"width is {width}; it must lie in (0, 4]")
        self.num_classes = num_classes
        self.width = width

        def conv3x3(i: int, o: int) -> nn.Conv2d:
            return nn.Conv2d(i, o, kernel_size=3, padding=1)

        channels = 3
        self.encoder = nn.ModuleDict()
        for block, out in ENCODER.items():
            self.encoder[str(block)] = _block(conv3x3, "conv", block, channels, out, width)
            channels = scaled(out[-1], width)
        fc = scaled(FC_CHANNELS, width)
        self.fc6 = Layer(nn.Conv2d(channels, fc, FC_KERNEL))
        self.fc7 = Layer(nn.Conv2d(fc, fc, 1))
        self.fc6_deconv = Layer(nn.ConvTranspose2d(fc, channels, FC_KERNEL))
        self.decoder = nn.ModuleDict()
        for block, out in DECODER.items():
            self.decoder[str(block)] = _block(Deconv3x3, "deconv", block, channels, out, width)
            channels = scaled(out[-1], width)
        self.seg_score = nn.Conv2d(channels, num_classes, 1)

    def forward(self, crops_NCHW: Tensor) -> Tensor:
        """Score maps `[N, num_classes, 224, 224]` of crops `[N, 3, 224, 224]`."""
        x = crops_NCHW
        switches: dict[str, Tensor] = {}
        for block, layers in self.encoder.items():
            x, switches[block] = pool(layers(x))
        x = self.fc6_deconv(self.fc7(self.fc6(x)))
        for block, layers in self.decoder.items():
            x = layers(unpool(x, switches[block]))
        scores_NCHW: Tensor = self.seg_score(x)
        return scores_NCHW
