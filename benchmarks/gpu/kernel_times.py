"""Each Triton kernel against torch's own operations and a copy, on the maps of the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.kernel_checks import LAST, some_map
from benchmarks.timing import measure
from pipeline.imaging.geometry import CROP
from pipeline.inference import kernels
from pipeline.models.deconvnet import ENCODER, pool, scaled, unpool

KERNELS = ("bias and ReLU", "bias, ReLU, pooling", "unpooling")


def run(width: float, crops: int, dtype: torch.dtype, device: torch.device, seconds: float) -> list[dict[str, Any]]:
    """Milliseconds of each kernel, of torch, and of a copy that moves as many bytes, for the maps of each block.

    Args:
        width: of the network.
        crops: in a micro-batch.
        dtype: of the maps.
        device: where they lie.
        seconds: for each function.
    """
    rows = []
    for block, channels in ENCODER.items():
        shape = (crops, scaled(channels[-1], width), CROP >> (block - 1), CROP >> (block - 1))
        with torch.inference_mode():
            for name, (by_torch, by_kernel, moved) in _works(shape, dtype, device).items():
                works = {"torch": by_torch, "kernel": by_kernel, "copy": _copy(moved, device)}
                taken = measure(works, seconds)
                rows.append({
                    "kernel": name, "map": "x".join(map(str, shape)),
                    **{f"{one}, ms": taken[one].median * 1e3 for one in works},
                    "speed": taken["torch"].median / taken["kernel"].median,
                    "of a copy": taken["copy"].median / taken["kernel"].median,
                })  # fmt: skip
    return rows


def _works(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
) -> dict[str, tuple[Callable[[], object], Callable[[], object], int]]:
    """By torch, by the kernel, and the bytes that the kernel reads and writes."""
    x_NCHW = some_map(shape, dtype, "many", device)
    bias_C = torch.zeros(shape[1], dtype=dtype, device=device)  # so that adding it in place again changes nothing
    bias_1C11 = bias_C.view(1, -1, 1, 1)
    mine_NCHW, theirs_NCHW = (x_NCHW.clone(memory_format=LAST) for _ in range(2))
    pooled_NCHW, places_NCHW = kernels.bias_relu_pool(x_NCHW, bias_C)
    indices_NCHW = pool(x_NCHW)[1]

    def torchs_pool() -> tuple[Tensor, Tensor]:
        return pool(F.relu(x_NCHW + bias_1C11, inplace=True))

    cells = pooled_NCHW.nbytes + places_NCHW.nbytes
    found = (
        (lambda: theirs_NCHW.add_(bias_1C11).relu_(), lambda: kernels.bias_relu_(mine_NCHW, bias_C), 2 * x_NCHW.nbytes),
        (torchs_pool, lambda: kernels.bias_relu_pool(x_NCHW, bias_C), x_NCHW.nbytes + cells),
        (
            lambda: unpool(pooled_NCHW, indices_NCHW),
            lambda: kernels.unpool(pooled_NCHW, places_NCHW),
            x_NCHW.nbytes + cells,
        ),
    )
    return dict(zip(KERNELS, found, strict=True))


def _copy(moved: int, device: torch.device) -> Callable[[], Tensor]:
    """A copy that reads and writes so many bytes together."""
    source, target = (torch.zeros(moved // 2, dtype=torch.uint8, device=device) for _ in range(2))
    return lambda: target.copy_(source)
