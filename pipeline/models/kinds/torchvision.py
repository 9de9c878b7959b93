"""torchvision's segmentation networks, from a state dict in a local file or a store."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from pipeline import storage
from pipeline.config.networks import NetworkName
from pipeline.errors import CheckpointError
from pipeline.models.checkpoint import Preprocessing, fingerprint, load_state_dict
from pipeline.models.foreign import architecture_of
from pipeline.models.members import Member

MODULES = ("torchvision",)
SHORT_SIDE = 520
"""torchvision's segmentation networks were evaluated on images resized to this shorter side (its `transforms`)."""
LONG_SIDE = 2 * SHORT_SIDE
"""Limit of the longer side for them, so that a panorama does not fill the memory; not torchvision's."""
SHOWN = 3
"""Most names of tensors in a message."""
LAST_LAYERS = ("classifier.4.weight", "classifier.high_classifier.weight")
"""The convolution to the classes in torchvision's heads; the second is LR-ASPP's."""


def load(name: NetworkName) -> Member:
    """The network of a state dict, with the preprocessing of torchvision's own weights (ImageNet's mean and deviation).

    Raises:
        CheckpointError: torchvision has no such architecture, or the file is no state dict of it.
        OSError: the file cannot be read.
    """
    assert name.uri is not None
    return load_bytes(storage.read_bytes(name.uri), name.uri, name.what)


def load_bytes(data: bytes, uri: str, architecture: str) -> Member:
    """The same, from the file's content.

    Args:
        data: a state dict, `.pth` of plain tensors or safetensors.
        uri: what to call the file in error messages.
        architecture: torchvision's name for it.

    Raises:
        CheckpointError: as `load`.
    """
    import torchvision

    known = torchvision.models.list_models(torchvision.models.segmentation)
    if architecture not in known:
        raise CheckpointError(f"torchvision has no segmentation network {architecture}; there is {', '.join(known)}")
    state = {key: value for key, value in load_state_dict(data, uri).items() if not key.startswith("aux_classifier.")}
    last = [key for key in LAST_LAYERS if key in state]
    if not last:
        raise CheckpointError(f"{uri} is no {architecture} of torchvision: {_why_none(state)}")
    num_classes = len(state[last[0]])
    with torch.device("meta"):  # see `fill`
        net: nn.Module = torchvision.models.get_model(
            architecture, weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=False
        )
    try:
        net.load_state_dict(
            {key: value.float() if value.is_floating_point() else value for key, value in state.items()}, assign=True
        )
    except RuntimeError as error:
        why = _what_differs(net.state_dict(), state)
        if (other := architecture_of(state)) not in {None, architecture}:
            why = f"it holds a {other}, write torchvision:{other}={uri}; {why}"
        else:
            why += "; a network that was changed is written as a class of your own, module:Class"
        raise CheckpointError(f"{uri} is no {architecture} of torchvision: {why}") from error
    size = partial(resized, short_side=SHORT_SIDE)
    return Member(net.eval(), Preprocessing(), num_classes, fingerprint(data), size=size)


def _why_none(state: Mapping[str, Tensor]) -> str:
    """Why a state dict is of no segmentation network of torchvision's."""
    if state and all(key.startswith("module.") for key in state):
        return "its names begin with `module.`, as DataParallel has them; save net.module.state_dict() instead"
    has = f"it has {', '.join(list(state)[:SHOWN])}, ..." if state else "it is empty"
    return (
        f"it lacks {LAST_LAYERS[0]}, the layer of the classes ({has}); save the state_dict() of the whole segmentation "
        "network, not of its backbone or of a classifier of images"
    )


def _what_differs(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """The tensors of a state dict that do not fit a network, the first of them by name."""

    def some(names: list[str]) -> str:
        return f"{len(names)} tensors ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"

    lacks = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    more = [key for key in state if key not in wanted]
    differ = [f"{key} {list(value.shape)} instead of {list(wanted[key].shape)}"
              for key, value in state.items() if key in wanted and value.shape != wanted[key].shape]  # fmt: skip
    parts = (("it lacks", lacks), ("has unknown", more), ("has of other shapes", differ))
    return ", ".join(f"{verb} {some(names)}" for verb, names in parts if names)


def resized(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width of an image scaled to a shorter side, or as far as `LONG_SIDE` allows; at least 1 each.

    Cut to whole pixels as in torchvision's `Resize`: a pixel more or less moves what a network says.

    Args:
        height: the image's, in pixels.
        width: the image's, in pixels.
        short_side: the shorter side to scale to, in pixels.
    """
    short, long = sorted((height, width))
    new_short, new_long = short_side, int(short_side * long / short)
    if new_long > LONG_SIDE:
        new_short, new_long = max(1, round(short * LONG_SIDE / long)), LONG_SIDE
    return (new_short, new_long) if height <= width else (new_long, new_short)
