"""Settings of the benchmarks; the module of the same name in `benchmarks` runs each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline.config.checks import require, require_positive
from pipeline.config.stages import Precision, PredictConfig, ProposeConfig, RefineConfig


@dataclass(frozen=True)
class Decode:
    """JPEG decoding compared with torchvision and OpenCV alone."""

    input: str
    """JPEG images, as for segment_dataset.py."""
    limit: int = 100
    """Images to decode."""
    seconds: float = 3.0
    """Seconds to measure each for."""
    json: str | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        require_positive(self, "limit", "seconds")


@dataclass(frozen=True)
class Reading:
    """Decoding images of a store that takes a while to answer, compared with reading them one after the other."""

    input: str
    """Images on this machine, as for segment_dataset.py."""
    limit: int = 64
    """Images to read."""
    milliseconds: float = 50.0
    """Time that the store takes to answer a request."""
    json: str | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        require_positive(self, "limit", "milliseconds")


@dataclass(frozen=True)
class Network:
    """Forward passes compared with the processor's own matrix rate in the same run."""

    width: float = 1.0
    """Width of the network; 1 is the paper's."""
    classes: int = 21
    """Classes, background included."""
    micro_batch: int = 4
    """Crops at once."""
    seconds: float = 10.0
    """Seconds to measure each form for."""
    matrix_side: int | None = None
    """Side of the matrices whose product is the floor. Default: 2048 on a CPU, 8192 on a GPU."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Device, as for segment_dataset.py."""
    json: str | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        require(0 < self.width <= 4, "width", self.width, "must lie in 0..4")
        require(self.classes >= 2, "classes", self.classes, "must be at least 2, background included")
        require_positive(self, "micro_batch", "seconds", "matrix_side")


@dataclass(frozen=True)
class Step(Network):
    """A training step (forward, backward, SGD) compared with the processor's own matrix rate in the same run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # As in training: for one crop fc6 gives one value per channel, which has no variance for batch normalisation.
        require(self.micro_batch >= 2, "micro_batch", self.micro_batch, "must be at least 2")


@dataclass(frozen=True)
class Crops(Network):
    """Crops, network and aggregation of an image's proposals compared with the network alone."""

    proposals: int = 50
    """Proposals of the image."""
    image: tuple[int, int] = (375, 500)
    """Height and width of the image, in pixels."""
    precision: Precision = "float32"
    """Precision, as for segment_dataset.py."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_image(self.image, self.proposals)


@dataclass(frozen=True)
class Aggregate:
    """Aggregation of the score maps of an image's proposals compared with a copy of as many bytes."""

    classes: int = 21
    """Classes, background included."""
    proposals: int = 50
    """Proposals of the image."""
    image: tuple[int, int] = (375, 500)
    """Height and width of the image, in pixels."""
    precision: Precision = "float32"
    """Precision of the score maps."""
    seconds: float = 5.0
    """Seconds to measure each way for."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Device, as for segment_dataset.py."""
    json: str | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        require_positive(self, "classes", "seconds")
        _require_image(self.image, self.proposals)


@dataclass(frozen=True)
class Crf:
    """The CRF's backends, and the effect of leaving out improbable classes on labels and time."""

    input: str | None = None
    """Images, as for segment_dataset.py. Default: synthetic images and scores of VOC's size, without a network."""
    weights: str = "demo"
    """The network whose scores are used."""
    limit: int = 12
    """Images to measure."""
    batch: int = 4
    """Images that `torch` computes at once."""
    image: tuple[int, int] = (375, 500)
    """Height and width of synthetic images, in pixels."""
    json: str | None = None
    """File for the figures."""
    propose: ProposeConfig = field(default_factory=ProposeConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)

    def __post_init__(self) -> None:
        require_positive(self, "limit", "batch")
        require(min(self.image) >= 1, "image", self.image, "must be 1 or more each")


@dataclass(frozen=True)
class Proposals:
    """Recall of objects by the best-scored boxes, on a folder in VOC's layout, and the time of the boxes."""

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
    """Training windows from Ray Data compared with the same transforms in plain processes on the same cores."""

    training_set: str
    """Folder made by jobs/build_training_set.py. One epoch of its training windows is measured; with fewer than some
    ten thousand examples, the start of Ray's graph takes most of the time."""
    stage: Literal[1, 2] = 2
    """Stage whose windows are used."""
    json: str | None = None
    """File for the figures."""


@dataclass(frozen=True)
class Edges:
    """Agreement of the edge detectors with outlines that people drew (BSDS500's F-measure), and their time."""

    data: str
    """Folder of BSDS500: images/SPLIT/*.jpg and groundTruth/SPLIT/*.mat."""
    split: str = "val"
    """Which part of it."""
    limit: int | None = None
    """Images to measure."""
    json: str | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        require_positive(self, "limit")


@dataclass(frozen=True)
class Scale:
    """Resumes a run of very many images that is nearly done; no pixels are moved."""

    images: int = 1_000_000
    """Rows of the manifest."""
    done: float = 0.99
    """Share of them that is in the results before."""
    output: str | None = None
    """Folder, local or s3://, that is emptied and used. Default: a temporary one."""
    json: str | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        require_positive(self, "images")
        require(0 <= self.done < 1, "done", self.done, "must lie in 0..1, below 1")


@dataclass(frozen=True)
class Pipeline:
    """The main job compared with the same stage functions in plain processes on the same cores."""

    input: str
    """Images, as for segment_dataset.py."""
    weights: str = "demo"
    """The network."""
    limit: int = 48
    """Images to segment; with fewer than a few dozen, the start and the end of the graph take most of the time."""
    json: str | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        require_positive(self, "limit")


def _require_image(image: tuple[int, int], proposals: int) -> None:
    require(min(image) >= 1, "image", image, "must be 1 or more each")
    require(proposals >= 1, "proposals", proposals, "must be at least 1")
