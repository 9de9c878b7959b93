"""Every setting of the project and its default: frozen, typed, checked when made. The only place a default lives.

The jobs turn these classes into command lines, so a field's docstring is its help text. The fields of nested
classes become top-level options (`--proposals`, `--crf`), hence their names are unique over a whole config.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal


class ConfigError(ValueError):
    """A setting is out of its range; the message names the setting, its value and what is allowed."""


def _require(ok: bool, name: str, value: object, allowed: str) -> None:
    if not ok:
        raise ConfigError(f"{name} is {value}; {allowed}")


@dataclass(frozen=True)
class DecodeConfig:
    """Bytes to RGB."""

    max_side: int = 640
    """Images with a longer side are scaled down to it, in pixels, for proposals, network and CRF; masks keep the
    original size. 0: never scale."""
    max_megapixels: float = 200.0
    """Images with more pixels than this, in millions, are refused as decompression bombs."""

    def __post_init__(self) -> None:
        _require(self.max_side == 0 or self.max_side >= 32, "max_side", self.max_side, "0 or at least 32")
        _require(self.max_megapixels > 0, "max_megapixels", self.max_megapixels, "must be above 0")


@dataclass(frozen=True)
class ProposeConfig:
    """Object proposals: EdgeBoxes, extended, filtered, the best kept (paper section 6; release)."""

    proposals: int = 50
    """Proposals an image gives to the network: the best-scored ones of those that pass `min-side`."""
    edges: Literal["gradient", "structured"] = "gradient"
    """Edge detector: the built-in colour gradient, or OpenCV's structured forests (needs `edge-model`)."""
    edge_model: str | None = None
    """File of OpenCV's structured-forest edge model (model.yml.gz), for `edges structured`."""
    edge_threshold: float = 0.1
    """Edges weaker than this (0..1) are dropped before EdgeBoxes."""
    max_boxes: int = 2000
    """Boxes asked of EdgeBoxes, before the filter."""
    extend: float = 1.2
    """Each box is extended by this factor about its centre."""
    min_side: float = 112.0
    """Boxes whose shorter extended side is smaller, in pixels, are skipped. Small images: at most 0.3 of the
    image's shorter side is asked for."""

    def __post_init__(self) -> None:
        _require(self.proposals >= 1, "proposals", self.proposals, "must be at least 1")
        _require(self.max_boxes >= self.proposals, "max_boxes", self.max_boxes, "must be at least `proposals`")
        _require(1.0 <= self.extend <= 4.0, "extend", self.extend, "must lie in 1..4")
        _require(self.min_side >= 0, "min_side", self.min_side, "must be 0 or more")
        _require(0 <= self.edge_threshold < 1, "edge_threshold", self.edge_threshold, "must lie in 0..1")
        _require(
            self.edges != "structured" or self.edge_model is not None,
            "edge_model",
            self.edge_model,
            "`edges structured` needs the path of OpenCV's model.yml.gz",
        )


@dataclass(frozen=True)
class PredictConfig:
    """Windows, network and aggregation (paper sections 4.3 and 5)."""

    window: Literal["250-224", "direct"] = "250-224"
    """`250-224`: a box is resized to 250x250 and its central 224x224 is fed. `direct`: resized straight to 224x224."""
    aggregation: Literal["max", "average"] = "max"
    """How overlapping score maps are combined: pixel-wise maximum (equation 1) or average (equation 2)."""
    micro_batch: int = 16
    """Crops that go through the network at once, whatever images they come from."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs; `auto` takes a GPU where there is one."""

    def __post_init__(self) -> None:
        _require(self.micro_batch >= 1, "micro_batch", self.micro_batch, "must be at least 1")


@dataclass(frozen=True)
class RefineConfig:
    """Fully connected CRF (Kraehenbuehl and Koltun 2011); the defaults are the DeconvNet release's."""

    crf: Literal["pydensecrf", "none"] = "pydensecrf"
    """CRF backend; `none` takes the most probable class of each pixel."""
    crf_iterations: int = 10
    """Mean-field iterations."""
    gaussian_sxy: float = 3.0
    """Smoothness kernel: standard deviation in pixels."""
    gaussian_weight: float = 3.0
    """Smoothness kernel: weight."""
    bilateral_sxy: float = 20.0
    """Appearance kernel: spatial standard deviation in pixels."""
    bilateral_srgb: float = 3.0
    """Appearance kernel: colour standard deviation, of 0..255."""
    bilateral_weight: float = 5.0
    """Appearance kernel: weight."""
    label_threshold: float = 0.01
    """Classes whose probability stays below this in the whole image are left out of the CRF, which costs time per
    class. Background always stays. 0: keep all."""

    def __post_init__(self) -> None:
        _require(self.crf_iterations >= 1, "crf_iterations", self.crf_iterations, "must be at least 1")
        for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")
        for name in ("gaussian_weight", "bilateral_weight"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "must be 0 or more")
        _require(0 <= self.label_threshold < 0.5, "label_threshold", self.label_threshold, "must lie in 0..0.5")


@dataclass(frozen=True)
class SegmentConfig:
    """The main job: a data set of images to label masks."""

    input: str
    """Images: a folder (with all its subfolders), a pattern such as `photos/**/*.jpg`, or a Parquet or CSV manifest
    with a `uri` column."""
    output: str
    """Folder for results, masks, errors and the run's record. The same command again finishes what is left."""
    weights: str = "demo"
    """A checkpoint (.safetensors), or `demo`: the small one that ships with the project (see `docs/results.md`)."""
    limit: int | None = None
    """Take only the first so many images of the sorted input."""
    masks: bool = True
    """Also write each mask as OUTPUT/masks/<image id>.png; the masks are in the Parquet results either way."""
    overwrite: bool = False
    """Delete what another run left in OUTPUT before starting."""
    max_error_rate: float = 0.05
    """Stop with exit code 4 when more than this fraction of the images failed (looked at from 10 failures on)."""
    rows_per_file: int = 256
    """Images in a Parquet file of results."""
    predict_workers: int = 0
    """Processes that run the network, one a GPU where there are GPUs. 0: sized from the cluster."""
    refine_workers: int = 0
    """Processes that run the CRF. 0: sized from the cluster."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    propose: ProposeConfig = field(default_factory=ProposeConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)

    def __post_init__(self) -> None:
        _require(self.limit is None or self.limit >= 1, "limit", self.limit, "must be at least 1")
        _require(0 <= self.max_error_rate <= 1, "max_error_rate", self.max_error_rate, "must lie in 0..1")
        _require(self.rows_per_file >= 1, "rows_per_file", self.rows_per_file, "must be at least 1")
        for name in ("predict_workers", "refine_workers"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "must be 0 or more")

    def result_settings(self) -> dict[str, Any]:
        """The settings that change what is in the results; two runs may share an output only if these agree."""
        settings = {"input": self.input, "masks": self.masks}
        for stage in ("decode", "propose", "predict", "refine"):
            settings |= {f"{stage}.{name}": value for name, value in asdict(getattr(self, stage)).items()}
        return {name: value for name, value in settings.items() if name not in _RESULT_NEUTRAL}


# Where and how many crops at once changes speed and the last float digits only.
_RESULT_NEUTRAL = {"predict.device", "predict.micro_batch"}


@dataclass(frozen=True)
class TrainingSetConfig:
    """Stage-1 and stage-2 examples from folders in VOC layout (paper sections 4.1 and 6)."""

    data: tuple[str, ...]
    """Folders in VOC layout: JPEGImages, SegmentationClass, SegmentationObject (optional; objects are then the
    connected parts of a class), ImageSets/Segmentation (optional; all masks are then taken for training)."""
    output: str
    """Folder for the two indexes of windows."""
    train_split: str = "train"
    """Name of the training list in ImageSets/Segmentation."""
    val_split: str = "val"
    """Name of the validation list."""
    classes: str | None = None
    """File with one class name a line, background first. Default: `classes.txt` of the first folder, else VOC's 21."""
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
        _require(len(self.data) > 0, "data", self.data, "at least one folder is needed")
        _require(0 < self.min_iou < 1, "min_iou", self.min_iou, "must lie in 0..1")
        _require(self.windows_per_image >= 1, "windows_per_image", self.windows_per_image, "must be at least 1")
        _require(
            self.any_windows_per_image >= 0, "any_windows_per_image", self.any_windows_per_image, "must be 0 or more"
        )
        _require(self.max_repeats >= 1, "max_repeats", self.max_repeats, "must be at least 1")
        _require(self.limit is None or self.limit >= 1, "limit", self.limit, "must be at least 1")


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
    workers: int = 1
    """Training processes; one a GPU, where there are GPUs."""
    seed: int = 0
    """Seed of initialisation, crops, flips and order."""

    def __post_init__(self) -> None:
        _require(set(self.stages) <= {1, 2} and len(self.stages) > 0, "stages", self.stages, "1, 2 or both")
        _require(0 < self.width <= 4, "width", self.width, "must lie in 0..4")
        _require(min(self.epochs) >= 1, "epochs", self.epochs, "must be at least 1 each")
        for name in ("batch_size", "micro_batch", "workers", "val_windows"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        _require(self.batch_size % self.workers == 0, "batch_size", self.batch_size, "must be a multiple of `workers`")
        _require(
            self.learning_rate > self.min_learning_rate > 0,
            "learning_rate",
            self.learning_rate,
            "must be above `min-learning-rate`, which must be above 0",
        )
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "must lie in 0..1")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "must be 0 or more")
        _require(self.init is None or self.vgg16 is None, "init", self.init, "give `init` or `vgg16`, not both")


@dataclass(frozen=True)
class ScenesConfig:
    """A synthetic dataset in VOC's layout."""

    output: str
    """Directory of the dataset: new, empty, or holding this same dataset."""
    train: int = 400
    """Training images."""
    val: int = 24
    """Validation images."""
    seed: int = 0
    """Scenes depend on this, the split and the image's number, and on nothing else."""

    def __post_init__(self) -> None:
        for name in ("train", "val"):
            _require(0 <= getattr(self, name) <= 1_000_000, name, getattr(self, name), "must lie in 0..1000000")
        _require(self.seed >= 0, "seed", self.seed, "must be 0 or more")


@dataclass(frozen=True)
class EvaluateConfig:
    """A run's results against ground truth."""

    results: str
    """Output folder of a run."""
    ground_truth: str
    """Folder in VOC's layout: SegmentationClass/<name>.png, and ImageSets/Segmentation/<split>.txt for `split`."""
    split: str | None = None
    """Compare only the images of this list. Default: all that have a mask."""
    json: str | None = None
    """File for the figures. Default: RESULTS/run/evaluation.json."""
    panels: int = 0
    """Write pictures of photograph, ground truth and result side by side for so many images, RESULTS/panels/*.png."""
    require_all: bool = False
    """Exit with code 2 when an image of the ground truth has no result or could not be compared."""

    def __post_init__(self) -> None:
        _require(self.panels >= 0, "panels", self.panels, "must be 0 or more")
