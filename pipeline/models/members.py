"""Networks that see whole images, alone or in an ensemble: what each can do, and this project's own two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config.networks import WHOLE_IMAGES, FcnKind
from pipeline.errors import CheckpointError
from pipeline.models.checkpoint import METADATA_KEY, Preprocessing, fill, fingerprint, read_info
from pipeline.models.checkpoint_header import NoDescriptionError
from pipeline.models.fcn8s import FCN8s
from pipeline.models.litefcn import LiteFCN, fed_size, folded

Size = Callable[[int, int], tuple[int, int]]
"""From an image's height and width to those that a network sees."""


class WholeImageNetwork(Protocol):
    """A network that maps whole images to score maps, in the process that runs it."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Background first; None: its file does not say."""

    @property
    def num_classes(self) -> int:
        """Number of score maps, background included."""

    @property
    def fingerprint(self) -> str:
        """A short hash of all that the network is made of, for results and records."""

    def to(self, device: torch.device, dtype: torch.dtype) -> WholeImageNetwork:
        """The same network on a device, and in a precision if it has no fixed one."""

    def scores(self, image_3HW: Tensor) -> Tensor:
        """Score maps before softmax, float32 `[C, H, W]`, of an RGB uint8 image `[3, H, W]`, both on its device."""


@dataclass(frozen=True)
class Member:
    """A loaded network in evaluation mode that maps whole images to score maps."""

    net: nn.Module
    preprocessing: Preprocessing
    num_classes: int
    fingerprint: str
    class_names: tuple[str, ...] | None = None
    """None: the file does not say."""
    size: Size | None = None
    """From an image's height and width to those that it is first resized to; the scores are resized back."""
    mirrored_size: Size | None = None
    """The same for a second pass, over the mirrored image. None: one pass."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Member:
        """The same member on a device, its weights in a precision and in the layout that is fastest there."""
        self.net.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    @torch.inference_mode()
    def scores(self, image_3HW: Tensor) -> Tensor:
        """Score maps before softmax, float32 `[C, H, W]`, of an RGB uint8 image on the network's device.

        With two passes: logarithms of the mean probability relative to chance, as in `inference.ensemble.combine`.
        """
        scores_CHW = self._look(image_3HW, self.size)
        if self.mirrored_size is None:
            return scores_CHW
        mirrored_CHW = self._look(image_3HW.flip(2), self.mirrored_size).flip(2)
        mean_CHW = (scores_CHW.softmax(dim=0) + mirrored_CHW.softmax(dim=0)) / 2
        return (mean_CHW * len(mean_CHW)).log()

    def _look(self, image_3HW: Tensor, size_of: Size | None) -> Tensor:
        dtype = next(self.net.parameters()).dtype

        def run(x_13HW: Tensor) -> Tensor:
            found: Tensor | Mapping[str, Tensor] = self.net(x_13HW.to(dtype, memory_format=torch.channels_last))
            return (found if isinstance(found, Tensor) else found["out"]).float()

        return look(image_3HW, size_of and size_of(*image_3HW.shape[1:]), self.preprocessing, run)


def look(
    image_3HW: Tensor,
    size: tuple[int, int] | None,
    preprocessing: Preprocessing,
    run: Callable[[Tensor], Tensor],
) -> Tensor:
    """Scores of an image, float32 `[C, H, W]`: resized, prepared, through the network, and resized back.

    Args:
        image_3HW: RGB, uint8.
        size: height and width that the network sees; None: the image's.
        preprocessing: of the network.
        run: from its input `[1, 3, h, w]`, float32, to scores of any size, float32.
    """
    shape = image_3HW.shape[1:]
    x_13HW = image_3HW[None].float()
    if size is not None and size != shape:
        x_13HW = F.interpolate(x_13HW, size, mode="bilinear", antialias=True, align_corners=False)
    scores_1CHW = run(preprocessing(x_13HW))
    if scores_1CHW.shape[2:] != shape:
        scores_1CHW = F.interpolate(scores_1CHW, shape, mode="bilinear", align_corners=False)
    return scores_1CHW[0]


def load_member(data: bytes, name: str, kind: FcnKind = "auto") -> Member:
    """Build the network that a checkpoint of this project holds.

    Args:
        data: a file of jobs/convert_weights.py (FCN-8s) or of jobs/train_fcn.py.
        name: what to call the file in error messages.
        kind: which of the two it must be; `auto`: either.

    Raises:
        CheckpointError: the file is none of these, or not of the given kind.
    """
    try:
        info = read_info(data, name)
    except NoDescriptionError as error:
        raise CheckpointError(
            f"{name} does not say what it is (no `{METADATA_KEY}` in its metadata): a Caffe FCN-8s must go through "
            f"jobs/convert_weights.py first; a file of torchvision's is written as torchvision:fcn_resnet50={name}"
        ) from error
    if info.architecture not in WHOLE_IMAGES or kind not in {"auto", info.architecture}:
        wanted = "an FCN" if kind == "auto" else f"a {kind}"
        raise CheckpointError(f"{name} is a {info.architecture}; {wanted} is needed here")
    size = mirrored_size = None
    with torch.device("meta"):
        net: FCN8s | LiteFCN
        if info.architecture == "fcn8s":
            net = FCN8s(info.num_classes, info.width).eval()
        else:
            assert info.encoder is not None and info.long_side is not None  # noqa: PT018  (`read_info` checks it)
            net, size = folded(info.num_classes, info.encoder), partial(fed_size, long_side=info.long_side)
            if info.mirrored_side is not None:
                mirrored_size = partial(fed_size, long_side=info.mirrored_side)
    fill(net, info, data, name)
    return Member(net, info.preprocessing, info.num_classes, fingerprint(data), info.class_names, size, mirrored_size)
