"""Checkpoints: safetensors whose metadata say by themselves how the network must be built and fed.

Nothing is unpickled: a checkpoint is tensors and JSON.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from pipeline.models.deconvnet import DeconvNet
from pipeline.models.fcn8s import FCN8s

METADATA_KEY = "deconvnet-ray"
ARCHITECTURES = ("deconvnet", "fcn8s")


class CheckpointError(ValueError):
    """A file is no checkpoint of this project, or does not fit; the message says what to do."""


@dataclass(frozen=True)
class Preprocessing:
    """How RGB bytes become the network's input: `(value - mean) / std` per channel, in `channels` order.

    The defaults are torchvision's ImageNet values on the 0..255 scale, which its VGG-16 weights want.
    """

    channels: Literal["RGB", "BGR"] = "RGB"
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    def __call__(self, crops_N3HW: Tensor) -> Tensor:
        """Network input, float32 `[N, 3, H, W]`, of RGB crops with values 0..255 (uint8 or float)."""
        if self.channels == "BGR":
            crops_N3HW = crops_N3HW.flip(1)
        mean, std = (_per_channel(values, crops_N3HW.device) for values in (self.mean, self.std))
        return (crops_N3HW.float() - mean) / std


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """`[1, C, 1, 1]`, kept: to make it on a GPU waits until all that is queued there is done."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says of itself."""

    class_names: tuple[str, ...]
    width: float
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    trained_on: str = ""
    """Free text for people: data, recipe, figures."""
    architecture: Literal["deconvnet", "fcn8s"] = "deconvnet"
    batch_statistics: bool = True
    """Whether the population statistics of batch normalisation are there. A converted training file of the release has
    none: one can train on from it, and not segment with it."""

    @property
    def num_classes(self) -> int:
        """Classes, background included."""
        return len(self.class_names)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded network in evaluation mode, its description, and a fingerprint of the file it came from."""

    net: DeconvNet
    info: CheckpointInfo
    fingerprint: str


def dump_checkpoint(net: DeconvNet | FCN8s, info: CheckpointInfo, dtype: torch.dtype = torch.float32) -> bytes:
    """The checkpoint file's bytes; `dtype` float16 halves a file that is shipped."""
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


def load_checkpoint(data: bytes, name: str = "the checkpoint") -> Checkpoint:
    """Build the network that a checkpoint file describes and fill it.

    Args:
        data: the file's bytes.
        name: what to call the file in error messages.

    Raises:
        CheckpointError: not safetensors, not one of ours, or its tensors do not fit its description.
    """
    info = read_info(data, name)
    if info.architecture != "deconvnet":
        raise CheckpointError(f"{name} is a network of the kind {info.architecture}, not a DeconvNet")
    with torch.device("meta"):
        net = DeconvNet(info.num_classes, info.width).eval()
    fill(net, info, data, name)
    return Checkpoint(net, info, fingerprint(data))


def fill(net: DeconvNet | FCN8s, info: CheckpointInfo, data: bytes, name: str) -> None:
    """Put a checkpoint's tensors into the network that its description asks for.

    Args:
        net: on torch's device "meta": random weights that nobody sees would take longer than all the rest.
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


def fingerprint(data: bytes) -> str:
    """Short name of a checkpoint file's content, for results and records."""
    return hashlib.sha256(data).hexdigest()[:16]


def read_info(data: bytes, name: str = "the checkpoint") -> CheckpointInfo:
    """The description in a checkpoint file's header; raises CheckpointError as `load_checkpoint` does."""
    try:
        header_size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + header_size])["__metadata__"] if 0 < header_size <= len(data) - 8 else None
    except (ValueError, KeyError, TypeError):
        metadata = None
    if metadata is None:
        raise CheckpointError(
            f"{name} is no safetensors file with a description; pickled .pth files are not loaded, by design"
        )
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{name} is a safetensors file, but its metadata lack `{METADATA_KEY}`: classes, width, preprocessing; "
            "export it with jobs/train.py"
        )
    return _parse_info(metadata[METADATA_KEY], name)


def _parse_info(text: str, name: str) -> CheckpointInfo:
    try:
        described = json.loads(text)
        fed = described["preprocessing"]
        mean, std = (_three(fed[key]) for key in ("mean", "std"))
        info = CheckpointInfo(
            class_names=tuple(map(str, described["class_names"])),
            width=float(described["width"]),
            preprocessing=Preprocessing(fed["channels"], mean, std),
            trained_on=str(described.get("trained_on", "")),
            architecture=described["architecture"],
            batch_statistics=bool(described.get("batch_statistics", True)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{name} has an incomplete or damaged description: {error!r} in `{METADATA_KEY}`"
        ) from error
    if info.architecture not in ARCHITECTURES:
        raise CheckpointError(f"{name} is a {info.architecture}; known are {', '.join(ARCHITECTURES)}")
    if not 0 < info.width <= 4 or info.num_classes < 2:
        raise CheckpointError(
            f"{name} describes an impossible network of {info.num_classes} classes, width {info.width}"
        )
    return info


def _three(values: Iterable[float]) -> tuple[float, float, float]:
    first, second, third = map(float, values)
    return first, second, third


def load_state_dict(data: bytes, name: str) -> dict[str, Tensor]:
    """Tensors of a foreign weights file: safetensors, or a `.pth` of plain tensors (no pickled code is run).

    Raises:
        CheckpointError: neither of the two.
    """
    found: Any
    try:
        found = safetensors.torch.load(data)
    except SafetensorError:
        try:
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            raise CheckpointError(f"{name} is neither safetensors nor a .pth of plain tensors") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"{name} holds other things than tensors by name; save the network's state_dict() alone")
    tensors: dict[str, Tensor] = found
    return tensors
