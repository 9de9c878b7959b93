"""Settings of the training of the light DeconvNet."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config.checks import require
from pipeline.config.fcn import check_photograph_training
from pipeline.config.stages import Precision
from pipeline.config.training import TrainingStage


@dataclass(frozen=True)
class TrainLiteConfig:
    """A light DeconvNet on windows of photographs with class masks; `make train-voc` has the settings of `voc`."""

    data: tuple[str, ...]
    """Folders, local or in a store, in the layouts that build-training-set takes: PASCAL VOC's, SBD's, COCO's,
    or plain folders: images, masks and classes.txt, split by `val-share`."""
    output: str
    """Folder for checkpoints, the record and the exported network."""
    fcn: str = "voc-fcn"
    """A network of jobs/train_fcn.py with the same classes: the encoder and context start as its own, and its
    probabilities teach along with the masks. `voc-fcn` has seen VOC's val photographs: figures on them are too good."""
    teacher: str | None = None
    """Distillation: a DeconvNet of jobs/train.py with the same classes, trained on square windows. In the second stage
    its probabilities teach in the place of the FCN's."""
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
    steps: int = 2000
    """Batches to train for; the learning rate falls to zero over them."""
    stage1_share: float = 0.2
    """Share of the steps that belong to the first stage: tight windows, in which one object alone keeps its label."""
    batch_size: int = 16
    """Windows per step over all workers together, however many there are."""
    learning_rate: float = 2e-3
    """Highest learning rate of the decoder (AdamW)."""
    backbone_factor: float = 0.0
    """Learning rate of encoder and context, as a multiple of the decoder's; 0: they stay the FCN's."""
    weight_decay: float = 0.02
    """Weight decay of AdamW; biases, scales and shifts do not decay."""
    val_every: int = 500
    """Steps between two validations; each validation photograph is one window."""
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
    """Seed of initialisation, windows, colours and order."""

    def __post_init__(self) -> None:
        check_photograph_training(self)
        require(self.backbone_factor >= 0, "backbone_factor", self.backbone_factor, "must be 0 or more")
        require(0 <= self.stage1_share <= 1, "stage1_share", self.stage1_share, "must lie in 0..1")

    def stage(self, step: int) -> TrainingStage:
        """The stage that a step belongs to."""
        return 1 if step < self.stage1_share * self.steps else 2
