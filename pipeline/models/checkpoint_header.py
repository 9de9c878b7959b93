"""The description in a checkpoint file: read from its first bytes, without torch, which takes seconds to import."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pipeline.config.networks import (
    ARCHITECTURES,
    ENCODER_VARIANTS,
    KINDS,
    WHOLE_IMAGES,
    Architecture,
    Channels,
    EncoderVariant,
)
from pipeline.config.stages import AskedShape, WindowShape
from pipeline.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

METADATA_KEY = "deconvnet-ray"


class NoDescriptionError(CheckpointError):
    """A file without a description of its network."""


@dataclass(frozen=True)
class Preprocessing:
    """How RGB bytes become the network's input: `(value - mean) / std` per channel, in `channels` order.

    The defaults are torchvision's ImageNet values on the scale 0..255, which its VGG-16 weights need.
    """

    channels: Channels = "RGB"
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    def __call__(self, crops_N3HW: Tensor) -> Tensor:
        """Network input, float32 `[N, 3, H, W]`, from RGB crops with values 0..255 (uint8 or float)."""
        if self.channels == "BGR":
            crops_N3HW = crops_N3HW.flip(1)
        mean, std = (_per_channel(values, crops_N3HW.device) for values in (self.mean, self.std))
        return (crops_N3HW.float() - mean) / std

    def undo(self, inputs_N3HW: Tensor) -> Tensor:
        """RGB crops, float32 `[N, 3, H, W]` with values 0..255, from network input."""
        mean, std = (_per_channel(values, inputs_N3HW.device) for values in (self.mean, self.std))
        crops_N3HW = inputs_N3HW.float() * std + mean
        return crops_N3HW.flip(1) if self.channels == "BGR" else crops_N3HW


@lru_cache(maxsize=64)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """`[1, C, 1, 1]`, cached: making it on a GPU would wait for everything in the GPU's queue."""
    import torch

    with torch.inference_mode(mode=False):
        return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)


@dataclass(frozen=True)
class CheckpointInfo:
    """The description of a network in its checkpoint."""

    class_names: tuple[str, ...]
    width: float
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    trained_on: str = ""
    """Free text for people: data, recipe, figures."""
    architecture: Architecture = "deconvnet"
    batch_statistics: bool = True
    """Whether the file has population statistics of batch normalisation. A converted training file of the release has
    none: training can start from it, but it cannot segment."""
    encoder: EncoderVariant | None = None
    """For `litefcn` and `litedeconvnet`: which EfficientNet."""
    long_side: int | None = None
    """For `litefcn`: images are resized to this longer side, in pixels."""
    mirrored_side: int | None = None
    """For `litefcn`: a second pass sees the mirrored image, resized to this longer side, and the two probability maps
    are averaged. None: one pass."""
    norm_eps: float = 1e-5
    """What batch normalisation adds to variances."""

    window_shape: WindowShape = "box"
    """Shape of the windows that the network was trained on (`ProposeConfig.window_shape`)."""

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.class_names)


@dataclass(frozen=True)
class NetworkInfo:
    """What a run knows of its first network."""

    class_names: tuple[str, ...]
    """Background first."""
    architecture: str
    """As a checkpoint names it, or the kind of another library's network (`config.networks.KINDS`)."""
    window_shape: WindowShape = "box"
    """Shape of the windows that it was trained on; without meaning if it sees whole images."""

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.class_names)


def fingerprint(data: bytes) -> str:
    """Short hash of a checkpoint file's content, for results and records."""
    return hashlib.sha256(data).hexdigest()[:16]


def joint_fingerprint(fingerprint: str, other: str | None) -> str:
    """The fingerprint in results and records; `other` is that of an ensemble's second network."""
    return fingerprint if other is None else f"{fingerprint}+{other}"


def read_info(data: bytes, name: str = "the checkpoint") -> CheckpointInfo:
    """The description in a checkpoint file's header; raises CheckpointError as `load_checkpoint` does."""
    header = safetensors_header(len(data), lambda start, size: data[start : start + size])
    metadata = (header or {}).get("__metadata__")
    if metadata is None:
        raise NoDescriptionError(
            f"{name} is no safetensors file with a description; pickled .pth files are not loaded, by design; for ONNX "
            f"write {KINDS['onnx']}; for torchvision's {KINDS['torchvision']}"
        )
    if METADATA_KEY not in metadata:
        raise NoDescriptionError(
            f"{name} is a safetensors file, but its metadata lack `{METADATA_KEY}`: classes, width, preprocessing; "
            "export it with jobs/train.py"
        )
    return _parse_info(metadata[METADATA_KEY], name)


def safetensors_header(size: int, read: Callable[[int, int], bytes]) -> dict[str, Any] | None:
    """The header of a safetensors file, a description of each tensor by its name; None: it is no such file.

    Args:
        size: of the file, in bytes.
        read: returns a part of it, from a start and a size.
    """
    length = int.from_bytes(read(0, 8), "little") if size > 8 else 0
    if not 0 < length <= size - 8:
        return None
    try:
        header = json.loads(read(8, length))
    except ValueError:
        return None
    return header if isinstance(header, dict) else None


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
            encoder=described.get("encoder"),
            long_side=described.get("long_side"),
            mirrored_side=described.get("mirrored_side"),
            norm_eps=float(described.get("norm_eps", 1e-5)),
            window_shape=described.get("window_shape", "box"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{name} has an incomplete or damaged description: {error!r} in `{METADATA_KEY}`"
        ) from error
    if info.architecture not in ARCHITECTURES:
        raise CheckpointError(f"{name} is a {info.architecture}; known are {', '.join(ARCHITECTURES)}")
    if info.window_shape not in {"square", "box"}:
        raise CheckpointError(
            f"{name} was trained on windows of the shape {info.window_shape}; known are square and box"
        )
    if not 0 < info.width <= 4 or info.num_classes < 2:
        raise CheckpointError(
            f"{name} describes an impossible network of {info.num_classes} classes, width {info.width}"
        )
    if info.architecture in {"litefcn", "litedeconvnet"} and info.encoder not in ENCODER_VARIANTS:
        raise CheckpointError(f"{name} describes an impossible {info.architecture}: encoder {info.encoder}")
    sides = [info.long_side, info.long_side if info.mirrored_side is None else info.mirrored_side]
    if info.architecture == "litefcn" and not all(isinstance(side, int) and side >= 32 for side in sides):
        raise CheckpointError(f"{name} describes an impossible FCN: sides {info.long_side} and {info.mirrored_side}")
    return info


def _three(values: Iterable[float]) -> tuple[float, float, float]:
    first, second, third = map(float, values)
    return first, second, third


def check_network(info: CheckpointInfo, uri: str, *, whole_images: bool) -> None:
    """Make sure that a network can segment, by its description.

    Args:
        info: the description.
        uri: what to call the file in error messages.
        whole_images: whether it will see whole images, not proposals.

    Raises:
        CheckpointError: it is made for the other kind of input, or lacks batch normalisation's statistics.
    """
    if (info.architecture in WHOLE_IMAGES) != whole_images:
        advice = (
            "sees object proposals: choose `--recipe deconvnet+crf`, or `deconvnet`"
            if whole_images
            else _SEES_WHOLE_IMAGES
        )
        raise CheckpointError(f"{uri} is a {info.architecture}, which {advice}")
    if not info.batch_statistics:
        raise CheckpointError(
            f"{uri} comes from a training file without batch normalisation's statistics; train on from it first, or "
            "convert the inference file"
        )


def check_whole_images(name: str, *, whole_images: bool) -> None:
    """Make sure that a network of another library will see what it is made for.

    Args:
        name: what to call it in the error message.
        whole_images: whether it will see whole images, not proposals.

    Raises:
        CheckpointError: it would see proposals.
    """
    if not whole_images:
        raise CheckpointError(f"{name} {_SEES_WHOLE_IMAGES}")


_SEES_WHOLE_IMAGES = "sees whole images: choose `--recipe fcn+crf`, or `fcn`; in an ensemble it can be given as --fcn"


def shape_for(info: CheckpointInfo | NetworkInfo, asked: AskedShape, uri: str) -> WindowShape:
    """The shape of windows for a network: the one that it was trained on.

    Args:
        info: the network's description.
        asked: the setting; `auto` accepts any.
        uri: what to call the file in the error message.

    Raises:
        CheckpointError: the setting asks for another shape.
    """
    if asked not in {"auto", info.window_shape}:
        raise CheckpointError(
            f"--window-shape is {asked}, and {uri} was trained on windows of the shape {info.window_shape}: "
            f"give --window-shape {info.window_shape}, or a network trained on a training set with {asked} windows"
        )
    return info.window_shape
