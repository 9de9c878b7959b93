"""The paper's network on a light FCN's encoder: a mirrored decoder that unpools by the encoder's switches.

As in the paper: windows of 224 pixels, 7x7 maps that are reduced to one place and expanded again (`fc6`, `fc7`,
`fc6_deconv`), unpooling, deconvolutions, batch normalisation in every layer.

Different from the paper: the encoder is an EfficientNet-Lite trained in an FCN, with that FCN's context; it has
strided layers instead of pooling, so the switches are those of pooling the maps in front of those layers; at 7x7 a
lateral connection bypasses the one place; scores have half of the window's resolution.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config.networks import EncoderVariant
from pipeline.models.deconvnet import FC_KERNEL, Deconv3x3, Layer, unpool
from pipeline.models.efficientnet import SCALES, STRIDE, Encoder, fold
from pipeline.models.litefcn import CONTEXT, Context, features

DEEPEST = 256
"""Channels of the strided layer after the context, at 7x7."""
FC_CHANNELS = 256
BLOCKS = {16: (128, 128, 96), 8: (96, 96, 48), 4: (48, 48, 24), 2: (24, 24, 24)}
"""By stride: channels that are unpooled to it, and channels that its deconvolutions give."""


def switches_of(map_NCHW: Tensor, channels: int) -> Tensor:
    """Where the maximum of each 2x2 cell is, for the channels of a decoder: `[N, channels, H/2, W/2]`.

    int64 indices into the flattened H*W plane, the first maximum on ties. If the decoder has more channels than the
    map, the map's channels are repeated from the first.
    """
    places_NCHW = F.max_pool2d(map_NCHW, 2, 2, return_indices=True)[1]
    times = -(-channels // places_NCHW.shape[1])
    return places_NCHW.repeat(1, times, 1, 1)[:, :channels]


class Decoder(nn.Module):
    """From an FCN's maps to scores: down to one place and back to 7x7, then up with the switches of the maps."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        first, last = BLOCKS[STRIDE][0], BLOCKS[2][-1]
        self.deepest = Layer(nn.Conv2d(CONTEXT, DEEPEST, 3, stride=2, padding=1))
        self.lateral = Layer(nn.Conv2d(DEEPEST, first, 1))
        self.fc6 = Layer(nn.Conv2d(first, FC_CHANNELS, FC_KERNEL))
        self.fc7 = Layer(nn.Conv2d(FC_CHANNELS, FC_CHANNELS, 1))
        self.fc6_deconv = Layer(nn.ConvTranspose2d(FC_CHANNELS, first, FC_KERNEL))
        self.blocks = nn.ModuleDict(
            {
                str(stride): nn.Sequential(*(Layer(Deconv3x3(i, o)) for i, o in pairwise(outs)))
                for stride, outs in BLOCKS.items()
            }
        )
        self.seg_score = nn.Conv2d(last, num_classes, 1)

    def forward(self, maps: dict[int, Tensor]) -> Tensor:
        """Scores before softmax, `[N, num_classes, 112, 112]`, from the `features` of windows of 224 pixels."""
        near = self.lateral(self.deepest(maps[STRIDE]))
        x = near + self.fc6_deconv(self.fc7(self.fc6(near)))
        for stride, layers in self.blocks.items():
            x = layers(unpool(x, switches_of(maps[int(stride)], x.shape[1])))
        scores_NCHW: Tensor = self.seg_score(x)
        return scores_NCHW


class LiteDeconvNet(nn.Module):
    """DeconvNet with a light encoder, for any set of classes; encoder and context without batch normalisation.

    Args:
        num_classes: score maps to produce, background included.
        variant: of the encoder.
    """

    def __init__(self, num_classes: int = 21, variant: EncoderVariant = "lite0") -> None:
        super().__init__()
        self.num_classes = num_classes
        self.variant: EncoderVariant = variant
        self.width = SCALES[variant][0]
        self.encoder = Encoder(variant)
        self.context = Context(self.encoder.channels[STRIDE])
        for part in (self.encoder, self.context):
            fold(part)
        self.decoder = Decoder(num_classes)

    def forward(self, x_N3HW: Tensor) -> Tensor:
        """Scores before softmax at half the resolution, `[N, num_classes, 112, 112]`, of windows `[N, 3, 224, 224]`."""
        scores_NCHW: Tensor = self.decoder(features(x_N3HW, self.encoder, self.context))
        return scores_NCHW


def initialise(decoder: Decoder) -> None:
    """Random weights, in place, that keep the variance of maps; the paper's Gaussian of 0.01 needs its schedule."""
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            # A transposed 7x7 convolution makes each pixel from one place, not from 49.
            one_place = isinstance(module, nn.ConvTranspose2d) and not isinstance(module, Deconv3x3)
            fan_in = module.in_channels * (1 if one_place else module.kernel_size[0] ** 2)
            nn.init.normal_(module.weight, std=(2 / fan_in) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(decoder.seg_score.weight, std=0.05)
