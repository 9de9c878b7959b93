"""FCN-8s on VGG-16 (Long, Shelhamer and Darrell, CVPR 2015): the other half of the paper's ensemble.

It sees the whole image at once. The first convolution pads by 100 pixels so that small images survive five poolings;
the crops undo that and keep the three streams aligned.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.deconvnet import ENCODER, FC_CHANNELS, FC_KERNEL, scaled

PADDING = 100
CROP_POOL4, CROP_POOL3, CROP_SCORE = 5, 9, 31
"""Where each map starts in the map that it is added to, and the image in the last map, in pixels of that map."""
CANVAS = 500
"""Side, in pixels, of the DeconvNet release's input to FCN-8s: zeros, with the image at the top left."""


class FCN8s(nn.Module):
    """FCN-8s for any set of classes; its layers carry the names of the authors' `voc-fcn8s`.

    Args:
        num_classes: score maps to produce, background included.
        width: multiplier of every hidden channel count; 1.0 is the published network.
        canvas: smaller images are padded with zeros on the right and below to this side, in pixels.
    """

    def __init__(self, num_classes: int = 21, width: float = 1.0, canvas: int = CANVAS) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.width = width
        self.canvas = canvas
        channels = 3
        for block, out_channels in ENCODER.items():
            for i, full in enumerate(out_channels, start=1):
                first = (block, i) == (1, 1)
                out = scaled(full, width)
                self.add_module(f"conv{block}_{i}", nn.Conv2d(channels, out, 3, padding=PADDING if first else 1))
                channels = out
        fc = scaled(FC_CHANNELS, width)
        self.fc6 = nn.Conv2d(channels, fc, FC_KERNEL)
        self.fc7 = nn.Conv2d(fc, fc, 1)
        self.score_fr = nn.Conv2d(fc, num_classes, 1)
        self.score_pool4 = nn.Conv2d(scaled(ENCODER[4][-1], width), num_classes, 1)
        self.score_pool3 = nn.Conv2d(scaled(ENCODER[3][-1], width), num_classes, 1)
        self.upscore2 = nn.ConvTranspose2d(num_classes, num_classes, 4, stride=2)
        self.upscore_pool4 = nn.ConvTranspose2d(num_classes, num_classes, 4, stride=2)
        self.upscore8 = nn.ConvTranspose2d(num_classes, num_classes, 16, stride=8)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Score maps `[N, num_classes, H, W]` of images `[N, 3, H, W]` of any size."""
        height, width = images_NCHW.shape[2:]
        x = F.pad(images_NCHW, (0, max(0, self.canvas - width), 0, max(0, self.canvas - height)))
        pooled: dict[int, Tensor] = {}
        for block, out_channels in ENCODER.items():
            for i in range(1, len(out_channels) + 1):
                x = F.relu(self.get_submodule(f"conv{block}_{i}")(x), inplace=True)
            # Caffe rounds the size of a pooled map up.
            x = pooled[block] = F.max_pool2d(x, kernel_size=2, stride=2, ceil_mode=True)
        x = F.relu(self.fc7(F.relu(self.fc6(x), inplace=True)), inplace=True)
        x = self.upscore2(self.score_fr(x))
        x = x + cropped(self.score_pool4(pooled[4]), CROP_POOL4, x)
        x = self.upscore_pool4(x)
        x = x + cropped(self.score_pool3(pooled[3]), CROP_POOL3, x)
        scores_NCHW: Tensor = self.upscore8(x)
        return scores_NCHW[:, :, CROP_SCORE : CROP_SCORE + height, CROP_SCORE : CROP_SCORE + width]


def cropped(x_NCHW: Tensor, offset: int, like_NCHW: Tensor) -> Tensor:
    """The part of a map that has another map's size.

    Args:
        x_NCHW: the map.
        offset: where the part starts in both directions, in pixels.
        like_NCHW: the map whose height and width the part gets.
    """
    height, width = like_NCHW.shape[2:]
    return x_NCHW[:, :, offset : offset + height, offset : offset + width]
