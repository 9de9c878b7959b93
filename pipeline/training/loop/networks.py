"""The checkpoint that a training starts from, and the one that it exports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from pipeline import storage
from pipeline.config import TrainConfig
from pipeline.config.stages import WindowShape
from pipeline.errors import CheckpointError
from pipeline.models.background import hold_back_background
from pipeline.models.checkpoint import CheckpointInfo, dump_checkpoint, load_checkpoint, load_state_dict
from pipeline.models.deconvnet import DeconvNet
from pipeline.models.initialise import initialise, load_vgg16


def first_network(config: TrainConfig, class_names: tuple[str, ...], window_shape: WindowShape) -> bytes:
    """The checkpoint that training starts from: `init`, or random weights with VGG-16 in the encoder if given.

    Its description has the classes and the shape of the windows that it will be trained on.

    Args:
        config: the settings.
        class_names: those of the training set, background first.
        window_shape: that of the training set's windows.

    Returns:
        The bytes of the checkpoint.

    Raises:
        CheckpointError: a file cannot be used, or has other classes.
        OSError: a file cannot be read.
    """
    if config.init is not None:
        checkpoint = load_checkpoint(storage.read_bytes(config.init), config.init)
        if checkpoint.info.class_names != class_names:
            raise CheckpointError(
                f"{config.init} knows the classes {', '.join(checkpoint.info.class_names)}; the training set has "
                f"{', '.join(class_names)}"
            )
        # Training computes the statistics that a converted training file lacks.
        info = replace(checkpoint.info, batch_statistics=True, window_shape=window_shape)
        return dump_checkpoint(checkpoint.net, info)
    # The file first: drawing the random numbers of a full network takes seconds.
    vgg16 = None if config.vgg16 is None else load_state_dict(storage.read_bytes(config.vgg16), config.vgg16)
    net = DeconvNet(len(class_names), config.width)
    initialise(net, config.seed)
    if vgg16 is not None:
        load_vgg16(net, vgg16)
    return dump_checkpoint(net, CheckpointInfo(class_names, config.width, window_shape=window_shape), torch.float32)


def export(config: TrainConfig, network: bytes, best: Mapping[str, Any]) -> bytes:
    """The checkpoint for users: the best network, with a line that says how it was trained.

    Args:
        config: the settings.
        network: the last stage's best network, a checkpoint.
        best: the history's entry of the epoch that gave it.
    """
    checkpoint = load_checkpoint(network)
    hold_back_background(checkpoint.net, config.export_background)
    name = storage.absolute(config.training_set).rpartition("/")[2]
    trained_on = (
        f"{name}, stages {config.stages}, {best['epoch'] + 1} epochs of the last; validation windows: "
        f"pixel accuracy {best['val']['pixel_accuracy']:.3f}, mean IoU {best['val']['mean_iou']:.3f}"
    )
    dtype = torch.float16 if config.export_precision == "float16" else torch.float32
    return dump_checkpoint(checkpoint.net, replace(checkpoint.info, trained_on=trained_on), dtype)
