"""Settings of the training of the learned edge detector."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config.checks import require, require_kinds, require_local


@dataclass(frozen=True)
class TrainEdgesConfig:
    """Train the edge detector on the outlines that people drew on BSDS500's photographs, on one core, and score it.

    The same data, settings and machine give the same file.
    """

    data: str
    """Local folder of BSDS500: images/train/*.jpg, groundTruth/train/*.mat and the same of val."""
    output: str
    """Local file for the network, .safetensors; a .json beside it says how it was trained and how good it is."""
    steps: int = 5000
    """Batches to train for."""
    hold_out: int = 40
    """Training images that are held out to score the network, never trained on."""
    batch_size: int = 8
    """Crops per step."""
    crop: int = 256
    """Side of a crop, in pixels."""
    learning_rate: float = 4e-3
    """Highest learning rate of Adam; it rises for a tenth of the time and falls to nothing."""
    seed: int = 0
    """Seed of weights, crops, rotations and order."""

    def __post_init__(self) -> None:
        require_kinds(self)
        for name in ("data", "output"):
            require_local(name, getattr(self, name))
        require(self.steps >= 1, "steps", self.steps, "must be at least 1")
        require(self.crop >= 32 and self.crop % 16 == 0, "crop", self.crop, "a multiple of 16, at least 32")
        require(self.hold_out >= 0, "hold_out", self.hold_out, "must be 0 or more")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "must be at least 1")
