"""How large everything is: as the figures of docs/performance.md ask for, or as small as possible to try the code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Device = Literal["cuda", "cpu"]


@dataclass(frozen=True)
class Sizes:
    """Sizes of all sections; those of the full measurement are the defaults."""

    device: Device = "cuda"
    quick: bool = False
    wide: float = 1.0
    """Width of the paper's network."""
    narrow: float = 0.125
    classes: int = 21
    proposals: int = 50
    """Of an image; as many crops go through the network at once."""
    training_batch: int = 32
    image: tuple[int, int] = (375, 500)
    """Height and width, in pixels."""
    at_once: int = 4
    """Images in a batch, as in the job."""
    calls: int = 4
    """Batches in one timing."""
    crf_images: int = 2
    """For the comparison of the CRF's backends."""
    scenes: int = 3
    seconds: float = 1.5
    """For each function that is timed."""
    matrix_side: int | None = None

    @property
    def interpreted(self) -> bool:
        """Whether Triton's kernels run in its interpreter, since there is no GPU."""
        return self.device == "cpu"


def quick(device: Device) -> Sizes:
    """The smallest sizes, whose figures mean nothing."""
    return Sizes(
        device=device, quick=True, wide=1 / 16, narrow=1 / 16, classes=3, proposals=1, training_batch=2,
        image=(12, 20), at_once=1, calls=2, crf_images=1, scenes=1, seconds=0.001, matrix_side=128,
    )  # fmt: skip
