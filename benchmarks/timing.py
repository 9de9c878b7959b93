"""Timing several functions against each other on a machine that may be doing other work."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.inference.precision import instructions

MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
SHORTEST = 0.01
"""Least seconds of one timing; shorter functions are repeated."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Taken:
    """Seconds per call: the median, and the interquartile range relative to it."""

    median: float
    spread: float


def measure(works: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Taken]:
    """Time functions in turns, so that other work on the machine affects all of them equally; waits for the device.

    Args:
        works: the functions by name; each is called once before it is timed.
        seconds: to spend on each of them; each is timed at least three times.
    """
    calls, taken = {}, {}
    for name, work in works.items():
        work()
        first = _seconds(work, 1)
        calls[name], taken[name] = max(1, int(SHORTEST / first)), [first]
    end = time.perf_counter() + seconds * len(works)
    while time.perf_counter() < end or len(next(iter(taken.values()))) < 3:
        for name, work in works.items():
            taken[name].append(_seconds(work, calls[name]) / calls[name])
    quartiles = {name: np.percentile(values, [25, 50, 75]) for name, values in taken.items()}
    return {name: Taken(float(q[1]), float((q[2] - q[0]) / q[1])) for name, q in quartiles.items()}


def _seconds(work: Callable[[], Any], calls: int) -> float:
    _wait()
    started = time.perf_counter()
    for _ in range(calls):
        work()
    _wait()
    return time.perf_counter() - started


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def fast_dtypes(device: torch.device) -> dict[str, torch.dtype]:
    """The types to compare, by name: bfloat16 only if the device has instructions for it.

    Without them, a processor is many times slower in bfloat16 than in float32: minutes instead of seconds.
    """
    fast = device.type != "cpu" or instructions() is not None
    return DTYPES if fast else {"float32": torch.float32}


def matrix_product(
    device: torch.device, dtype: torch.dtype, side: int | None = None
) -> tuple[Callable[[], Tensor], float]:
    """A large matrix product to compare networks with, and its floating-point operations.

    On a GPU a product in float32 is rounded to TF32 where convolutions are, which torch allows unless it is told
    otherwise: the product's rate is to be a bound of theirs.

    Args:
        device: where to compute.
        dtype: of the matrices.
        side: of the matrices; None: `MATRIX_SIDE`.
    """
    side = side or MATRIX_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

    def product() -> Tensor:
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
        try:
            return a @ b
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    return product, 2.0 * side**3
