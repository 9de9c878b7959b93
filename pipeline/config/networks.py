"""The networks of this project, and what the files of networks may say."""

from __future__ import annotations

from typing import Literal, get_args

Architecture = Literal["deconvnet", "fcn8s", "litefcn", "litedeconvnet"]
"""Networks of this project, as the header of a checkpoint names them."""
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
WHOLE_IMAGES: tuple[Architecture, ...] = ("fcn8s", "litefcn")
"""Those that see a whole image at once; the others see it proposal by proposal."""

EncoderVariant = Literal["lite0", "lite2"]
"""Which EfficientNet-Lite a light network is built on."""
ENCODER_VARIANTS: tuple[EncoderVariant, ...] = get_args(EncoderVariant)

Channels = Literal["RGB", "BGR"]
"""The order in which a network wants an image's channels."""

FcnKind = Literal[
    "auto", "fcn8s", "litefcn", "fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large",
]  # fmt: skip
"""What the second network of an ensemble may be; `auto`: what its file says."""

ReleasedKind = Literal["deconvnet", "fcn8s", "vgg16"]
"""Caffe models that the converter knows."""
