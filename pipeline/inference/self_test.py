"""Triton's kernels against torch's operations, once a process, before a network runs with them.

A kernel may compile and compute wrong: another GPU, driver or version of Triton. Triton compiles a kernel anew for each
number of channels and columns, so the maps here have the network's own numbers, and few rows. What is checked are
therefore the kernels that the network will run, and it takes little longer than compiling them, which is needed anyway.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.config.stages import Aggregation
from pipeline.imaging.geometry import CROP
from pipeline.inference.aggregate import Canvas
from pipeline.models.deconvnet import ENCODER, pool, scaled, unpool

_LAST = torch.channels_last
_ROWS = 4
_GATHERED = 12, 20
"""Height and width of the canvas, in pixels."""
_WINDOWS_N4 = np.array([[3.3, 2.2, 16.51, 9.51], [14.5, -7.5, 23.4, 5.1], [-9, 6.5, 17, 10.4]])
"""Across tiles, over the rim, one on another; some pixels lie in none."""
_TOLERANCE = 1e-4
"""`Canvas` computes places in float32: 1e-5 of a crop's pixel, between neighbours that differ by up to 8."""


@functools.cache
def steps_work(device: torch.device, dtype: torch.dtype, width: float) -> bool:
    """Whether the kernels between the convolutions run on a device and compute what torch's operations do.

    Args:
        device: where the network will run.
        dtype: of its maps, float32 or bfloat16.
        width: of the network.
    """
    return triton_compiles(device) and _right("network", lambda: wrong_step(device, dtype, width))


@functools.cache
def gathering_works(device: torch.device, dtype: torch.dtype, classes: int, aggregation: Aggregation) -> bool:
    """Whether the aggregation's kernel has a rule, runs on a device, and computes what `Canvas` does.

    Args:
        device: that of the score maps.
        dtype: theirs, float32 or bfloat16.
        classes: background included.
        aggregation: the rule.
    """
    if not triton_compiles(device):
        return False
    from pipeline.inference.aggregate_gpu import KNOWN

    return aggregation in KNOWN and _right("aggregation", lambda: wrong_gathering(device, dtype, classes, aggregation))


@functools.cache
def triton_compiles(device: torch.device) -> bool:
    """Whether Triton compiles on a device: it needs a GPU, and a machine with a C compiler."""
    if device.type != "cuda":
        return False
    try:
        from pipeline.inference import kernels

        one = torch.ones(1, 1, 2, 2, device=device)
        kernels.unpool(*kernels.bias_relu_pool(one, one.flatten()[:1]))
    except Exception as error:  # compilers and drivers raise many types
        _log().warning("Triton cannot compile here; torch's slower operations are used: %s", error)
        return False
    return True


def wrong_step(device: torch.device, dtype: torch.dtype, width: float) -> str | None:
    """The first of the kernels between the convolutions that computes something else than torch; None: none does."""
    from pipeline.inference import kernels

    for block, channels in ENCODER.items():
        shape = (1, scaled(channels[-1], width), _ROWS, CROP >> (block - 1))
        x_NCHW, bias_C = some_map(shape, device, dtype), some_map((1, shape[1], 1, 1), device, dtype).flatten()
        activated_NCHW = F.relu(x_NCHW + bias_C.view(1, -1, 1, 1))
        pooled_NCHW, indices_NCHW = pool(activated_NCHW)
        back_NCHW = some_map(tuple(pooled_NCHW.shape), device, dtype)
        found_NCHW, places_NCHW = kernels.bias_relu_pool(x_NCHW, bias_C)
        rows_NCHW, columns_NCHW = indices_NCHW // shape[3], indices_NCHW % shape[3]
        pairs = {
            "pooling": (found_NCHW, pooled_NCHW),
            "pooling's switches": (places_NCHW.long(), rows_NCHW % 2 * 2 + columns_NCHW % 2),
            "unpooling": (kernels.unpool(back_NCHW, places_NCHW), unpool(back_NCHW, indices_NCHW)),
            "bias and ReLU": (kernels.bias_relu_(x_NCHW.clone(memory_format=_LAST), bias_C), activated_NCHW),
        }
        for name, (found, expected) in pairs.items():
            if wrong := int((found != expected).sum()):
                return f"{name}, {shape[1]} channels, {dtype}: {wrong} of {expected.numel()} values"
    return None


def wrong_gathering(device: torch.device, dtype: torch.dtype, classes: int, aggregation: Aggregation) -> str | None:
    """What the aggregation's kernel computes otherwise than `Canvas`; None: nothing."""
    from pipeline.inference.aggregate_gpu import gather

    maps_NCSS = some_map((len(_WINDOWS_N4), classes, CROP, CROP), device, dtype)
    plain = Canvas(classes, *_GATHERED, aggregation, device)
    for scores_CSS, rectangle_4 in zip(maps_NCSS, _WINDOWS_N4, strict=True):
        plain.paste(scores_CSS, rectangle_4)
    found_CHW = gather(maps_NCSS, _WINDOWS_N4, torch.empty(classes, *_GATHERED, device=device), aggregation)
    off = (found_CHW - plain.scores()).abs().max().item()
    return None if off < _TOLERANCE else f"{aggregation}, {classes} classes, {dtype}: off by up to {off:.2g}"


def some_map(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """A random channels-last map in steps of 1/16: values tie, and sums of two are exact in bfloat16, too.

    (Triton's interpreter, which tests use, cuts digits off where a GPU rounds.)
    """
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).clamp(-4, 4)
    return ((x * 16).round() / 16).to(device, dtype).contiguous(memory_format=_LAST)


def _right(what: str, find_wrong: Callable[[], str | None]) -> bool:
    try:
        wrong = find_wrong()
    except Exception as error:  # a kernel that compiles may not start
        wrong = f"{type(error).__name__}: {error}"
    if wrong is not None:
        _log().warning("Triton's kernels compute wrong here, so the %s uses torch's operations (%s)", what, wrong)
    return wrong is None


def _log() -> logging.Logger:
    return logging.getLogger(__name__)
