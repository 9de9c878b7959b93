"""What a training checkpoint holds: network, momentum, schedule and history, as safetensors and JSON (no pickle)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from pipeline.models.deconvnet import DeconvNet
from pipeline.models.weights import CheckpointInfo, dump_checkpoint, load_checkpoint
from pipeline.training.steps import Metrics

NETWORK_FILE = "network.safetensors"
MOMENTUM_FILE = "momentum.safetensors"
PROGRESS_FILE = "progress.json"


@dataclass(frozen=True)
class Epoch:
    """One line of a stage's history."""

    epoch: int
    learning_rate: float
    seconds: float
    train: Metrics
    val: Metrics


@dataclass
class Progress:
    """How far a stage has come."""

    schedule: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


def save_state(
    folder: Path, net: DeconvNet, info: CheckpointInfo, optimizer: torch.optim.SGD, progress: Progress
) -> None:
    """Write everything that the next epoch needs into an existing folder."""
    (folder / NETWORK_FILE).write_bytes(dump_checkpoint(net, info))
    momentum = {
        name: optimizer.state[p]["momentum_buffer"].detach().cpu().contiguous()
        for name, p in net.named_parameters()
        if optimizer.state.get(p, {}).get("momentum_buffer") is not None
    }
    (folder / MOMENTUM_FILE).write_bytes(safetensors.torch.save(momentum))
    (folder / PROGRESS_FILE).write_text(json.dumps(asdict(progress), indent=1))


def load_state(folder: Path, net: DeconvNet, optimizer: torch.optim.SGD) -> Progress:
    """Read back what `save_state` wrote, into a network and optimizer of the same shape."""
    net.load_state_dict(load_checkpoint((folder / NETWORK_FILE).read_bytes()).net.state_dict())
    momentum: dict[str, Tensor] = safetensors.torch.load((folder / MOMENTUM_FILE).read_bytes())
    for name, p in net.named_parameters():
        if name in momentum:
            optimizer.state[p]["momentum_buffer"] = momentum[name].to(p.device)
    progress = load_progress(folder)
    for group in optimizer.param_groups:
        group["lr"] = progress.schedule["_last_lr"][0]
    return progress


def load_progress(folder: Path) -> Progress:
    """The progress that `save_state` wrote."""
    return Progress(**json.loads((folder / PROGRESS_FILE).read_text()))
