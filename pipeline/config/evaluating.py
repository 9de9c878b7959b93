"""Settings of evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config.checks import require, require_kinds
from pipeline.config.stages import CrfNormalization


@dataclass(frozen=True)
class EvaluateConfig:
    """Compare a run's results with ground truth in VOC's layout: IoU of each class, mean IoU, pixel accuracy.

    Prints tables and writes the figures, the confusion matrix and the names of images left out as JSON. `--panels`
    draws pictures and `--submission` writes the masks as the VOC server takes them; neither needs a ground truth.
    """

    results: str
    """Output folder of a run."""
    ground_truth: str | None = None
    """Folder in VOC's layout: SegmentationClass/<name>.png, and ImageSets/Segmentation/<split>.txt for `split`;
    or in COCO's: annotations/instances_<split>.json, joined by `file_name`;
    or with images/ and masks/, whose splits are `train` and `val`, as in training."""
    split: str | None = None
    """Compare only the images of this list. Default: all that have a mask."""
    json: str | None = None
    """File for the figures. Default: RESULTS/run/evaluation.json."""
    trimap: int = 0
    """Also score only the pixels within 1, 2, ... N pixels of a boundary of the ground truth.
    Adds a table, and a figure beside the JSON, trimap.png. 0: off."""
    objects: bool = False
    """Also score each object of the ground truth by itself, and show the means by size. An object is what
    SegmentationObject, or COCO's annotations, say, otherwise a connected part of its class."""
    panels: int = 0
    """Draw photograph, ground truth (if there is one) and result side by side, for the first N images by name:
    RESULTS/panels/<image id>.png."""
    require_all: bool = False
    """Exit with code 2 when an image of the ground truth has no result or could not be compared."""
    submission: str | None = None
    """Folder for the masks in the layout of the VOC server. Must not hold any yet."""

    def __post_init__(self) -> None:
        require_kinds(self)
        require(self.panels >= 0, "panels", self.panels, "must be 0 or more")
        require(0 <= self.trimap <= 100, "trimap", self.trimap, "must lie in 0..100")
        if self.ground_truth is not None:
            return
        require(
            self.submission is not None or self.panels > 0,
            "ground_truth",
            "not given",
            "give the folder with the true masks, or `--panels N` for pictures or `--submission FOLDER`, without it",
        )
        for name in ("split", "json", "trimap", "objects", "require_all"):
            require(not getattr(self, name), name, getattr(self, name), "it needs `--ground-truth FOLDER`")


@dataclass(frozen=True)
class ReportConfig:
    """What came out of a run or a training, on one page: RESULTS/run/report.html, or RESULTS/report.html of a training.

    The page is one file that opens without a network. A run's has the audit, the time of each stage, errors by kind,
    classes, confidences and the images that are worth a look; a training's the curves, the IoU of each class and where
    it started from. The jobs also write it at their end. Of an output on S3, the page is written there.
    """

    results: str
    """Output folder of a run or a training, finished or not. Local or in a store (docs/storage.md)."""


@dataclass(frozen=True)
class TuneCrfConfig:
    """A search for the CRF's parameters."""

    results: str
    """Output folder of a run with `save-probabilities`."""
    ground_truth: str
    """Folder in VOC's layout: SegmentationClass/<name>.png, and ImageSets/Segmentation/<split>.txt for `split`."""
    split: str | None = None
    """Take only the images of this list. Default: all that have a mask."""
    limit: int | None = None
    """Take only the first N of them."""
    normalizations: tuple[CrfNormalization, ...] = ("symmetric", "none")
    """Normalisations of the kernels; each is searched separately."""
    trials: int = 40
    """Sets of parameters to try for each: the defaults, then half at random, then around the best."""
    seed: int = 0
    """Seed of the random draws."""
    threads: int = 0
    """Images processed at once. 0: one per core."""
    json: str | None = None
    """File for all trials."""

    def __post_init__(self) -> None:
        require_kinds(self)
        require(self.trials >= 1, "trials", self.trials, "must be at least 1")
        require(self.threads >= 0, "threads", self.threads, "must be 0 or more")
        require(self.limit is None or self.limit >= 1, "limit", self.limit, "must be at least 1")
        require(len(self.normalizations) > 0, "normalizations", self.normalizations, "symmetric, none or both")
