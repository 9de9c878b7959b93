"""Training checkpoints: network, momentum, schedule and history, as safetensors and JSON (no pickle).

Random numbers need no state: crops, flips and order follow from the seed and the position.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from pipeline.errors import TrainingError
from pipeline.models.checkpoint import CheckpointInfo, dump_checkpoint, load_checkpoint
from pipeline.models.deconvnet import DeconvNet
from pipeline.training.loop.metrics import Metrics
from pipeline.training.loop.optimizer import Schedule

NETWORK_FILE = "network.safetensors"
MOMENTUM_FILE = "momentum.safetensors"
"""File for the momentum of every parameter, and the counters of batch normalisation."""
PROGRESS_FILE = "progress.json"


@dataclass(frozen=True)
class Look:
    """One entry of a stage's history: a validation, and the training since the one before it."""

    epoch: int
    """The epoch during which, or at whose end, it was."""
    steps: int
    """Steps since the stage began."""
    learning_rate: float
    """The learning rate after the last step."""
    seconds: float
    """Seconds of training, without validation."""
    train: Metrics
    val: Metrics


@dataclass
class Progress:
    """How far a stage is."""

    schedule: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry for each validation (`Look`)."""
    epochs: int = 0
    """Finished epochs."""
    iterations: int = 0
    """Steps since the stage began."""
    seen: int = 0
    """Examples seen of the current epoch."""
    seconds: float = 0.0
    """Seconds of training since the last validation."""
    counted: dict[str, Any] | None = None
    """Counts of the examples since then (`metrics.Meter.totals`)."""


@dataclass
class TrainState:
    """A network in training, and all state that changes with it."""

    net: DeconvNet
    info: CheckpointInfo
    optimizer: torch.optim.SGD
    schedule: Schedule
    progress: Progress = field(default_factory=Progress)


def save_state(folder: Path, state: TrainState) -> None:
    """Write everything that the next step needs into an existing folder."""
    (folder / NETWORK_FILE).write_bytes(dump_checkpoint(state.net, state.info))
    momentum = {
        name: state.optimizer.state[p]["momentum_buffer"].detach().cpu().contiguous()
        for name, p in state.net.named_parameters()
        if state.optimizer.state.get(p, {}).get("momentum_buffer") is not None
    }
    (folder / MOMENTUM_FILE).write_bytes(safetensors.torch.save(momentum | _counters(state.net)))
    state.progress.schedule = dict(state.schedule.state_dict())
    (folder / PROGRESS_FILE).write_text(json.dumps(asdict(state.progress), indent=1))


def load_state(folder: Path, state: TrainState) -> None:
    """Read what `save_state` wrote into a training state of the same shape."""
    network = load_checkpoint((folder / NETWORK_FILE).read_bytes()).net.state_dict()
    kept: dict[str, Tensor] = safetensors.torch.load((folder / MOMENTUM_FILE).read_bytes())
    counters = {name: kept[name] for name in _counters(state.net) if name in kept}  # older checkpoints have none
    state.net.load_state_dict(network | counters)
    for name, p in state.net.named_parameters():
        if name in kept:  # in the weights' memory layout, channels last, so that a step rounds the same
            state.optimizer.state[p]["momentum_buffer"] = torch.empty_like(p).copy_(kept[name])
    state.progress = load_progress(folder)
    state.schedule.load_state_dict(state.progress.schedule)
    for group, rate in zip(state.optimizer.param_groups, state.progress.schedule["_last_lr"], strict=True):
        group["lr"] = rate


def _counters(net: DeconvNet) -> dict[str, Tensor]:
    """How many batches each batch normalisation has seen; an exported network does not hold these numbers."""
    return {name: t.detach().cpu() for name, t in net.state_dict().items() if name.endswith("num_batches_tracked")}


def check_weights(net: DeconvNet) -> None:
    """Make sure that a checkpoint of the network would be usable.

    Raises:
        TrainingError: a weight is not a finite number.
    """
    if not all(bool(torch.isfinite(p).all()) for p in net.parameters()):
        raise TrainingError("a weight is not a finite number any more; lower the learning rate")


def load_progress(folder: Path) -> Progress:
    """The progress that `save_state` wrote."""
    progress = json.loads((folder / PROGRESS_FILE).read_text())
    return Progress(**{"epochs": len(progress["history"]), **progress})  # older ones: one validation per epoch
