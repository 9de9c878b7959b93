"""The checkpoint that ships with the project."""

from __future__ import annotations

from pathlib import Path

DEMO = "demo"


def weights_uri(weights: str) -> str:
    """Where a `--weights` setting lies: a path or URI as given, or the shipped file for `demo`."""
    return str(Path(__file__).parent / "demo.safetensors") if weights == DEMO else weights
