"""Settings of the converter of released weights."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config.networks import ReleasedKind


@dataclass(frozen=True)
class ConvertConfig:
    """Convert a released Caffe model to a checkpoint of this project.

    Reads both forms of `.caffemodel` and checks every blob's shape. The checkpoint records what input it needs (BGR,
    mean subtracted), so `segment --weights`, `segment --fcn` and `train --init` take it unchanged.
    """

    source: str
    """The `.caffemodel`."""
    kind: ReleasedKind
    """What it holds: `deconvnet`: the DeconvNet release, training or inference form; `fcn8s`: FCN-8s on VGG-16;
    `vgg16`: VGG-16 for ImageNet, which becomes a network to train from (`train --init`)."""
    output: str
    """The checkpoint to write (.safetensors)."""
    classes: str | None = None
    """A text file with a class name a line, background first. Default: PASCAL VOC's 21."""
