"""From photographs with class masks and a light FCN to a light DeconvNet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from pipeline import storage
from pipeline.api.photographs import (
    History,
    TrainedPhotographs,
    described,
    listed,
    train_photographs,
    with_absolute_paths,
)
from pipeline.checkpoints.bundled import weights_uri
from pipeline.config.lite import TrainLiteConfig
from pipeline.datasets.layouts import Images
from pipeline.errors import CheckpointError
from pipeline.inputs.named import check_named
from pipeline.models.checkpoint import CheckpointInfo, dump_checkpoint, dump_state_dict
from pipeline.models.efficientnet import INPUT
from pipeline.models.litedeconvnet import initialise
from pipeline.models.litefcn import LiteFCN
from pipeline.models.members import load_member
from pipeline.outputs import layout
from pipeline.training.lite.loop import Taught
from pipeline.training.lite.teacher import check_teacher

EXPORT = layout.DECONVNET


def train_lite(options: TrainLiteConfig, log: Callable[[str], None] = print) -> TrainedPhotographs:
    """Train a light DeconvNet on a Ray cluster; arguments, errors and resuming as for `train_fcn`."""
    config = with_absolute_paths(replace(options, fcn=storage.absolute(weights_uri(options.fcn))))
    check_named("fcn", config.fcn)
    if config.teacher is not None:
        config = replace(config, teacher=storage.absolute(weights_uri(config.teacher)))
        check_named("teacher", config.teacher)
    images = listed(config, log)
    if config.teacher is not None:
        check_teacher(config.teacher, images.class_names)
    start = first_network(config, images.class_names)
    from pipeline.training.ray.lite import LITE

    state, history = train_photographs(LITE, config, images, lambda: dump_state_dict(start), log)
    target = storage.join(config.output, EXPORT)
    start.load_state_dict(state)
    storage.write_atomic(target, export(config, start, images, history))
    return TrainedPhotographs(target, history[-1]["mean_iou"])


def first_network(config: TrainLiteConfig, class_names: tuple[str, ...]) -> Taught:
    """The network that training starts from: the FCN unchanged, and a random decoder.

    Raises:
        CheckpointError: the FCN cannot be used, or has other classes.
    """
    member = load_member(storage.read_bytes(config.fcn), config.fcn, "litefcn")
    assert isinstance(member.net, LiteFCN)
    if member.class_names != class_names:
        raise CheckpointError(
            f"{config.fcn} knows the classes {', '.join(member.class_names or ())}; the photographs have "
            f"{', '.join(class_names)}"
        )
    torch.manual_seed(config.seed)
    net = Taught(member.net, all_layers=config.backbone_factor > 0)
    initialise(net.decoder)
    return net


def export(config: TrainLiteConfig, net: Taught, images: Images, history: History) -> bytes:
    """The checkpoint for users, in float16, with a line that says how it was trained.

    Args:
        config: the settings.
        net: the trained network.
        images: those of the training.
        history: the figures of every validation.
    """
    whole = net.whole()
    teacher = "an FCN" if config.teacher is None else config.teacher.rpartition("/")[2]
    info = CheckpointInfo(
        images.class_names,
        whole.width,
        INPUT,
        trained_on=described(config, images, f"windows, taught by {teacher}, validated in one window", history),
        architecture="litedeconvnet",
        encoder=whole.variant,
        window_shape="square",
    )
    return dump_checkpoint(whole, info, torch.float16)
