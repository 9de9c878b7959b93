"""Settings of the benchmarks; each is run by the module of its name in `benchmarks`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline.config.checks import require, require_positive
from pipeline.config.stages import Precision, PredictConfig, ProposeConfig, RefineConfig


@dataclass(frozen=True)
class Decode:
    """JPEG decoding against torchvision and OpenCV alone."""

    input: str
    """JPEG images, as for segment_dataset.py."""
    limit: int = 100
    """Images to decode."""
    seconds: float = 3.0
    """To measure each for."""
    json: str | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        require_positive(self, "limit", "seconds")


@dataclass(frozen=True)
class Network:
    """Forward passes against the processor's own matrix rate in the same run."""

    width: float = 1.0
    """Of the network; 1 is the paper's."""
    classes: int = 21
    """Background included."""
    micro_batch: int = 4
    """Crops at once."""
    seconds: float = 10.0
    """To measure each form for."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """As for segment_dataset.py."""
    json: str | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        require(0 < self.width <= 4, "width", self.width, "must lie in 0..4")
        require(self.classes >= 2, "classes", self.classes, "must be at least 2, background included")
        require_positive(self, "micro_batch", "seconds")


@dataclass(frozen=True)
class Step(Network):
    """A training step (forward, backward, SGD) against the processor's own matrix rate in the same run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # As in training: batch normalisation has no variance of the one value that fc6 gives for one crop.
        require(self.micro_batch >= 2, "micro_batch", self.micro_batch, "must be at least 2")


@dataclass(frozen=True)
class Crops(Network):
    """Crops, network and aggregation of an image's 50 proposals against the network alone."""

    precision: Precision = "float32"
    """As for segment_dataset.py."""


@dataclass(frozen=True)
class Aggregate:
    """Aggregation of the score maps of an image's 50 proposals against a copy of as many bytes."""

    classes: int = 21
    """Background included."""
    precision: Precision = "float32"
    """Of the score maps."""
    seconds: float = 5.0
    """To measure each way for."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """As for segment_dataset.py."""
    json: str | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        require_positive(self, "classes", "seconds")


@dataclass(frozen=True)
class Crf:
    """The CRF's backends, and what leaving improbable classes out of it changes and saves."""

    input: str | None = None
    """Images, as for segment_dataset.py. Default: made-up images and scores of VOC's size, without a network."""
    weights: str = "demo"
    """The network whose scores are used."""
    limit: int = 12
    """Images to measure."""
    batch: int = 4
    """Images that `torch` is given at once."""
    json: str | None = None
    """File for the figures."""
    propose: ProposeConfig = field(default_factory=ProposeConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)

    def __post_init__(self) -> None:
        require_positive(self, "limit", "batch")


@dataclass(frozen=True)
class Proposals:
    """Recall of the objects of a folder in VOC's layout by the best-scored boxes, and their time."""

    data: str
    """Folder with JPEGImages, SegmentationClass, SegmentationObject and ImageSets."""
    split: str = "train"
    """List of images; those without an object mask are left out."""
    limit: int = 60
    """Images to measure."""
    json: str | None = None
    """File for the figures."""
    propose: ProposeConfig = field(default_factory=ProposeConfig)

    def __post_init__(self) -> None:
        require_positive(self, "limit")


@dataclass(frozen=True)
class Ingest:
    """Ray Data's delivery of training windows against the same transforms in plain processes on the same cores."""

    training_set: str
    """Folder made by jobs/build_training_set.py. An epoch of its training windows is measured: some ten thousand
    examples are needed, or the start of Ray's graph is most of it."""
    stage: Literal[1, 2] = 2
    """Whose windows."""
    json: str | None = None
    """File for the figures."""


@dataclass(frozen=True)
class Edges:
    """Agreement of the edge detectors with people's outlines (BSDS500's F-measure), and their time."""

    data: str
    """Folder of BSDS500: images/SPLIT/*.jpg and groundTruth/SPLIT/*.mat."""
    split: str = "val"
    """Part of it."""
    limit: int | None = None
    """Images to measure."""
    json: str | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        require_positive(self, "limit")


@dataclass(frozen=True)
class Scale:
    """A run of very many images that is nearly done, resumed; no pixels are moved."""

    images: int = 1_000_000
    """Rows of the manifest."""
    done: float = 0.99
    """Part of them that is in the results before."""
    output: str | None = None
    """Folder, local or s3://, that is used and emptied. Default: a temporary one."""
    json: str | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        require_positive(self, "images")
        require(0 <= self.done < 1, "done", self.done, "must lie in 0..1, below 1")


@dataclass(frozen=True)
class Pipeline:
    """The main job against the same stage functions in plain processes on the same cores."""

    input: str
    """Images, as for segment_dataset.py."""
    weights: str = "demo"
    """The network."""
    limit: int = 48
    """Images to do; a few dozen, or the start and the end of the graph are most of what is measured."""
    json: str | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        require_positive(self, "limit")
