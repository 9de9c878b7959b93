"""Converts networks that others released as Caffe files to checkpoints of this project.

Caffe stores a convolution as `[out, in, h, w]` and a deconvolution as `[in, out, h, w]`, as torch does, so no weight is
transposed. The weights still expect BGR input; the checkpoint's preprocessing says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.config.networks import Architecture, ReleasedKind
from pipeline.convert.caffe import Blob, CaffeLayer
from pipeline.errors import CheckpointError
from pipeline.imaging.classes import VOC_CLASSES
from pipeline.models.checkpoint import CheckpointInfo, Preprocessing
from pipeline.models.deconvnet import DECODER, ENCODER, FC_CHANNELS, DeconvNet
from pipeline.models.fcn8s import FCN8s
from pipeline.models.initialise import initialise

CAFFE_PREPROCESSING = Preprocessing("BGR", (104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0))
"""Of VGG-16, FCN-8s and the DeconvNet release: 0..255, minus the mean of ImageNet's training pixels."""
RELEASE_EPS = 1e-9
"""What the release's batch normalisation adds to a variance."""
MOST_NAMED = 8  # problems that a message lists

# The name of a layer in this project's networks, and its names in files. The second names of FCN-8s are those of its
# first release, `fcn-8s-pascal`, which the DeconvNet release uses.
VGG = {
    f"conv{block}_{i + 1}": f"encoder.{block}.conv{block}_{i + 1}"
    for block in ENCODER
    for i in range(len(ENCODER[block]))
}
FCN_NAMES = {
    "score_fr": ("score_fr", "score-fr"), "score_pool4": ("score_pool4", "score-pool4"),
    "score_pool3": ("score_pool3", "score-pool3"), "upscore2": ("upscore2", "score2"),
    "upscore_pool4": ("upscore_pool4", "score4"), "upscore8": ("upscore8", "upsample"),
}  # fmt: skip
SCALES = {"score_pool4": "scale_pool4", "score_pool3": "scale_pool3"}
"""`voc-fcn8s-atonce` scales the inputs of these layers."""


class Source:
    """The layers of a Caffe file, taken one by one; whatever does not fit is noted, and `check` reports it all."""

    def __init__(self, layers: Mapping[str, CaffeLayer], name: str) -> None:
        self._layers = dict(layers)
        self._name = name
        self._problems: list[str] = []

    def take(self, names: Sequence[str]) -> CaffeLayer | None:
        """Take the layer that has one of these names; if there is none, note it and return None."""
        for name in names:
            if name in self._layers:
                return self._layers.pop(name)
        self.note(f"layer {names[0]} is missing")
        return None

    def drop(self, name: str) -> CaffeLayer | None:
        """Take a layer that only some files have; None if this one has not."""
        return self._layers.pop(name, None)

    def note(self, problem: str) -> None:
        """Keep a problem for `check`."""
        self._problems.append(problem)

    def blob(self, layer: CaffeLayer, number: int, shape: torch.Size, what: str) -> Tensor | None:
        """One blob as a tensor of a shape; if it does not fit, note it and return None.

        Dimensions of 1 don't count, since the old form fills shapes up to four dimensions. The weights of a fully
        connected layer may also be a matrix: channels, rows and columns are in the same order in both.

        Args:
            layer: the layer.
            number: the blob's place in it, from 0.
            shape: what is needed.
            what: what to call the blob in error messages.
        """
        if number >= len(layer.blobs):
            self.note(f"{what} is missing")
            return None
        found: Blob = layer.blobs[number]
        essential = [n for n in found.shape if n != 1]
        as_matrix = [n for n in (shape[0], math.prod(shape[1:])) if n != 1]
        if essential not in ([n for n in shape if n != 1], as_matrix):
            self.note(f"{what} is {tuple(found.shape)}; {tuple(shape)} is needed")
            return None
        return torch.from_numpy(found.copy()).reshape(shape)

    def check(self) -> None:
        """Report what did not fit, including layers that nobody took.

        Raises:
            CheckpointError: something did not fit; the message lists up to `MOST_NAMED` problems.
        """
        problems = [*self._problems, *(f"layer {name} is not part of this network" for name in self._layers)]
        if problems:
            more = f" and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
            raise CheckpointError(f"{self._name} does not fit: {'; '.join(problems[:MOST_NAMED])}{more}")


def convert_deconvnet(
    layers: Mapping[str, CaffeLayer], name: str, class_names: tuple[str, ...] | None = None
) -> tuple[DeconvNet, CheckpointInfo]:
    """The release's DeconvNet, in its training or its inference form.

    Its batch normalisation has a scale and a shift. After training these are gamma and beta, and the file has no
    population statistics; the release's third step folds the statistics into them. Files with four blobs (scale,
    shift, mean, variance) have both.

    Args:
        layers: as `read_caffemodel` returns them.
        name: what to call the file in error messages.
        class_names: background first. None: VOC's, if the network has 21 classes.

    Raises:
        CheckpointError: a layer is missing, unknown or of another shape; the classes don't fit.
    """
    source = Source(layers, name)
    norms = [layer for key, layer in layers.items() if "bn" in key]
    has_statistics = bool(norms) and not any(map(is_training_form, norms))
    info = _info(layers, ("seg-score-voc", "seg-score"), class_names, name, batch_statistics=has_statistics)
    with torch.device("meta"):
        net = DeconvNet(info.num_classes, info.width).eval()
    state: dict[str, Tensor] = {}
    for caffe_name, ours, norm_name in deconvnet_layers():
        _copy_layer(source, (caffe_name,), net, f"{ours}.conv", state)
        _copy_norm(source, norm_name, net, f"{ours}.bn", state)
    _copy_layer(source, ("seg-score-voc", "seg-score"), net, "seg_score", state)
    source.check()
    net.load_state_dict(state, strict=False, assign=True)
    return net, info


def deconvnet_layers() -> list[tuple[str, str, str]]:
    """For each layer but the last: the release's name, ours, and the release's name of its batch normalisation."""
    rows = [(name, ours, name.replace("conv", "bn")) for name, ours in VGG.items()]
    rows += [("fc6", "fc6", "bnfc6"), ("fc7", "fc7", "bnfc7"), ("fc6-deconv", "fc6_deconv", "fc6-deconv-bn")]
    for block, channels in DECODER.items():
        numbers = [f"{block}_{i + 1}" for i in range(len(channels))]
        rows += [(f"deconv{n}", f"decoder.{block}.deconv{n}", f"debn{n}") for n in numbers]
    return rows


def is_training_form(norm: CaffeLayer) -> bool:
    """Whether scale and shift are gamma and beta as training left them, without statistics.

    The release's third step wrote its inference file. That network is in LEARN mode too, but outputs mean and variance
    as second and third top; a file saved from the deploy network is in INFERENCE mode.
    """
    return len(norm.blobs) == 2 and norm.old_form and not norm.bn_inference and len(norm.tops) < 3


def convert_fcn8s(
    layers: Mapping[str, CaffeLayer], name: str, class_names: tuple[str, ...] | None = None
) -> tuple[FCN8s, CheckpointInfo]:
    """FCN-8s of either release; arguments and errors as for `convert_deconvnet`."""
    source = Source(layers, name)
    info = _info(layers, FCN_NAMES["score_fr"], class_names, name, architecture="fcn8s")
    with torch.device("meta"):
        net = FCN8s(info.num_classes, info.width).eval()
    state: dict[str, Tensor] = {}
    for ours, _ in net.named_children():
        names = FCN_NAMES.get(ours, (ours,))
        _copy_layer(source, names, net, ours, state, bias_optional=ours.startswith("upscore"))
        scale = source.drop(SCALES.get(ours, ""))
        if scale is not None and f"{ours}.weight" in state:
            channels = state[f"{ours}.weight"].shape[1]
            factors = source.blob(scale, 0, torch.Size([channels]), f"{SCALES[ours]}'s factors")
            if factors is not None:
                state[f"{ours}.weight"] *= factors.view(1, -1, 1, 1)
    source.check()
    net.load_state_dict(state, assign=True)
    return net, info


def convert_vgg16(
    layers: Mapping[str, CaffeLayer], name: str, class_names: tuple[str, ...] | None = None
) -> tuple[DeconvNet, CheckpointInfo]:
    """A DeconvNet to train from: VGG-16 in its encoder, `fc6` and `fc7`, the usual first weights elsewhere.

    Arguments and errors as `convert_deconvnet`; `class_names` are those of the network that is to be trained.
    """
    source = Source(layers, name)
    width = _width(layers, name)
    info = CheckpointInfo(class_names or VOC_CLASSES, width, CAFFE_PREPROCESSING, f"start: VGG-16 of {name}")
    net = DeconvNet(info.num_classes, width).eval()
    initialise(net, seed=0)
    state: dict[str, Tensor] = {}
    for caffe_name, ours in {**VGG, "fc6": "fc6", "fc7": "fc7"}.items():
        _copy_layer(source, (caffe_name,), net, f"{ours}.conv", state)
    source.drop("fc8")  # ImageNet's classes
    source.check()
    net.load_state_dict(state, strict=False)
    return net, info


CONVERT: dict[ReleasedKind, Callable[..., tuple[DeconvNet | FCN8s, CheckpointInfo]]] = {
    "deconvnet": convert_deconvnet,
    "fcn8s": convert_fcn8s,
    "vgg16": convert_vgg16,
}


def _info(
    layers: Mapping[str, CaffeLayer],
    last: Sequence[str],
    class_names: tuple[str, ...] | None,
    name: str,
    architecture: Architecture = "deconvnet",
    *,
    batch_statistics: bool = True,
) -> CheckpointInfo:
    """The description of a released network; its classes must be named."""
    found = next((layers[key].blobs[0] for key in last if key in layers), None)
    if found is None:
        raise CheckpointError(f"{name} is no {architecture}: it has no layer {last[0]}; it has {_some(layers)}")
    num_classes = next((n for n in found.shape if n != 1), 1)
    names = class_names or VOC_CLASSES
    if len(names) != num_classes:
        raise CheckpointError(f"{name} knows {num_classes} classes, {len(names)} are named: give a list as --classes")
    return CheckpointInfo(
        names, _width(layers, name), CAFFE_PREPROCESSING, f"converted from {name}", architecture, batch_statistics,
        window_shape="square",
    )  # fmt: skip


def _width(layers: Mapping[str, CaffeLayer], name: str) -> float:
    """The width multiplier that `fc6` shows; 1.0 in all releases."""
    if "fc6" not in layers or len(layers["fc6"].blobs) < 2:
        raise CheckpointError(f"{name} has no layer fc6 with weight and bias, so it is none of VGG-16's; it has "
                              f"{_some(layers)}")  # fmt: skip
    return layers["fc6"].blobs[1].size / FC_CHANNELS


def _some(layers: Mapping[str, CaffeLayer]) -> str:
    names = list(layers)
    return ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")


def _copy_layer(
    source: Source,
    names: Sequence[str],
    net: nn.Module,
    ours: str,
    state: dict[str, Tensor],
    *,
    bias_optional: bool = False,
) -> None:
    """Weight and bias of a convolution, deconvolution or fully connected layer."""
    layer = source.take(names)
    if layer is None:
        return
    module = net.get_submodule(ours)
    for number, key in enumerate(("weight", "bias")):
        shape: torch.Size = getattr(module, key).shape
        if key == "bias" and bias_optional and len(layer.blobs) == 1:
            tensor: Tensor | None = torch.zeros(shape)
        else:
            tensor = source.blob(layer, number, shape, f"the {key} of {names[0]}")
        if tensor is not None:
            state[f"{ours}.{key}"] = tensor


def _copy_norm(source: Source, name: str, net: nn.Module, ours: str, state: dict[str, Tensor]) -> None:
    """Copy batch normalisation so that torch's formula with its own epsilon gives the same as Caffe's layer.

    torch divides by sqrt(variance + eps). Scale and shift alone (or gamma and beta without statistics) get mean 0 and
    variance 1 - eps. A variance in the file is stored as variance + 1e-9 - eps.
    """
    layer = source.take((name,))
    if layer is None:
        return
    module = net.get_submodule(ours)
    assert isinstance(module, nn.BatchNorm2d)
    if len(layer.blobs) not in {2, 4}:
        source.note(
            f"{name} has {len(layer.blobs)} blobs; scale and shift, or scale, shift, mean and variance are needed"
        )
        return
    shape = torch.Size([module.num_features])
    keys = ("weight", "bias", "running_mean", "running_var")
    found: dict[str, Tensor | None] = {
        key: source.blob(layer, number, shape, f"the {key} of {name}")
        for number, key in enumerate(keys[: len(layer.blobs)])
    }
    if len(layer.blobs) == 2:
        found |= {"running_mean": torch.zeros(shape), "running_var": torch.full(shape, 1 - module.eps)}
    elif (variance := found["running_var"]) is not None:  # in double precision, for small variances
        found["running_var"] = (variance.double() + RELEASE_EPS - module.eps).float()
    for key, tensor in found.items():
        if tensor is not None:
            state[f"{ours}.{key}"] = tensor
