"""The checkpoints that ship with the project."""

from __future__ import annotations

from pathlib import Path

DEMO, VOC_FCN = "demo", "voc-fcn"
RECIPES = {DEMO: "deconvnet+crf", VOC_FCN: "fcn+crf"}
"""Which recipe a shipped checkpoint is made for."""


def weights_uri(weights: str) -> str:
    """Where a `--weights` or `--fcn` setting lies: a path or URI as given, or the shipped file of a name."""
    return str(Path(__file__).parent / f"{weights.replace('-', '_')}.safetensors") if weights in RECIPES else weights
