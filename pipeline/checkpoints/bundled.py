"""The checkpoints that come with the project, and what each of them knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEMO, VOC, VOC_FCN = "demo", "voc", "voc-fcn"


@dataclass(frozen=True)
class Bundled:
    """A checkpoint that comes with the project."""

    recipe: str
    """What it is made for."""
    knows: str
    """What a run with it says first, in one line."""


BUNDLED = {
    DEMO: Bundled(
        "deconvnet+crf",
        "this network knows six toy classes of generated scenes; leave --weights out for photographs",
    ),
    VOC: Bundled("voc", "these networks know the 20 classes of PASCAL VOC in photographs"),
    VOC_FCN: Bundled("fcn+crf", "this network knows the 20 classes of PASCAL VOC in photographs"),
}
"""By the value of `--weights`."""


def weights_uri(weights: str) -> str:
    """Where a `--weights` or `--fcn` setting lies: a path or URI as given, or the bundled file of a name."""
    return str(Path(__file__).parent / f"{weights.replace('-', '_')}.safetensors") if weights in BUNDLED else weights
