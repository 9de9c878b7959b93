"""Triton kernels for the operations between the convolutions on a GPU: bias, ReLU, pooling, unpooling.

torch adds the bias and takes the ReLU in one pass over the map each, and its switches are 8 bytes per value. Here bias
and ReLU take one pass, and before a pooling they are part of the pooling's pass. A switch is one byte: the place 0..3
of the maximum in its 2x2 cell, row by row. With four switches in a byte, pooling and unpooling would move 10.25 bytes
per cell in bfloat16 instead of 11: too small a gain for the bit shifting.

All maps are channels last; a map `[N, C, H, W]` lies in memory as `[N, H, W, C]`. With TRITON_INTERPRET=1 the kernels
run on a CPU, for tests.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from pipeline.inference.layer_ops import Steps

BLOCK = 1024


@triton.jit
def _activated(x_ptr, at, inside, bias):
    """ReLU of a value plus its bias: float32, rounded to the map's type where torch rounds; NaN stays NaN."""
    x = tl.load(x_ptr + at, mask=inside)
    summed = (x.to(tl.float32) + bias).to(x.dtype).to(tl.float32)
    return tl.where(summed < 0, 0.0, summed)


@triton.jit
def _bias_relu_kernel(x_ptr, bias_ptr, numel, C: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < numel
    bias = tl.load(bias_ptr + at % C).to(tl.float32)
    tl.store(x_ptr + at, _activated(x_ptr, at, inside, bias).to(x_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _bias_relu_pool_kernel(
    x_ptr, bias_ptr, pooled_ptr, places_ptr, numel, W: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr
):
    """`numel` and W belong to the pooled map. torch's rule: the first maximum wins, but a NaN beats all before it."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < numel
    channel, cell = at % C, at // C
    first = ((cell // W) * (4 * W) + (cell % W) * 2) * C + channel
    bias = tl.load(bias_ptr + channel).to(tl.float32)
    best = _activated(x_ptr, first, inside, bias)
    place = tl.zeros([BLOCK], tl.uint8)
    for i in tl.static_range(1, 4):
        x = _activated(x_ptr, first + ((i // 2) * (2 * W) + i % 2) * C, inside, bias)
        better = (x > best) | (x != x)  # noqa: PLR0124  (NaN)
        best = tl.where(better, x, best)
        place = tl.where(better, i, place).to(tl.uint8)
    tl.store(pooled_ptr + at, best.to(pooled_ptr.dtype.element_ty), mask=inside)
    tl.store(places_ptr + at, place, mask=inside)


@triton.jit
def _unpool_kernel(x_ptr, places_ptr, out_ptr, numel, W: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < numel
    channel, cell = at % C, at // C
    first = ((cell // W) * (4 * W) + (cell % W) * 2) * C + channel
    x = tl.load(x_ptr + at, mask=inside)
    place = tl.load(places_ptr + at, mask=inside)
    for i in tl.static_range(4):
        value = tl.where(place == i, x, 0.0).to(x.dtype)
        tl.store(out_ptr + first + ((i // 2) * (2 * W) + i % 2) * C, value, mask=inside)


def bias_relu_(x_NCHW: Tensor, bias_C: Tensor) -> Tensor:
    """ReLU of a channels-last map plus one bias per channel, in place."""
    numel = x_NCHW.numel()
    _bias_relu_kernel[(triton.cdiv(numel, BLOCK),)](x_NCHW, bias_C, numel, C=len(bias_C), BLOCK=BLOCK)
    return x_NCHW


def bias_relu_pool(x_NCHW: Tensor, bias_C: Tensor) -> tuple[Tensor, Tensor]:
    """`pool(relu(x + bias))` of a channels-last map with even height and width.

    Returns the pooled map and its switches, both channels last `[N, C, H/2, W/2]`; a switch is uint8, 0..3: top left,
    top right, bottom left, bottom right, the first maximum on ties (the last NaN where there is one, as in torch).
    """
    n, channels, height, width = x_NCHW.shape
    pooled = torch.empty(
        (n, channels, height // 2, width // 2), dtype=x_NCHW.dtype, device=x_NCHW.device,
        memory_format=torch.channels_last,
    )  # fmt: skip
    places = torch.empty_like(pooled, dtype=torch.uint8)
    _bias_relu_pool_kernel[(triton.cdiv(pooled.numel(), BLOCK),)](
        x_NCHW, bias_C, pooled, places, pooled.numel(), W=width // 2, C=channels, BLOCK=BLOCK
    )
    return pooled, places


def unpool(x_NCHW: Tensor, places_NCHW: Tensor) -> Tensor:
    """Put each value of a channels-last map where its switch says, zeros elsewhere: `[N, C, 2H, 2W]`, in one pass."""
    n, channels, height, width = x_NCHW.shape
    x_NCHW = x_NCHW.contiguous(memory_format=torch.channels_last)
    out = torch.empty(
        (n, channels, 2 * height, 2 * width), dtype=x_NCHW.dtype, device=x_NCHW.device,
        memory_format=torch.channels_last,
    )  # fmt: skip
    _unpool_kernel[(triton.cdiv(x_NCHW.numel(), BLOCK),)](
        x_NCHW, places_NCHW, out, x_NCHW.numel(), W=width, C=channels, BLOCK=BLOCK
    )
    return out


def _conv(x_NCHW: Tensor, conv: nn.Conv2d) -> Tensor:
    mapped_NCHW = F.conv2d(x_NCHW, conv.weight, None, conv.stride, conv.padding)
    return mapped_NCHW.contiguous(memory_format=torch.channels_last)  # a copy only if a library chose another layout


def _bias_of(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None  # every convolution of the network has one
    return conv.bias


STEPS = Steps(
    conv_relu=lambda x_NCHW, conv: bias_relu_(_conv(x_NCHW, conv), _bias_of(conv)),
    conv_relu_pool=lambda x_NCHW, conv: bias_relu_pool(_conv(x_NCHW, conv), _bias_of(conv)),
    unpool=unpool,
)
