"""Initial weights: VGG-16 in the encoder, a Gaussian in the decoder (paper section 6; release)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.errors import CheckpointError
from pipeline.models.deconvnet import ENCODER, DeconvNet, Layer

DECODER_STD = 0.01
BN_SHIFT = 0.001  # the release's batch normalisation starts with scale 1 and this shift


def initialise(net: DeconvNet, seed: int) -> None:
    """Random weights, in place: encoder He-normal (until VGG-16 replaces it), decoder N(0, 0.01²), biases 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.constant_(module.bias, BN_SHIFT)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            if name.startswith(("encoder", "fc6.", "fc7.")):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            else:
                nn.init.normal_(module.weight, std=DECODER_STD, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def load_vgg16(net: DeconvNet, state: Mapping[str, Tensor]) -> None:
    """Copy a torchvision `vgg16` or `vgg16_bn` state dict into the encoder, `fc6` and `fc7`, in place.

    Args:
        net: a network of width 1.
        state: keys `features.<i>.weight` ..., `classifier.0.*` (fc6) and `classifier.3.*` (fc7). Batch
            normalisation is copied where the state has it.

    Raises:
        CheckpointError: the network is not of width 1, or the state is not VGG-16's.
    """
    if net.width != 1.0:
        raise CheckpointError(f"VGG-16's weights fit width 1.0, not {net.width}; train a narrow network from scratch")
    indices = sorted({int(key.split(".")[1]) for key in state if key.startswith("features.")})
    convs = [i for i in indices if state[f"features.{i}.weight"].ndim == 4]
    norms = [i for i in indices if state[f"features.{i}.weight"].ndim == 1]
    layers = [layer for block in map(str, ENCODER) for layer in net.encoder[block].children()]
    if len(convs) != len(layers) or len(norms) not in (0, len(layers)) or "classifier.3.weight" not in state:
        raise CheckpointError(
            f"not a VGG-16 state dict: {len(convs)} convolutions and {len(norms)} batch normalisations under "
            "`features`; 13 and 0 or 13, and `classifier.0` and `classifier.3`, are needed"
        )
    with torch.no_grad():
        for position, layer in enumerate(layers):
            assert isinstance(layer, Layer)
            _copy(layer.conv, state, f"features.{convs[position]}", ("weight", "bias"))
            if norms:
                _copy(layer.bn, state, f"features.{norms[position]}", ("weight", "bias", "running_mean", "running_var"))
        # Fully connected layers are convolutions here: fc6 sees the whole 7x7 map, fc7 one place.
        _copy(net.fc6.conv, state, "classifier.0", ("weight", "bias"))
        _copy(net.fc7.conv, state, "classifier.3", ("weight", "bias"))


def _copy(module: nn.Module, state: Mapping[str, Tensor], prefix: str, names: tuple[str, ...]) -> None:
    for name in names:
        target = getattr(module, name)
        source = state.get(f"{prefix}.{name}")
        if source is None or source.numel() != target.numel():
            shape = "missing" if source is None else f"of shape {tuple(source.shape)}"
            raise CheckpointError(
                f"not a VGG-16 state dict: {prefix}.{name} is {shape}, {tuple(target.shape)} is needed"
            )
        target.copy_(source.reshape(target.shape))
