"""Settings of training sets and of training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline.config.checks import require, require_home_for_checkpoints, require_kinds, require_val_share
from pipeline.config.stages import Precision, ProposeConfig

TrainingStage = Literal[1, 2]
"""1: one centred object in each window; 2: object proposals (paper, section 4)."""


@dataclass(frozen=True)
class TrainingSetConfig:
    """Turn annotated images into training windows for both stages (paper sections 4 and 6).

    Writes an index of windows for each stage and split, and training_set.json and .png with the counts; no pixels are
    copied. The same command again tries the images that failed once more.
    """

    data: tuple[str, ...]
    """Folders, local or in a store, each in one of four layouts. PASCAL VOC: JPEGImages, SegmentationClass,
    SegmentationObject (optional: without it, objects are the connected parts of a class),
    ImageSets/Segmentation (optional: without it, all masks are for training).
    SBD: img, cls, inst; all for training but what the VOC folders hold.
    COCO: annotations/instances_<split>.json and the images in <split> or images.
    Plain folders: images, masks and classes.txt, split by `val-share`."""
    output: str
    """Folder, local or in a store, for the two indexes of windows: new, or started with these same settings."""
    train_split: str = "train"
    """VOC: name of the training list in ImageSets/Segmentation. COCO: as in the file's name, such as train2017."""
    val_split: str = "val"
    """The same for validation."""
    val_share: float | None = None
    """Plain folders: share of the images that is for validation, chosen by their names. Default: 0.2."""
    classes: str | None = None
    """File with one class name a line, background first. Default: what the folders say,
    which must agree: COCO's categories, a folder's `classes.txt`, else VOC's 21."""
    limit: int | None = None
    """Take only the first images of each split."""
    windows_from: str | None = None
    """Folder with train.txt and val.txt, one window per line: `image mask x1 y1 x2 y2`, as in the DeconvNet release;
    image and mask are paths below the one folder of `data`. Stage 2 then has these windows and no others."""
    min_iou: float = 0.5
    """Stage 2: least overlap of a proposal with an object's box (intersection over union)."""
    windows_per_image: int = 20
    """Stage 2: at most this many windows per image, the best-scored ones of each object in turn."""
    any_windows_per_image: int = 0
    """Stage 2, not in the paper: also this many of the proposals that inference would use, whatever they overlap.
    Otherwise a network without ImageNet's features never learns what is not an object."""
    max_repeats: int = 10
    """Class balance: an example of a rare class is repeated up to this many times per epoch."""
    stage1_keeps: Literal["object", "class"] = "object"
    """Stage 1: what keeps its labels in a window. `object`: only the centred object, as in the DeconvNet release;
    where there is an object mask, others of its class are background. `class`: all pixels of its class."""
    propose: ProposeConfig = field(default_factory=lambda: ProposeConfig(window_shape="square"))

    def __post_init__(self) -> None:
        require_kinds(self)
        require(
            self.propose.window_shape != "auto",
            "window_shape",
            "auto",
            "a training set has square or box; networks that are trained on it take it over",
        )
        require(
            self.propose.proposals_from is None,
            "proposals_from",
            self.propose.proposals_from,
            "training sets are made from EdgeBoxes",
        )
        require(
            self.windows_from is None or len(self.data) == 1,
            "windows_from",
            self.windows_from,
            "its paths are below one folder; give one as `data`",
        )
        require(len(self.data) > 0, "data", self.data, "at least one folder is needed")
        require_val_share(self.val_share)
        require(0 < self.min_iou < 1, "min_iou", self.min_iou, "must lie in 0..1")
        require(self.windows_per_image >= 1, "windows_per_image", self.windows_per_image, "must be at least 1")
        require(
            self.any_windows_per_image >= 0, "any_windows_per_image", self.any_windows_per_image, "must be 0 or more"
        )
        require(self.max_repeats >= 1, "max_repeats", self.max_repeats, "must be at least 1")
        require(self.limit is None or self.limit >= 1, "limit", self.limit, "must be at least 1")


@dataclass(frozen=True)
class TrainConfig:
    """Train DeconvNet in two stages: centred objects first, then object proposals. The defaults are the paper's.

    Writes OUTPUT/deconvnet.safetensors, the network, and after every epoch OUTPUT/curves.csv, curves.png, tensorboard/
    and windows/. A training that was stopped resumes from its last checkpoint.
    """

    training_set: str
    """Folder made by build-training-set."""
    output: str
    """Folder for checkpoints, metrics and the exported network."""
    recipe: Literal["paper", "release"] = "paper"
    """Whose rules the defaults of the schedule and of the parameter groups follow; an option that is given wins."""
    stages: tuple[TrainingStage, ...] = (1, 2)
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
    iterations: tuple[int, int] | None = None
    """Steps at most, in stage 1 and in stage 2, if they end before `epochs`. None: no limit."""
    batch_size: int = 64
    """Examples per step over all workers together, however many there are."""
    micro_batch: int = 16
    """Examples that go through the network at once, at least 2; gradients add up to `batch-size`."""
    learning_rate: float = 0.01
    """First learning rate of each stage."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 0.0005
    """Weight decay of SGD."""
    bias_lr_factor: float = 1.0
    """Learning rate of the biases of convolutions, as a multiple of the weights'."""
    decay_biases: bool = True
    """Whether the biases of convolutions decay; batch normalisation's scale and shift always do."""
    norm_lr_factor: float = 1.0
    """Learning rate of batch normalisation's scale and shift, as a multiple of the weights'; the decay is the same."""
    norm_eps: float = 1e-5
    """What batch normalisation adds to variances; the exported network keeps it."""
    schedule: Literal["plateau", "steps"] = "plateau"
    """When the learning rate is divided by 10: when validation accuracy stops improving, or every `lr-steps` steps."""
    plateau_patience: int = 1
    """Plateau: how many validations in a row without a better accuracy are tolerated; after one more, the learning
    rate falls."""
    lr_steps: tuple[int, int] = (9000, 10000)
    """Steps: their number after which the learning rate falls, in stage 1 and in stage 2."""
    min_learning_rate: float = 1e-5
    """A stage ends when the learning rate falls below this."""
    validate_every: int | None = None
    """Steps between validations within an epoch, besides the one at its end. The plateau counts validations, and the
    best network is chosen among all of them. None: only after each epoch."""
    val_windows: int = 2000
    """Most windows used in one validation."""
    bn_statistics: int = 0
    """Training windows over which batch normalisation's statistics are recomputed before the export.
    0: keep the running averages of training."""
    precision: Precision = "float32"
    """bfloat16: autocast; for GPUs and for CPUs with AMX."""
    sync_bn: bool = False
    """Batch normalisation over the micro-batches of all workers together; GPUs only."""
    compile: bool = False
    """Compile the network (torch.compile); the first step then takes minutes."""
    export_precision: Literal["float32", "float16"] = "float32"
    """Number format of the exported network; float16 halves the file."""
    export_background: float = 0.0
    """Share of the background's score that is subtracted from all scores in the exported network, 0..1.
    The probabilities of a single window stay the same, the maximum over proposals changes: above 0, background wins
    less often. Not in the paper."""
    workers: int = 1
    """Training processes; one per GPU, where there are GPUs."""
    max_workers: int | None = None
    """Elastic: start with as many workers as there is room for, `workers` to this many,
    and take in more when machines come. None: exactly `workers`."""
    max_failures: int = 3
    """How often lost workers are replaced without a new checkpoint in between; then the stage ends. -1: always."""
    checkpoint_minutes: float = 30.0
    """Minutes between checkpoints within an epoch; there is always one after each epoch."""
    keep_checkpoints: int = 2
    """How many of the last checkpoints are kept, besides the best network."""
    seed: int = 0
    """Seed of initialisation, crops, flips and order."""

    def __post_init__(self) -> None:
        require_kinds(self)
        require_home_for_checkpoints(self.output)
        require(set(self.stages) <= {1, 2} and len(self.stages) > 0, "stages", self.stages, "1, 2 or both")
        require(0 < self.width <= 4, "width", self.width, "must lie in 0..4")
        require(min(self.epochs) >= 1, "epochs", self.epochs, "must be at least 1 each")
        require(min(self.lr_steps) >= 1, "lr_steps", self.lr_steps, "must be at least 1 each")
        if self.iterations is not None:
            require(min(self.iterations) >= 1, "iterations", self.iterations, "must be at least 1 each")
        for name in ("workers", "val_windows", "keep_checkpoints"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        most = self.workers if self.max_workers is None else self.max_workers
        require(most >= self.workers, "max_workers", most, "must be at least `workers`")
        # For one crop fc6 gives one value per channel, which has no variance for batch normalisation.
        require(self.micro_batch >= 2, "micro_batch", self.micro_batch, "must be at least 2")
        require(self.batch_size >= 2 * most, "batch_size", self.batch_size, "must be at least 2 for each worker")
        require(self.max_failures >= -1, "max_failures", self.max_failures, "must be -1 or more")
        for name in ("bn_statistics", "checkpoint_minutes", "bias_lr_factor", "weight_decay"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must be 0 or more")
        for name in ("norm_lr_factor", "norm_eps"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")
        if self.validate_every is not None:
            require(self.validate_every >= 1, "validate_every", self.validate_every, "must be at least 1")
        require(
            self.learning_rate > self.min_learning_rate > 0,
            "learning_rate",
            self.learning_rate,
            "must be above `min-learning-rate`, which must be above 0",
        )
        require(0 <= self.export_background <= 1, "export_background", self.export_background, "must lie in 0..1")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "must lie in 0..1")
        require(self.init is None or self.vgg16 is None, "init", self.init, "give `init` or `vgg16`, not both")


AT_WORK = frozenset({"workers", "max_workers", "max_failures", "checkpoint_minutes", "keep_checkpoints", "compile"})
"""Settings of `TrainConfig` that a resumed run may change: they say how the work is done, not what comes out."""
