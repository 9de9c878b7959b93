"""What another library's network, given as if it were a checkpoint of this project, is written as instead."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

from pipeline import storage
from pipeline.config.networks import KINDS, NetworkName
from pipeline.errors import CheckpointError, ConfigError
from pipeline.inputs.named import check_named
from pipeline.models.checkpoint_header import METADATA_KEY, safetensors_header
from pipeline.outputs.layout import DECONVNET, FCN

HF_CONFIG, HF_WEIGHTS = "config.json", "model.safetensors"
"""Files by which a folder of transformers is known."""
PICKLED = (".pth", ".pt", ".bin")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_ENDING = re.compile(r"\.[A-Za-z]\w*$")


def check_named_network(option: str, name: NetworkName) -> None:
    """Make sure that the file or folder of a network exists, and is none of another library given without its kind.

    Args:
        option: the setting, as on the command line without its dashes.
        name: its value, with an absolute address.

    Raises:
        ConfigError: it does not exist, or has to be written in another way; the message says in which.
        OSError: a store gives no answer.
    """
    if name.uri is None:
        return
    if (hub := _hub_name(name)) is not None and not storage.exists(name.uri):
        folder = hub.rpartition("/")[2]
        raise ConfigError(
            f"--{option} is {name.uri}, which does not exist. If {hub} of the Hugging Face Hub is meant: a run "
            f"downloads nothing, so fetch it first (`hf download {hub} --local-dir {folder}`) and write hf:{folder}"
        )
    check_named(option, name.uri)
    if name.kind:
        return
    if (instead := _instead_of(name.uri)) is not None:
        raise ConfigError(f"--{option} is {name.uri}, which is no checkpoint of this project; write {instead}")
    if storage.is_folder(name.uri):
        raise ConfigError(
            f"--{option} is {name.uri}, a folder without {HF_CONFIG}; give a checkpoint (.safetensors), or write "
            f"{', '.join(KINDS.values())}"
        )


def architecture_of(tensors: Iterable[str]) -> str | None:
    """The name in torchvision of the segmentation network that has tensors of these names; None: of none."""
    names = set(tensors)
    if "classifier.high_classifier.weight" in names:
        return "lraspp_mobilenet_v3_large"
    if "classifier.4.weight" not in names:
        return None
    head = "deeplabv3" if "classifier.0.convs.0.0.weight" in names else "fcn"
    if "backbone.layer1.0.conv1.weight" in names:
        return f"{head}_resnet{101 if 'backbone.layer3.22.conv1.weight' in names else 50}"
    return "deeplabv3_mobilenet_v3_large" if head == "deeplabv3" and "backbone.0.0.weight" in names else None


def _hub_name(name: NetworkName) -> str | None:
    """What may be a model's name on the Hub: OWNER/NAME, where there is no folder OWNER."""
    assert name.uri is not None
    if name.kind not in {"", "hf"} or not storage.is_local(name.uri):
        return None
    given = name.uri.removeprefix(f"{Path.cwd()}/")
    fits = _HUB_NAME.fullmatch(given) and not _ENDING.search(given)  # a mistyped file's name has an ending
    return given if fits and not storage.exists(storage.parent(name.uri)) else None


def _instead_of(uri: str) -> str | None:
    """How to write the network of a file or folder that is no checkpoint; None: it is one, or nothing that is known."""
    if storage.is_folder(uri):
        if storage.exists(storage.join(uri, HF_CONFIG)):
            return f"hf:{uri}"
        made = (storage.join(uri, file) for file in (DECONVNET, FCN))
        return next((file for file in made if storage.exists(file)), None)
    if uri.lower().endswith(".onnx"):
        return f"onnx:{uri}"
    folder, _, file = uri.rpartition("/")
    if file == HF_WEIGHTS and storage.exists(storage.join(folder, HF_CONFIG)):
        return f"hf:{folder}"
    architecture = architecture_of(_tensors_in(uri))
    return None if architecture is None else f"torchvision:{architecture}={uri}"


def _tensors_in(uri: str) -> list[str]:
    """Names of the tensors in a file of another library; none if it is a checkpoint, or cannot be read as tensors."""
    if uri.lower().endswith(PICKLED):
        from pipeline.models.checkpoint import load_state_dict  # imports torch

        with suppress(CheckpointError):
            return list(load_state_dict(storage.read_bytes(uri), uri))
        return []
    header = safetensors_header(storage.size(uri), partial(storage.read_range, uri)) or {}
    described = METADATA_KEY in (header.get("__metadata__") or {})
    return [] if described else list(header)
