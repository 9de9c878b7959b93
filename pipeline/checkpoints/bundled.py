"""The bundled checkpoints, and which classes each of them has."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

from pipeline.config.networks import parse_network
from pipeline.errors import ConfigError

PACKAGE = ("pipeline", "checkpoints")
DEMO, VOC, VOC_FCN = "demo", "voc", "voc-fcn"


@dataclass(frozen=True)
class Bundled:
    """A bundled checkpoint."""

    recipe: str
    """The recipe that it is made for."""
    knows: str
    """One line about its classes, which a run with it prints first."""


BUNDLED = {
    DEMO: Bundled(
        "deconvnet+crf",
        "this network knows six toy classes of generated scenes; leave --weights out for photographs",
    ),
    VOC: Bundled("voc", "these networks know the 20 classes of PASCAL VOC in photographs"),
    VOC_FCN: Bundled("fcn+crf", "this network knows the 20 classes of PASCAL VOC in photographs"),
}
"""By the value of `--weights`."""


def recipe_for(weights: str) -> str | None:
    """The recipe that a `--weights` setting brings: a bundled file's, or that for whole images; None: none."""
    if weights in BUNDLED:
        return BUNDLED[weights].recipe
    with suppress(ConfigError):  # the settings' own check reports it
        return BUNDLED[VOC_FCN].recipe if parse_network(weights).kind else None
    return None


def weights_uri(weights: str) -> str:
    """The address that a `--weights` or `--fcn` setting means: a path or URI as given, or a bundled file by name."""
    return str(Path(__file__).parent / f"{weights.replace('-', '_')}.safetensors") if weights in BUNDLED else weights


def bundled_name(weights: str) -> str:
    """The opposite of `weights_uri`: the name of a bundled file, wherever the package lay that the address is of."""
    path = PurePath(weights)
    name = path.stem.replace("_", "-")
    return name if path.parts[-3:-1] == PACKAGE and path.suffix == ".safetensors" and name in BUNDLED else weights
