"""Settings of training sets and of training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline.config.checks import require
from pipeline.config.segmenting import ProposeConfig


@dataclass(frozen=True)
class TrainingSetConfig:
    """Stage-1 and stage-2 examples from annotated images (paper sections 4.1 and 6)."""

    data: tuple[str, ...]
    """Folders, local or s3://, each in one of three layouts. PASCAL VOC: JPEGImages, SegmentationClass,
    SegmentationObject (optional; objects are then the connected parts of a class), ImageSets/Segmentation (optional;
    all masks are then taken for training). SBD: img, cls, inst; all for training but what the VOC folders hold. COCO:
    annotations/instances_<split>.json and the images in <split> or images."""
    output: str
    """Folder, local or s3://, for the two indexes of windows: new, or begun with these same settings."""
    train_split: str = "train"
    """VOC: name of the training list in ImageSets/Segmentation. COCO: as in the file's name, such as train2017."""
    val_split: str = "val"
    """The same for validation."""
    classes: str | None = None
    """File with one class name a line, background first. Default: COCO's categories, `classes.txt` of the first folder,
    else VOC's 21."""
    limit: int | None = None
    """Take only the first images of each split."""
    min_iou: float = 0.5
    """Stage 2: least overlap of a proposal with an object's box (intersection over union)."""
    windows_per_image: int = 20
    """Stage 2: at most so many windows of an image, the best-scored ones of each object in turn."""
    any_windows_per_image: int = 0
    """Stage 2, not in the paper: also so many of the proposals that inference would look at, whatever they overlap. A
    network without ImageNet's features otherwise never learns what is no object."""
    max_repeats: int = 10
    """Class balance: an example of a rare class is repeated up to so many times an epoch."""
    propose: ProposeConfig = field(default_factory=ProposeConfig)

    def __post_init__(self) -> None:
        require(len(self.data) > 0, "data", self.data, "at least one folder is needed")
        require(0 < self.min_iou < 1, "min_iou", self.min_iou, "must lie in 0..1")
        require(self.windows_per_image >= 1, "windows_per_image", self.windows_per_image, "must be at least 1")
        require(
            self.any_windows_per_image >= 0, "any_windows_per_image", self.any_windows_per_image, "must be 0 or more"
        )
        require(self.max_repeats >= 1, "max_repeats", self.max_repeats, "must be at least 1")
        require(self.limit is None or self.limit >= 1, "limit", self.limit, "must be at least 1")


@dataclass(frozen=True)
class TrainConfig:
    """Two-stage training (paper sections 4 and 6); the defaults are the paper's."""

    training_set: str
    """Folder made by jobs/build_training_set.py."""
    output: str
    """Folder for checkpoints, metrics and the exported network."""
    stages: tuple[Literal[1, 2], ...] = (1, 2)
    """Stages to run: 1 is easy (centred objects), 2 is hard (proposals)."""
    width: float = 1.0
    """Multiplier of every hidden channel count; 1.0 is the paper's network."""
    vgg16: str | None = None
    """torchvision's VGG-16 weights (`.safetensors` or `.pth`, with or without batch normalisation) for the encoder.
    None: from scratch."""
    init: str | None = None
    """A checkpoint of this project to start the first of `stages` from; its width counts, not `width`."""
    epochs: tuple[int, int] = (10, 10)
    """Passes over the examples at most, in stage 1 and in stage 2."""
    batch_size: int = 64
    """Examples a step over all workers together."""
    micro_batch: int = 16
    """Examples that go through the network at once; gradients add up to `batch-size`."""
    learning_rate: float = 0.01
    """First learning rate of each stage."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 0.0005
    """Weight decay of SGD."""
    plateau_patience: int = 1
    """Epochs without a better validation accuracy after which the learning rate is divided by 10."""
    min_learning_rate: float = 1e-5
    """A stage ends when the learning rate falls below this."""
    val_windows: int = 2000
    """Validation windows looked at after each epoch, at most."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast; for GPUs and for CPUs with AMX."""
    export_precision: Literal["float32", "float16"] = "float32"
    """Of the exported network's numbers; float16 halves the file."""
    export_background: float = 0.0
    """Share of the background's score that is subtracted from all scores in the exported network, 0..1. It changes no
    window's probabilities, but the maximum over proposals: above 0, background wins less often. Not in the paper."""
    workers: int = 1
    """Training processes; one a GPU, where there are GPUs."""
    seed: int = 0
    """Seed of initialisation, crops, flips and order."""

    def __post_init__(self) -> None:
        require(set(self.stages) <= {1, 2} and len(self.stages) > 0, "stages", self.stages, "1, 2 or both")
        require(0 < self.width <= 4, "width", self.width, "must lie in 0..4")
        require(min(self.epochs) >= 1, "epochs", self.epochs, "must be at least 1 each")
        for name in ("batch_size", "micro_batch", "workers", "val_windows"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        require(self.batch_size % self.workers == 0, "batch_size", self.batch_size, "must be a multiple of `workers`")
        require(
            self.learning_rate > self.min_learning_rate > 0,
            "learning_rate",
            self.learning_rate,
            "must be above `min-learning-rate`, which must be above 0",
        )
        require(0 <= self.export_background <= 1, "export_background", self.export_background, "must lie in 0..1")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "must lie in 0..1")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "must be 0 or more")
        require(self.init is None or self.vgg16 is None, "init", self.init, "give `init` or `vgg16`, not both")
