"""Settings of the generated scenes."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config.checks import require, require_local


@dataclass(frozen=True)
class ScenesConfig:
    """A synthetic dataset in VOC's layout."""

    output: str
    """Local directory of the dataset: new, empty, or holding this same dataset."""
    train: int = 400
    """Training images."""
    val: int = 24
    """Validation images."""
    seed: int = 0
    """Seed; scenes depend only on it, the split and the image's number."""

    def __post_init__(self) -> None:
        require_local("output", self.output)
        for name in ("train", "val"):
            require(0 <= getattr(self, name) <= 1_000_000, name, getattr(self, name), "must lie in 0..1000000")
        require(self.seed >= 0, "seed", self.seed, "must be 0 or more")
