"""A fully convolutional network, alone or in an ensemble: FCN-8s, this project's own, or one of torchvision's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config.networks import WHOLE_IMAGES, FcnKind
from pipeline.errors import CheckpointError
from pipeline.models.checkpoint import METADATA_KEY, Preprocessing, fill, fingerprint, load_state_dict, read_info
from pipeline.models.checkpoint_header import NoDescriptionError
from pipeline.models.fcn8s import FCN8s
from pipeline.models.litefcn import LiteFCN, fed_size, folded

SHORT_SIDE = 520
"""torchvision's segmentation networks were evaluated on images resized to this shorter side (its `transforms`)."""
LONG_SIDE = 2 * SHORT_SIDE
"""Limit of the longer side for them, so that a panorama does not fill the memory; not torchvision's."""
LAST_LAYER = "classifier.4.weight"
"""The convolution to the classes in each of torchvision's heads."""


@dataclass(frozen=True)
class Member:
    """A loaded network in evaluation mode that maps whole images to score maps."""

    net: nn.Module
    preprocessing: Preprocessing
    num_classes: int
    fingerprint: str
    class_names: tuple[str, ...] | None = None
    """None: the file does not say; torchvision's own files have VOC's 21 in VOC's order."""
    size: Callable[[int, int], tuple[int, int]] | None = None
    """From an image's height and width to those that it is first resized to; the scores are resized back."""
    mirrored_size: Callable[[int, int], tuple[int, int]] | None = None
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

    def _look(self, image_3HW: Tensor, size_of: Callable[[int, int], tuple[int, int]] | None) -> Tensor:
        height, width = image_3HW.shape[1:]
        weight = next(self.net.parameters())
        x_13HW = image_3HW[None].float()
        if size_of is not None:
            size = size_of(height, width)
            x_13HW = F.interpolate(x_13HW, size, mode="bilinear", antialias=True, align_corners=False)
        x_13HW = self.preprocessing(x_13HW).to(weight.dtype, memory_format=torch.channels_last)
        found: Tensor | Mapping[str, Tensor] = self.net(x_13HW)
        scores_1CHW = (found if isinstance(found, Tensor) else found["out"]).float()
        if size_of is not None:
            scores_1CHW = F.interpolate(scores_1CHW, (height, width), mode="bilinear", align_corners=False)
        return scores_1CHW[0]


def resized(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width of an image scaled to a shorter side, or as far as `LONG_SIDE` allows; at least 1 each.

    Args:
        height: the image's, in pixels.
        width: the image's, in pixels.
        short_side: the shorter side to scale to, in pixels.
    """
    scale = min(short_side / min(height, width), LONG_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def load_member(data: bytes, name: str, kind: FcnKind = "auto") -> Member:
    """Build the network that a file holds.

    Args:
        data: a file of jobs/convert_weights.py (FCN-8s) or of jobs/train_fcn.py, or a state dict of torchvision's,
            `.pth` or safetensors.
        name: what to call the file in error messages.
        kind: what the file holds; `auto`: as its description says, which a state dict of torchvision's does not have.

    Raises:
        CheckpointError: the file is none of these, or not of the given kind.
    """
    if kind in {"auto", *WHOLE_IMAGES}:
        return _load_ours(data, name, kind)
    state = {key: value for key, value in load_state_dict(data, name).items() if not key.startswith("aux_classifier.")}
    if LAST_LAYER not in state:
        raise CheckpointError(f"{name} is no {kind} of torchvision: it lacks {LAST_LAYER}")
    import torchvision

    num_classes = len(state[LAST_LAYER])
    with torch.device("meta"):  # see `fill`
        net: nn.Module = torchvision.models.get_model(
            kind, weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=False
        )
    try:
        net.load_state_dict(
            {key: value.float() if value.is_floating_point() else value for key, value in state.items()}, assign=True
        )
    except RuntimeError as error:
        raise CheckpointError(f"{name} is no {kind} of torchvision: {str(error)[:300]}") from error
    return Member(
        net.eval(), Preprocessing(), num_classes, fingerprint(data), size=partial(resized, short_side=SHORT_SIDE)
    )


def _load_ours(data: bytes, name: str, kind: FcnKind) -> Member:
    try:
        info = read_info(data, name)
    except NoDescriptionError as error:
        raise CheckpointError(
            f"{name} does not say what it is (no `{METADATA_KEY}` in its metadata): a Caffe FCN-8s must go through "
            "jobs/convert_weights.py first; for a file of torchvision's, name its kind, such as --fcn-kind fcn_resnet50"
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
