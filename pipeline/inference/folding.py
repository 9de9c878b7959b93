"""Inference form of a network: batch normalisation folded into the convolutions."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from pipeline.models.deconvnet import Deconv3x3, Layer

ConvT = TypeVar("ConvT", nn.Conv2d, nn.ConvTranspose2d)
NetT = TypeVar("NetT", bound=nn.Module)


def fold(net: NetT) -> NetT:
    """A copy in evaluation mode with one convolution in place of each convolution and its batch normalisation.

    With scale s = gamma / sqrt(variance + eps) the weights become s * w and the bias s * (b - mean) + beta. The 3x3
    transposed convolutions also become plain convolutions, so that their kernels are flipped once and not at each
    call. The scores equal the original's in evaluation mode up to float rounding.
    """
    folded = copy.deepcopy(net).eval()
    with torch.no_grad():
        for module in list(folded.modules()):
            if isinstance(module, Layer) and isinstance(module.bn, nn.BatchNorm2d):
                module.conv = _fold_layer(module.conv, module.bn)
                module.bn = nn.Identity()
    return folded.requires_grad_(False)


def _fold_layer(conv: nn.Conv2d | nn.ConvTranspose2d, bn: nn.BatchNorm2d) -> nn.Conv2d | nn.ConvTranspose2d:
    assert bn.running_mean is not None and bn.running_var is not None and conv.bias is not None  # noqa: PT018
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    bias = scale * (conv.bias - bn.running_mean) + bn.bias
    if isinstance(conv, nn.Conv2d):
        return _set(conv, conv.weight * scale.view(-1, 1, 1, 1), bias)
    weight = conv.weight * scale.view(1, -1, 1, 1)
    if isinstance(conv, Deconv3x3):
        plain = nn.Conv2d(conv.in_channels, conv.out_channels, kernel_size=3, padding=1)
        return _set(plain, weight.flip(2, 3).transpose(0, 1), bias)
    return _set(conv, weight, bias)


def _set(conv: ConvT, weight: Tensor, bias: Tensor) -> ConvT:
    conv.weight = nn.Parameter(weight.contiguous())
    conv.bias = nn.Parameter(bias)
    return conv
