"""Networks for whole images, a file for each kind, under the name that `config.networks.KINDS` has for it.

A kind's file has

- `MODULES`, the modules that it needs, imported only where they are used; its extra has the kind's name;
- `load(name)`: the network (`models.members.WholeImageNetwork`), loaded and checked as far as its file allows.
"""

from __future__ import annotations

import importlib

import torch

from pipeline import storage
from pipeline.config.networks import FcnKind, parse_network
from pipeline.datasets.class_list import read_class_list
from pipeline.errors import CheckpointError
from pipeline.imaging.classes import VOC_CLASSES, check_classes
from pipeline.models.members import WholeImageNetwork, load_member

TRIED = (64, 96)
"""Height and width of the image that a network is tried on."""


def load_network(text: str, fcn_kind: FcnKind = "auto") -> WholeImageNetwork:
    """Load a network that sees whole images.

    Args:
        text: a value of `--weights` or `--fcn`, with an absolute address.
        fcn_kind: what a file without a kind holds.

    Raises:
        CheckpointError: it cannot be used, or a module is not installed; the message says what to do.
        ConfigError: there is no such kind.
        OSError: a file cannot be read.
    """
    name = parse_network(text, fcn_kind)
    if not name.kind:
        return load_member(storage.read_bytes(text), text, fcn_kind)
    kind = importlib.import_module(f"pipeline.models.kinds.{name.kind}")
    for module in kind.MODULES:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise CheckpointError(
                f"{text} needs the package {module} ({error}): pip install 'deconvnet-ray[{name.kind}]'"
            ) from error
    network: WholeImageNetwork = kind.load(name)
    return network


def names_for(network: WholeImageNetwork, text: str, classes: str | None) -> tuple[str, ...]:
    """The names of a network's classes, background first.

    Args:
        network: the network.
        text: what to call it in error messages.
        classes: a list of names that is preferred to the network's own; None: its own, VOC's if it has VOC's number of
            classes, else `class_0` and so on.

    Raises:
        CheckpointError: it has another number of classes, or its names cannot be a run's.
        ValueError: the list cannot be used.
        OSError: the list cannot be read.
    """
    names = network.class_names if classes is None else read_class_list(classes)
    if names is None:
        numbered = tuple(f"class_{number}" for number in range(network.num_classes))
        names = VOC_CLASSES if network.num_classes == len(VOC_CLASSES) else numbered
    if len(names) != network.num_classes:
        given = f"{text}'s own names are" if classes is None else f"--classes {classes} names"
        raise CheckpointError(
            f"{text} has {network.num_classes} classes, and {given} {len(names)}; give --classes a file with "
            f"{network.num_classes} names, one a line, background first"
        )
    try:
        return check_classes(names)
    except ValueError as error:
        raise CheckpointError(f"{text}: {error}; --classes FILE gives others") from error


def try_out(network: WholeImageNetwork, text: str) -> None:
    """Run a network once, so that one that cannot is found before it fails image by image.

    Raises:
        CheckpointError: it raises, or its scores are none.
    """
    image_3HW = torch.arange(3 * TRIED[0] * TRIED[1]).remainder(251).to(torch.uint8).view(3, *TRIED)
    try:
        scores_CHW = network.scores(image_3HW)
    except CheckpointError:
        raise
    except Exception as error:  # whatever other code raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise CheckpointError(f"{text} failed on an image of {TRIED[0]} x {TRIED[1]} pixels: {reason}") from error
    shape = (network.num_classes, *TRIED)
    if scores_CHW.shape != shape:
        raise CheckpointError(f"{text} gave scores {list(scores_CHW.shape)} for an image; {list(shape)} are needed")
    if not scores_CHW.isfinite().all():
        raise CheckpointError(f"{text} gave NaN or infinity for an image; scores must be finite")
