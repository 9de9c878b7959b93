"""The light networks in training: parameters, learning rate, steps, validation, and a state that survives a kill."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.config.fcn import TrainFcnConfig
from pipeline.config.lite import TrainLiteConfig
from pipeline.errors import TrainingError
from pipeline.models.efficientnet import INPUT
from pipeline.training.fcn.losses import loss_of
from pipeline.training.loop.state import MOMENTUM_FILE, NETWORK_FILE, PROGRESS_FILE
from pipeline.training.seeds import seed_of

WARM_UP = 100
"""Steps over which the learning rate rises."""
POWER = 0.9
"""Exponent of its fall to zero."""
CLIP = 5.0
"""Largest norm of the gradient."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps for each parameter, besides the number of steps."""

Config = TrainFcnConfig | TrainLiteConfig
Batch = tuple[Tensor, Tensor]
"""Crops uint8 `[N, 3, S, S]` RGB, labels uint8 `[N, S, S]`."""


def by_turns(scores_NChw: Tensor, labels_NHW: Tensor, step: int) -> Tensor:
    """The FCN's loss, `loss_of`, with the phase alternating from step to step.

    Args:
        scores_NChw: scores before softmax at a quarter of the labels' resolution.
        labels_NHW: int64; `VOID` does not count.
        step: number of the step.
    """
    return loss_of(scores_NChw.float(), labels_NHW, step % 2)


@dataclass
class Training:
    """The whole state of a run between two steps."""

    net: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry for each validation."""
    since: list[float] = field(default_factory=list)
    """Losses of the steps since the last validation."""


@dataclass(frozen=True)
class Hooks:
    """What the loop needs from outside."""

    batches: Callable[[int], Iterator[Batch]]
    """This worker's share of each batch, from a step on."""
    validate: Callable[[nn.Module], dict[str, Any]]
    """Figures on the validation photographs, over all workers."""
    save: Callable[[], None]
    """Stores a checkpoint; all workers must call it."""
    due: Callable[[bool], bool]
    """Passes worker 0's decision to all workers."""
    log: Callable[[str], None]
    """Prints a line for people."""
    loss: Callable[[Any, Tensor, int], Tensor] = by_turns
    """From the network's output for a batch, the labels, int64, and the number of the step."""
    stepped: Callable[[float], None] = lambda _loss: None
    """Called after each step with its loss, this worker's."""


def new_training(net: nn.Module, config: TrainFcnConfig) -> Training:
    """The start of a run: AdamW with four groups: encoder and head, each with kernels (which decay) and the rest.

    An encoder that does not start from ImageNet has the head's learning rate.
    """
    groups = []
    for encoder in (True, False):
        named = [p for name, p in net.named_parameters() if name.startswith("encoder.") == encoder]
        factor = config.backbone_factor if encoder and config.imagenet != "none" else 1.0
        for decays in (True, False):
            parameters = [p for p in named if (p.ndim > 1) == decays]
            decay = config.weight_decay * decays
            groups.append({"params": parameters, "rate": config.learning_rate * factor, "weight_decay": decay})
    return Training(net, torch.optim.AdamW(groups))


def train(training: Training, model: nn.Module, config: Config, hooks: Hooks) -> None:
    """Train from the step that `training` has reached to the last one.

    Args:
        training: the state to continue from; changed in place.
        model: its network, or that network as the workers of a distributed run share it.
        config: the settings.
        hooks: where crops come from and checkpoints go to.

    Raises:
        TrainingError: the loss is no longer a finite number.
    """
    saved = told = time.perf_counter()
    batches = hooks.batches(training.step)
    while training.step < config.steps:
        training.since.append(train_step(training, model, config, next(batches), hooks.loss))
        hooks.stepped(training.since[-1])
        now = time.perf_counter()
        looked = training.step % config.val_every == 0 or training.step == config.steps
        if looked:
            _look(training, hooks)
        elif now - told > 60:
            told = now
            hooks.log(f"step {training.step:,} of {config.steps:,}: loss {training.since[-1]:.3f}")
        if looked or hooks.due(now - saved >= 60 * config.checkpoint_minutes):
            hooks.save()
            saved = time.perf_counter()


def _look(training: Training, hooks: Hooks) -> None:
    figures = hooks.validate(training.net)
    training.net.train()
    line = {"step": training.step, "train_loss": sum(training.since) / len(training.since), **figures}
    training.history.append(line)
    training.since.clear()
    hooks.log(
        f"step {training.step:,}: loss {line['train_loss']:.3f}; validation photographs: mean IoU "
        f"{line['mean_iou']:.3f}, pixel accuracy {line['pixel_accuracy']:.3f}"
    )


def train_step(
    training: Training,
    model: nn.Module,
    config: Config,
    batch: Batch,
    loss_of_step: Callable[[Any, Tensor, int], Tensor],
) -> float:
    """Take one step on a batch, or on this worker's share of one.

    Args:
        training: the run; its step and its network are changed in place.
        model: its network, or that network as the workers of a distributed run share it.
        config: the settings.
        batch: crops and labels.
        loss_of_step: as `Hooks.loss`.

    Returns:
        The loss.

    Raises:
        TrainingError: the loss is not a finite number.
    """
    device = next(training.net.parameters()).device
    images_N3HW, labels_NHW = (tensor.to(device) for tensor in batch)
    rate = min(1.0, (training.step + 1) / WARM_UP) * (1 - training.step / config.steps) ** POWER
    for group in training.optimizer.param_groups:
        group["lr"] = group["rate"] * rate
    x_N3HW = INPUT(images_N3HW).contiguous(memory_format=torch.channels_last)
    torch.manual_seed(seed_of(config.seed, training.step))  # for the head's dropout
    lower = torch.autocast(device.type, torch.bfloat16) if config.precision == "bfloat16" else nullcontext()
    with lower:
        found = model(x_N3HW)
    loss = loss_of_step(found, labels_NHW.long(), training.step)
    value = loss.item()
    if not math.isfinite(value):
        raise TrainingError(f"the loss is {value} at step {training.step}; lower the learning rate")
    training.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(training.net.parameters(), CLIP)
    training.optimizer.step()
    training.step += 1
    return value


def save_training(folder: Path, training: Training) -> None:
    """Write everything that the next step needs into an existing folder, as safetensors and JSON."""
    named = dict(training.net.named_parameters())
    moments = {
        f"{name}.{key}": state[key]
        for name, p in named.items()
        if (state := training.optimizer.state.get(p))
        for key in MOMENTS
    }
    for file, tensors in ((NETWORK_FILE, training.net.state_dict()), (MOMENTUM_FILE, moments)):
        whole = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        (folder / file).write_bytes(safetensors.torch.save(whole))
    progress = {"step": training.step, "history": training.history, "since": training.since}
    (folder / PROGRESS_FILE).write_text(json.dumps(progress, indent=1))


def load_training(folder: Path, training: Training) -> None:
    """Read what `save_training` wrote into a run with the same network and settings."""
    training.net.load_state_dict(safetensors.torch.load((folder / NETWORK_FILE).read_bytes()))
    moments = safetensors.torch.load((folder / MOMENTUM_FILE).read_bytes())
    progress = json.loads((folder / PROGRESS_FILE).read_text())
    training.step, training.history, training.since = (progress[key] for key in ("step", "history", "since"))
    for name, p in training.net.named_parameters():
        if f"{name}.{MOMENTS[0]}" in moments:
            of_p = {key: moments[f"{name}.{key}"].to(p.device).view_as(p) for key in MOMENTS}
            training.optimizer.state[p] = {"step": torch.tensor(float(training.step)), **of_p}
