"""A light fully convolutional network on EfficientNet-Lite: the whole image in, score maps out.

The head is DeepLab's idea at a tenth of the cost: context at stride 16 from two dilated filters and the mean of the
image, which is then refined with the encoder's maps of stride 8 and 4.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config.networks import EncoderVariant
from pipeline.models.efficientnet import SCALES, STRIDE, ConvBN, Encoder, fold

CONTEXT = 192
"""Channels of the head at stride 16."""
REFINED = {8: (48, 128), 4: (32, 96)}
"""By stride: channels to which the encoder's map is reduced before it is joined, and output channels."""
RATES = (3, 6)
"""Dilations of the context's filters at stride 16."""


class Context(nn.Module):
    """Mixes the deepest maps with the surroundings of each place and the mean of the whole image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = ConvBN(channels, CONTEXT)
        self.around = nn.ModuleList(ConvBN(CONTEXT, CONTEXT, 3, dilation=rate, depthwise=True) for rate in RATES)
        self.image = nn.Conv2d(channels, CONTEXT, 1)
        self.mix = ConvBN((1 + len(RATES)) * CONTEXT, CONTEXT)
        self.drop = nn.Dropout2d(0.1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """`[N, CONTEXT, H, W]`."""
        near = self.reduce(x_NCHW)
        whole = F.relu6(self.image(x_NCHW.mean((2, 3), keepdim=True)))
        mixed = self.mix(torch.cat([near, *(around(near) for around in self.around)], dim=1))
        context_NCHW: Tensor = self.drop(mixed + whole)
        return context_NCHW


class Refine(nn.Module):
    """Maps of twice the resolution: the coarse ones enlarged and joined with the encoder's, both filtered.

    Args:
        coarse: channels of the coarse maps.
        skip: channels of the encoder's map.
        joined: channels to which the encoder's map is reduced.
        out: channels of the result.
    """

    def __init__(self, coarse: int, skip: int, joined: int, out: int) -> None:
        super().__init__()
        self.skip = ConvBN(skip, joined)
        self.filter = ConvBN(coarse + joined, coarse + joined, 3, depthwise=True)
        self.mix = ConvBN(coarse + joined, out)

    def forward(self, coarse_NCHW: Tensor, skip_NCHW: Tensor) -> Tensor:
        """`[N, out, H, W]`, at the skip's size."""
        enlarged = F.interpolate(coarse_NCHW, skip_NCHW.shape[2:], mode="bilinear", align_corners=False)
        refined_NCHW: Tensor = self.mix(self.filter(torch.cat([enlarged, self.skip(skip_NCHW)], dim=1)))
        return refined_NCHW


def features(x_N3HW: Tensor, encoder: Encoder, context: Context) -> dict[int, Tensor]:
    """The maps that both light networks start from, by stride: the encoder's at 2, 4 and 8, the context at 16.

    Args:
        x_N3HW: network input, float.
        encoder: its EfficientNet.
        context: what mixes the maps of stride 16.
    """
    maps: dict[int, Tensor] = encoder(x_N3HW)
    return maps | {STRIDE: context(maps[STRIDE])}


class LiteFCN(nn.Module):
    """Fully convolutional network for any set of classes.

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
        channels = self.encoder.channels
        self.context = Context(channels[16])
        self.refine8 = Refine(CONTEXT, channels[8], *REFINED[8])
        self.refine4 = Refine(REFINED[8][1], channels[4], *REFINED[4])
        self.score = nn.Conv2d(REFINED[4][1], num_classes, 1)

    def forward(self, x_N3HW: Tensor) -> Tensor:
        """Scores before softmax at a quarter of the resolution, `[N, num_classes, ceil(H / 4), ceil(W / 4)]`."""
        return self.head(features(x_N3HW, self.encoder, self.context))

    def head(self, maps: dict[int, Tensor]) -> Tensor:
        """Scores from `features`."""
        scores_NCHW: Tensor = self.score(self.refine4(self.refine8(maps[STRIDE], maps[8]), maps[4]))
        return scores_NCHW


def folded(num_classes: int, variant: EncoderVariant) -> LiteFCN:
    """The network without batch normalisation, as checkpoints hold it, in evaluation mode."""
    net = LiteFCN(num_classes, variant)
    fold(net)
    return net.eval()


def fed_size(height: int, width: int, long_side: int) -> tuple[int, int]:
    """Height and width at which the network sees an image: scaled to a longer side, each a multiple of the stride.

    Args:
        height: the image's, in pixels.
        width: the image's, in pixels.
        long_side: the longer side to scale to, in pixels.
    """
    scale = long_side / max(height, width)
    fed_height, fed_width = (max(1, round(side * scale / STRIDE)) * STRIDE for side in (height, width))
    return fed_height, fed_width
