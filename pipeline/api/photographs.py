"""Training on whole photographs with masks, whatever the network: check, claim the output, train or resume, record."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import safetensors.torch
import torch

from pipeline import storage
from pipeline.config import AT_WORK, TrainingSetConfig
from pipeline.config.fcn import TrainFcnConfig
from pipeline.config.lite import TrainLiteConfig
from pipeline.datasets.layouts import Images, list_images, seen_in_training
from pipeline.errors import TrainingError
from pipeline.errors.claim import after_claim
from pipeline.inputs.named import check_named
from pipeline.outputs import layout
from pipeline.outputs.folder import check_folder

if TYPE_CHECKING:
    from pipeline.training.ray.fcn import Method

Config = TrainFcnConfig | TrainLiteConfig
AnyConfig = TypeVar("AnyConfig", TrainFcnConfig, TrainLiteConfig)
State = dict[str, torch.Tensor]
History = list[dict[str, Any]]
RECORD = layout.TRAINING_RECORD
ERRORS_LISTED = 5


@dataclass(frozen=True)
class TrainedPhotographs:
    """The result of a training on photographs.

    Attributes:
        network: the address of the checkpoint.
        mean_iou: of the validation photographs, at the end.
    """

    network: str
    mean_iou: float


def train_photographs(
    method: Method,
    config: Config,
    images: Images,
    first: Callable[[], bytes],
    log: Callable[[str], None],
) -> tuple[State, History]:
    """Claim the output, and train, resume, or read a finished training.

    Args:
        method: the network's.
        config: the settings, with absolute paths.
        images: those to train on.
        first: makes the state dict that training starts from.
        log: prints a line for people.

    Returns:
        The trained state dict, and the figures of every validation.
    """
    record = check_folder(config.output, RECORD, asdict(config), below="config", neutral=AT_WORK | {"output"})
    start_uri = storage.join(config.output, "start.safetensors")
    start = None if storage.exists(start_uri) else first()
    if not storage.exists(storage.join(config.output, "trained.safetensors")):
        from pipeline.cluster import connect

        connect.start_ray()
    with after_claim():
        if record is None:
            _write_record(config, images.class_names, [])
        if start is not None:
            storage.write_atomic(start_uri, start)
        try:
            history = _trained(method, config, images, start_uri, log)
        except SystemExit:  # what Ray Train makes of Ctrl-C
            raise KeyboardInterrupt from None
        return safetensors.torch.load(storage.read_bytes(storage.join(config.output, "trained.safetensors"))), history


def with_absolute_paths(config: AnyConfig) -> AnyConfig:
    """The settings with absolute paths, which mean the same in every worker.

    Raises:
        ConfigError: data, or the file of classes, does not exist.
    """
    data = tuple(storage.absolute(root) for root in config.data)
    for root in data:
        check_named("data", root)
    check_named("classes", config.classes)
    return replace(config, data=data, output=storage.absolute(config.output))


def described(config: Config, images: Images, steps_of: str, history: History) -> str:
    """How a network was trained and what it reached, for its checkpoint.

    Args:
        config: the settings.
        images: those that it was trained and validated on.
        steps_of: what a batch holds, and whatever else people should know.
        history: the figures of every validation.
    """
    names = ", ".join(storage.absolute(root).rpartition("/")[2] for root in config.data)
    split = "" if config.train_split == "train" else f" ({config.train_split})"
    seen = f", {count} of {len(images.val)} trained on" if (count := seen_in_training(images)) else ""
    return (
        f"{names}{split}, {config.steps} steps of {config.batch_size} {steps_of}; validation photographs{seen}: "
        f"pixel accuracy {history[-1]['pixel_accuracy']:.3f}, mean IoU {history[-1]['mean_iou']:.3f}"
    )


def listed(config: Config, log: Callable[[str], None]) -> Images:
    """The photographs of both splits; prints what people should know of them."""
    images = list_images(
        TrainingSetConfig(
            data=config.data,
            output=config.output,
            train_split=config.train_split,
            val_split=config.val_split,
            val_share=config.val_share,
            classes=config.classes,
            limit=config.limit,
        )
    )
    for remark in images.remarks:
        log(f"note: {remark}")
    if not images.val:
        log("note: no photograph is for validation, so there are no figures of it: list some, or give plain folders "
            "a larger --val-share")  # fmt: skip
    return images


def _trained(method: Method, config: Config, images: Images, start_uri: str, log: Callable[[str], None]) -> History:
    """Train, unless an earlier call has finished, and return the history.

    Args:
        method: the network's.
        config: the settings, with absolute paths.
        images: those to train on; photographs that cannot be used are left out and reported.
        start_uri: address of the state dict that training starts from.
        log: prints a line for people.

    Raises:
        TrainingError: no photograph shows an object, the workers failed, or the loss exploded.
    """
    record_uri = storage.join(config.output, RECORD)
    if storage.exists(storage.join(config.output, "trained.safetensors")):
        history: History = json.loads(storage.read_bytes(record_uri))["history"]
        return history
    from pipeline.training.ray import fcn

    found = fcn.look_at(images.train, len(images.class_names))
    bad = [error for error in found if isinstance(error, str)]
    if bad:
        log(f"{len(bad)} of {len(found)} photographs cannot be used: " + "; ".join(bad[:ERRORS_LISTED]))
    usable = [(pair, labels) for pair, labels in zip(images.train, found, strict=True) if not isinstance(labels, str)]
    if not any(label for _, labels in usable for label in labels):
        raise TrainingError("no photograph shows any class but background: there is nothing to learn")
    pairs, labels = zip(*usable, strict=True)
    photographs = fcn.Photographs(list(pairs), list(labels), images.val)
    history = fcn.run_training(method, config, photographs, start_uri, len(images.class_names))
    _write_record(config, images.class_names, history)
    return history


def _write_record(config: Config, class_names: tuple[str, ...], history: History) -> None:
    """Write the settings, the classes and the figures of every validation."""
    record = {"config": asdict(config), "classes": class_names, "torch": torch.__version__, "history": history}
    storage.write_atomic(storage.join(config.output, RECORD), json.dumps(record, indent=1).encode())
