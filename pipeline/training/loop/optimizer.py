"""SGD, its parameter groups and its schedules (paper section 6, and the authors' solvers)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from pipeline.config import TrainConfig
from pipeline.config.training import TrainingStage

Schedule = ReduceLROnPlateau | StepLR


def make_optimizer(net: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """SGD with momentum and weight decay.

    The biases of convolutions and transposed convolutions have their own learning rate and may be exempt from decay.
    Batch normalisation's scale and shift have their own rate too, but decay as fast as the weights: SGD multiplies the
    decay by the rate, so theirs is divided by the factor of their rate.
    """
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    biases = [m.bias for m in convolutions if m.bias is not None]
    norms = [p for m in net.modules() if isinstance(m, nn.BatchNorm2d | nn.SyncBatchNorm) for p in m.parameters()]
    if config.norm_lr_factor == 1:  # in one group with the weights
        norms = []
    apart = {id(p) for p in biases + norms}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in net.parameters() if id(p) not in apart]},
        {
            "params": biases,
            "lr": config.learning_rate * config.bias_lr_factor,
            "weight_decay": config.weight_decay if config.decay_biases else 0.0,
        },
    ]
    if norms:
        groups.append({
            "params": norms,
            "lr": config.learning_rate * config.norm_lr_factor,
            "weight_decay": config.weight_decay / config.norm_lr_factor,
        })  # fmt: skip
    return torch.optim.SGD(
        groups,
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )


def make_schedule(optimizer: torch.optim.SGD, config: TrainConfig, stage: TrainingStage) -> Schedule:
    """A schedule that divides the learning rate by 10, on a plateau or every `lr_steps` steps.

    Args:
        optimizer: the optimizer whose learning rates it will change.
        config: the settings.
        stage: 1 or 2.

    Returns:
        ReduceLROnPlateau, to be stepped with the accuracy of each validation (paper), or StepLR, to be
        stepped after each step (release).
    """
    if config.schedule == "steps":
        return StepLR(optimizer, step_size=config.lr_steps[stage - 1], gamma=0.1)
    return ReduceLROnPlateau(optimizer, mode="max", factor=0.1, patience=config.plateau_patience)
