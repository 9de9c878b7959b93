"""Checkpoints: safetensors whose metadata say how to build the network and how to prepare its input.

Nothing is unpickled: a checkpoint is tensors and JSON.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pipeline.errors import CheckpointError
from pipeline.models.checkpoint_header import METADATA_KEY, CheckpointInfo, Preprocessing, fingerprint, read_info
from pipeline.models.deconvnet import DeconvNet
from pipeline.models.fcn8s import FCN8s
from pipeline.models.litedeconvnet import LiteDeconvNet
from pipeline.models.litefcn import LiteFCN

Network = DeconvNet | FCN8s | LiteFCN | LiteDeconvNet

__all__ = [
    "METADATA_KEY", "Checkpoint", "CheckpointError", "CheckpointInfo", "LiteCheckpoint", "Preprocessing",
    "dump_checkpoint", "fill", "fingerprint", "load_checkpoint", "load_for_windows", "load_state_dict", "read_info",
    "set_norm_eps",
]  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """A loaded network in evaluation mode, its description, and a fingerprint of the file it came from."""

    net: DeconvNet
    info: CheckpointInfo
    fingerprint: str


@dataclass(frozen=True)
class LiteCheckpoint:
    """The same for a light DeconvNet."""

    net: LiteDeconvNet
    info: CheckpointInfo
    fingerprint: str


def dump_checkpoint(net: Network, info: CheckpointInfo, dtype: torch.dtype = torch.float32) -> bytes:
    """The bytes of a checkpoint file.

    Args:
        net: the network.
        info: its description.
        dtype: of the tensors in the file; float16 halves it.
    """
    if net.num_classes != info.num_classes or net.width != info.width:
        raise CheckpointError(
            f"the network has {net.num_classes} classes and width {net.width}, its description "
            f"{info.num_classes} and {info.width}"
        )
    tensors = {
        name: t.detach().cpu().to(dtype if t.is_floating_point() else t.dtype).contiguous()
        for name, t in net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    data: bytes = safetensors.torch.save(tensors, metadata={METADATA_KEY: json.dumps(asdict(info))})
    return data


def dump_state_dict(net: nn.Module) -> bytes:
    """A network's state dict as a safetensors file, for passing on between trainings; `load_state_dict` reads it."""
    data: bytes = safetensors.torch.save({name: t.contiguous() for name, t in net.state_dict().items()})
    return data


def load_checkpoint(data: bytes, name: str = "the checkpoint") -> Checkpoint:
    """Build the network that a checkpoint file describes, and load its weights.

    Args:
        data: the file's bytes.
        name: what to call the file in error messages.

    Raises:
        CheckpointError: it is not safetensors or not a checkpoint of this project, or its tensors do not fit its
            description.
    """
    info = read_info(data, name)
    if info.architecture != "deconvnet":
        raise CheckpointError(f"{name} is a network of the kind {info.architecture}, not a DeconvNet")
    with torch.device("meta"):
        net = DeconvNet(info.num_classes, info.width).eval()
    set_norm_eps(net, info.norm_eps)
    fill(net, info, data, name)
    return Checkpoint(net, info, fingerprint(data))


def load_for_windows(data: bytes, name: str = "the checkpoint") -> Checkpoint | LiteCheckpoint:
    """Like `load_checkpoint`, for any network that sees windows, also a light one."""
    info = read_info(data, name)
    if info.architecture != "litedeconvnet":
        return load_checkpoint(data, name)
    assert info.encoder is not None  # `read_info` checks it
    with torch.device("meta"):
        net = LiteDeconvNet(info.num_classes, info.encoder).eval()
    set_norm_eps(net, info.norm_eps)
    fill(net, info, data, name)
    return LiteCheckpoint(net, info, fingerprint(data))


def fill(net: Network, info: CheckpointInfo, data: bytes, name: str) -> None:
    """Put a checkpoint's tensors into the network that its description asks for.

    Args:
        net: on torch's device "meta", since random weights, which are not used, would take longer than all the rest.
        info: the file's description.
        data: the file's bytes.
        name: what to call the file in error messages.

    Raises:
        CheckpointError: the file is damaged, or its tensors do not fit its description.
    """
    counters = {key: torch.tensor(0) for key in net.state_dict() if key.endswith("num_batches_tracked")}
    wanted = {key: value for key, value in net.state_dict().items() if key not in counters}
    try:
        tensors: Mapping[str, Tensor] = safetensors.torch.load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{name} is damaged ({error}); copy it again") from error
    wrong = sorted(set(wanted) ^ set(tensors)) or [
        key for key, tensor in tensors.items() if tensor.shape != wanted[key].shape
    ]
    if wrong:
        raise CheckpointError(
            f"{name} does not fit a {info.architecture} of {info.num_classes} classes and width {info.width}: "
            f"{len(wrong)} tensors are missing, unknown or of another shape, such as {wrong[0]}. Export it again with "
            "jobs/train.py."
        )
    net.load_state_dict(counters | {key: tensor.float() for key, tensor in tensors.items()}, assign=True)


def set_norm_eps(net: nn.Module, eps: float) -> None:
    """Set what batch normalisation adds to variances, in all layers."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            module.eps = eps


def load_state_dict(data: bytes, name: str) -> dict[str, Tensor]:
    """Tensors of a foreign weights file: safetensors, or a `.pth` of plain tensors (no pickled code is run).

    Raises:
        CheckpointError: it is neither of the two, or numbers in it are not finite.
    """
    found: Any
    try:
        found = safetensors.torch.load(data)
    except SafetensorError:
        try:
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # what a damaged pickle raises is of many types
            raise CheckpointError(
                f"{name} is neither safetensors nor a .pth of plain tensors; save the network's state_dict() alone"
            ) from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"{name} holds other things than tensors by name; save the network's state_dict() alone")
    tensors: dict[str, Tensor] = found
    broken = [key for key, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{name} holds NaN or infinity in {len(broken)} of {len(tensors)} tensors, such as {broken[0]}; copy it "
            "again, or take another file"
        )
    return tensors
