"""The Triton kernels against torch: each check raises AssertionError if a kernel computes something else.

On a GPU, or in Triton's interpreter (TRITON_INTERPRET=1, before Triton is imported). The tests run the same checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.network import trained_looking
from pipeline.config.stages import Aggregation
from pipeline.inference import kernels
from pipeline.inference.aggregate import Canvas
from pipeline.inference.aggregate_gpu import KNOWN, GatheredCanvas
from pipeline.inference.form import InferenceNet, inference_form
from pipeline.inference.graphs import GraphedNet
from pipeline.models.deconvnet import DeconvNet

LAST = torch.channels_last
DTYPES = (torch.float32, torch.bfloat16)
SHAPES = ((2, 7, 6, 10), (1, 64, 14, 22), (3, 1, 2, 2))
Values = Literal["few", "many", "odd"]
VALUES: tuple[Values, ...] = ("few", "many", "odd")


def checks(device: torch.device, *, quick: bool = False) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every check by name.

    Args:
        device: a GPU, or a CPU for the interpreter.
        quick: one of each kind.
    """
    for shape, values, dtype in product(SHAPES[:1] if quick else SHAPES, VALUES[-1:] if quick else VALUES, DTYPES):
        name = f"bias, ReLU, pooling, unpooling: {list(shape)}, {values} values, {_name(dtype)}"
        yield name, partial(pooling_is_torchs, shape, dtype, values, device)
    for rule, dtype in product(KNOWN[:1] if quick else KNOWN, DTYPES[:1] if quick else DTYPES):
        yield f"aggregation: {rule}, {_name(dtype)}", partial(gathering_is_pasting, rule, dtype, device)
    yield "aggregation of nothing", partial(nothing_gives_zeros, device)
    yield "the whole network", partial(the_network_is_the_network, device)
    if device.type == "cuda":
        yield "the network as a graph", partial(a_graph_is_the_network, device)


def some_map(shape: tuple[int, ...], dtype: torch.dtype, values: Values, device: torch.device) -> Tensor:
    """Values that tie often (`few`), hardly ever (`many`), or are NaN or infinite here and there (`odd`)."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator)
    if dtype == torch.bfloat16:  # sums of two of these are exact: the interpreter cuts digits off where a GPU rounds
        x = (x.clamp(-4, 4) * 16).round() / 16
    if values == "few":
        x = x.round()
    elif values == "odd":
        draw = torch.rand(shape, generator=generator)
        x[draw < 0.2], x[draw > 0.9] = torch.nan, torch.inf
    return x.to(device, dtype).contiguous(memory_format=LAST)


def pooling_is_torchs(shape: tuple[int, ...], dtype: torch.dtype, values: Values, device: torch.device) -> None:
    """The kernels between the convolutions, bit for bit."""
    x_NCHW = some_map(shape, dtype, values, device)
    bias_C = some_map((1, shape[1], 1, 1), dtype, "many", device).flatten()
    activated_NCHW = F.relu(x_NCHW + bias_C.view(1, -1, 1, 1))
    expected, indices = F.max_pool2d(activated_NCHW, 2, 2, return_indices=True)
    pooled, places = kernels.bias_relu_pool(x_NCHW, bias_C)
    same = partial(torch.testing.assert_close, rtol=0, atol=0, equal_nan=True)
    same(pooled, expected)
    width = shape[3]
    same(places.long(), indices // width % 2 * 2 + indices % width % 2)
    # What the decoder brings back has nothing to do with what was pooled.
    returning = some_map(tuple(pooled.shape), dtype, "many", device)
    unpooled = kernels.unpool(returning, places)
    same(unpooled, F.max_unpool2d(returning, indices, [2, 2], [2, 2]))
    assert unpooled.is_contiguous(memory_format=LAST)
    same(kernels.bias_relu_(x_NCHW.clone(memory_format=LAST), bias_C), activated_NCHW)


def the_network_is_the_network(device: torch.device) -> None:
    """A whole forward pass with the kernels, in float32 without TF32.

    A pooling cell whose two largest values are equal up to rounding may choose the other one, and one such value moved
    by a pixel is already 1e-3 of the scores' norm. A wrong kernel changes all of it.
    """
    net = trained_looking(DeconvNet(3, width=1 / 16))
    crops_N3HW = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(3)).to(device)
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        expected = net.to(device)(crops_N3HW)
        form = InferenceNet(net, kernels.STEPS).to(device, memory_format=LAST)  # type: ignore[call-overload]
        got = form(crops_N3HW.contiguous(memory_format=LAST))
    off, equal = _distance(got, expected), (got.argmax(1) == expected.argmax(1)).float().mean().item()
    assert off < 5e-3, f"scores are off by {off:.2g} of their norm"
    assert equal > 0.999, f"{equal:.4%} of the labels are equal"


def gathering_is_pasting(aggregation: Aggregation, dtype: torch.dtype, device: torch.device) -> None:
    """The aggregation's kernel against `Canvas`, which goes window by window."""
    classes, height, width = 5, 22, 35
    # Across tiles of 4 x 16 pixels, ending and beginning a pixel inside one, over the rim, beside the image, on no
    # pixel's centre, on one, all in one place; the right and lower rim under one window or none.
    rectangles_N4 = np.array([[3.3, 2.2, 16.51, 19.51], [14.5, -7.5, 33.4, 5.1], [-9, 6.5, 17, 13.4], [60, 40, 80, 60],
                              [7.2, 9.1, 7.4, 9.3], [11.4, 12.4, 12.7, 13.6], [14.7, 14.6, 33.2, 17.3]])  # fmt: skip
    maps_NCSS = some_map((len(rectangles_N4), classes, 224, 224), dtype, "many", device)
    maps_NCSS[0, 2, 95:110, 150:190] = torch.nan
    plain = Canvas(classes, height, width, aggregation, device)
    gathered = GatheredCanvas(classes, height, width, aggregation, device, len(rectangles_N4))
    for scores_CSS, rectangle_4 in zip(maps_NCSS, rectangles_N4, strict=True):
        plain.paste(scores_CSS, rectangle_4)
        gathered.paste(scores_CSS, rectangle_4)
    # Pasting computes its places in float32: 1e-5 of a crop's pixel, between neighbours that differ by up to 8.
    torch.testing.assert_close(gathered.scores(), plain.scores(), rtol=0, atol=1e-4, equal_nan=True)
    assert (gathered.scores() - plain.scores()).abs().nanmean() < 1e-5
    assert 0 < plain.scores().isnan().sum() < 20
    assert (plain.scores() == 0).all(dim=0).any()


def nothing_gives_zeros(device: torch.device) -> None:
    """An image without windows."""
    assert not GatheredCanvas(3, 4, 5, "max", device, 0).scores().any()


def a_graph_is_the_network(device: torch.device) -> None:
    """A CUDA graph for full and partial micro-batches; its convolutions may be by other algorithms, see above."""
    net = trained_looking(DeconvNet(3, width=1 / 16))
    form = inference_form(net, device, torch.float32)
    graphed = GraphedNet(form)
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for crops in (2, 4, 3, 1, 4):  # the second records anew, the later ones are padded
            crops_N3HW = torch.randn(crops, 3, 224, 224, device=device).contiguous(memory_format=LAST)
            expected = form(crops_N3HW)
            off = _distance(graphed(crops_N3HW), expected)
            assert off < 5e-3, f"{crops} crops are off by {off:.2g} of their norm"


def _distance(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
