"""The precision that a network computes in on this processor: bfloat16 where that is faster and right in a trial.

Other processors compute bfloat16 many times slower than float32. Those with instructions differ, too (width of the
vectors, AMX or not, networks with few channels), so both precisions are timed. Processes decide for themselves: the
machines of a cluster may differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config.stages import Precision
from pipeline.inference.predictor import Image, Prediction

INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16", "arm_bf16")
"""Instructions for bfloat16, by torch's names."""
WORTH = 1.2
"""bfloat16 is taken if it is at least this many times as fast: float32 is exact, and timings are noisy."""
ALIKE = 0.95
"""Least share of equal labels in the trial, whose image is harder than photographs; less is a fault, not rounding."""
ROUNDS = 3
IMAGE = (240, 320)
"""Height and width of the trial's image, in pixels."""
MOST_CROPS = 4


class Network(Protocol):
    """What is tried: `Predictor` or `WholeImages`."""

    def predict(self, images: Sequence[Image], boxes: Sequence[NDArray[np.floating]]) -> list[Prediction]:
        """Class probabilities of images."""


Tried = TypeVar("Tried", bound=Network)


def instructions() -> str | None:
    """The first of `INSTRUCTIONS` that this processor has."""
    has = torch.cpu.get_capabilities()
    return next((name for name in INSTRUCTIONS if has.get(name)), None)


def in_best_precision(make: Callable[[Precision], Tried], micro_batch: int, has: str | None) -> tuple[Tried, str]:
    """A network in the precision that suits this processor.

    Args:
        make: loads it in a precision, for the CPU.
        micro_batch: crops that go through it at once.
        has: the processor's instructions for bfloat16 (`instructions`); None: it has none.

    Returns:
        The network, and a line that says which precision this is and why.
    """
    exact = make("float32")
    if has is None:
        return exact, told("float32", "this processor has no instructions for bfloat16")
    try:
        rounded = make("bfloat16")
        precision, why = decide(*trial(exact, rounded, min(micro_batch, MOST_CROPS)))
    except Exception as error:  # whatever other libraries' networks raise
        return exact, told("float32", f"in bfloat16 it failed on a test image, with {type(error).__name__}")
    return rounded if precision == "bfloat16" else exact, told(precision, f"this processor has {has}, and {why}")


def told(precision: Precision, why: str) -> str:
    """A line for people."""
    return f"the network computes in {precision}: {why} (--precision)"


def decide(speed: float, alike: float) -> tuple[Precision, str]:
    """The precision, and why; the reason has no figures that differ from process to process.

    Args:
        speed: how many times as fast as float32 bfloat16 was.
        alike: share of equal labels, 0..1.
    """
    if not alike >= ALIKE:
        return "float32", f"bfloat16 changed more than {1 - ALIKE:.0%} of the labels of a test image"
    if speed < WORTH:
        return "float32", f"bfloat16 was less than {WORTH:g} times as fast"
    return "bfloat16", f"bfloat16 was at least {WORTH:g} times as fast as float32"


def trial(exact: Network, rounded: Network, crops: int) -> tuple[float, float]:
    """Let the same network segment a test image in two precisions, in turns.

    The time is the processor's: on a machine with other work it varies less than the clock's.

    Args:
        exact: the network in float32.
        rounded: the network in bfloat16.
        crops: how many it gets at once, if it sees proposals.

    Returns:
        How many times as fast the second one was, at best; and the share of its labels that equal the first one's.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    labels = [labels_of_test(network, crops) for network in (exact, rounded)]  # also warms up
    for _ in range(ROUNDS):
        for network, taken in zip((exact, rounded), seconds, strict=True):
            started = time.process_time()
            labels_of_test(network, crops)
            taken.append(time.process_time() - started)
    return min(seconds[0]) / min(seconds[1]), float((labels[0] == labels[1]).mean())


def labels_of_test(network: Network, crops: int) -> NDArray[np.int64]:
    """Labels `[H, W]` of the test image, patches of random colours, with some boxes."""
    rng = np.random.default_rng(0)
    patches_HW3 = rng.integers(0, 256, (IMAGE[0] // 20, IMAGE[1] // 20, 3), dtype=np.uint8)
    image_HW3 = patches_HW3.repeat(20, axis=0).repeat(20, axis=1)
    corners_N2 = rng.uniform(0, 80, (crops, 2))
    boxes_N4 = np.hstack([corners_N2, corners_N2 + 160])
    (found,) = network.predict([image_HW3], [boxes_N4])
    labels_HW: NDArray[np.int64] = found.class_ids_K[found.probabilities_KHW.argmax(axis=0)]
    return labels_HW
