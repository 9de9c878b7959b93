"""The stages of the main job: the settings of each, and the list that everything else follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.config.checks import require, require_kinds
from pipeline.config.networks import FcnKind, parse_network

if TYPE_CHECKING:
    from pipeline.config.segmenting import SegmentConfig

Processes = Literal["tasks", "predict", "refine"]
"""Where a stage runs. `tasks`: CPU tasks that come and go; `predict`: actors that hold a network, on GPUs where there
are some; `refine`: actors on CPUs, which also write an image's results."""


Edges = Literal["learned", "gradient", "structured"]
"""Edge detectors: a file each in pipeline/proposals/detectors."""
WindowShape = Literal["square", "box"]
AskedShape = Literal["auto", "square", "box"]
WindowRule = Literal["250-224", "direct"]
Aggregation = Literal["max", "sum", "average"]
"""Rules for overlapping score maps: `RULES` in pipeline/inference/aggregate.py."""
Precision = Literal["float32", "bfloat16"]
AskedPrecision = Literal["auto", "float32", "bfloat16"]
EnsembleRule = Literal["mean", "product"]
Crf = Literal["native", "pydensecrf", "torch", "none"]
"""CRF backends: a file each in pipeline/crf/backends; `none` needs none."""
GPU_CRFS: tuple[Crf, ...] = ("torch",)
"""Backends that compute all images of a table together, on a GPU where there is one."""
CrfNormalization = Literal["symmetric", "none"]


@dataclass(frozen=True)
class Stage:
    """A box of the diagram in docs/architecture.md.

    Attributes:
        name: also the name of its file, pipeline/stages/NAME.py, whose `load` makes its function, of its settings in
            `SegmentConfig`, if it has any, and of the column and figure `seconds_NAME`.
        processes: where it runs. Neighbours that run in the same processes hand their tables on without a copy.
        guess: seconds per image where nothing was measured, for a small network on one core.
        gpu_guess: the same for the full network on a GPU.
        needed: whether a run with such settings has this stage at all.
    """

    name: str
    processes: Processes
    guess: float
    gpu_guess: float
    needed: Callable[[SegmentConfig], bool] = lambda _config: True


@dataclass(frozen=True)
class DecodeConfig:
    """Bytes to RGB."""

    max_side: int = 640
    """Images with a longer side are scaled down to it, in pixels, for proposals, network and CRF;
    masks keep the original size. 0: never scale."""
    max_megapixels: float = 200.0
    """Images with more pixels than this, in millions, are refused as decompression bombs."""

    def __post_init__(self) -> None:
        require_kinds(self)
        require(self.max_side == 0 or self.max_side >= 32, "max_side", self.max_side, "0 or at least 32")
        require(self.max_megapixels > 0, "max_megapixels", self.max_megapixels, "must be above 0")


@dataclass(frozen=True)
class FilterConfig:
    """Which images are worth segmenting; the others are skipped, with the reason in OUTPUT/skipped."""

    min_pixels: int = 0
    """Images with fewer pixels than this, height times width, are skipped. 0: none."""

    def __post_init__(self) -> None:
        require_kinds(self)
        require(self.min_pixels >= 0, "min_pixels", self.min_pixels, "must be 0 or more")


@dataclass(frozen=True)
class ProposeConfig:
    """Object proposals: EdgeBoxes, extended, filtered, the best kept (paper section 6; release)."""

    proposals: int = 50
    """Proposals per image for the network: the best-scored ones of those that pass `min-side`.
    0: none are made; the network is an FCN and sees the whole image (recipes `fcn`, `fcn+crf`)."""
    proposals_from: str | None = None
    """Proposals of your own instead of EdgeBoxes: a Parquet table with columns image_id, box (x0, y0, x1, y1) and
    score, a JSON file of COCO detections, or the DeconvNet release's folder of .mat files, whose boxes are windows
    already. In pixels of the upright image; see `docs/segmenting.md`."""
    edges: Edges = "learned"
    """Edge detector: the small network that ships with the project, the colour gradient,
    or OpenCV's structured forests (needs `edge-model`)."""
    edge_model: str | None = None
    """File of OpenCV's structured-forest edge model (model.yml.gz), for `edges structured`."""
    edge_threshold: float = 0.1
    """Edges weaker than this (0..1) are dropped before EdgeBoxes."""
    max_boxes: int = 2000
    """Boxes requested from EdgeBoxes, before the filter."""
    extend: float = 1.2
    """Each box is extended by this factor about its centre."""
    window_shape: AskedShape = "auto"
    """Shape of the window around a box. `square`: a square with a side of `extend` times the longer side (DeconvNet
    release); `box`: the extended box, which the network sees stretched to a square. A network must see what it was
    trained on: `auto` takes the shape that its file names, `box` where it names none."""
    min_side: float = 112.0
    """Boxes whose window has a smaller side, in pixels, are skipped."""
    min_side_of: Literal["longer", "shorter"] = "longer"
    """Which side `min-side` measures where a window is not square. With `shorter`, long thin objects are skipped, as
    in this project before it had square windows."""
    small_image_share: float = 0.3
    """`min-side` is lowered to this share of an image's shorter side, if that is less. 0: never."""

    def __post_init__(self) -> None:
        require_kinds(self)
        require(self.proposals >= 0, "proposals", self.proposals, "must be 0 or more")
        require(self.max_boxes >= self.proposals, "max_boxes", self.max_boxes, "must be at least `proposals`")
        require(1.0 <= self.extend <= 4.0, "extend", self.extend, "must lie in 1..4")
        require(self.min_side >= 0, "min_side", self.min_side, "must be 0 or more")
        require(self.small_image_share >= 0, "small_image_share", self.small_image_share, "must be 0 or more")
        require(0 <= self.edge_threshold < 1, "edge_threshold", self.edge_threshold, "must lie in 0..1")
        require(
            self.edges != "structured" or self.edge_model is not None,
            "edge_model",
            self.edge_model,
            "`edges structured` needs the path of OpenCV's model.yml.gz",
        )


@dataclass(frozen=True)
class PredictConfig:
    """Windows, network and aggregation (paper sections 5 and 6)."""

    window: WindowRule = "250-224"
    """`250-224`: a box is resized to 250x250 and its central 224x224 is fed. `direct`: resized straight to 224x224."""
    aggregation: Aggregation = "max"
    """How overlapping score maps are combined: pixel-wise maximum (equation 1), sum (equation 2), or average: the sum
    divided by the number of windows that cover the pixel."""
    precision: AskedPrecision = "float32"
    """Number format of the network's weights and maps. `bfloat16` changes some labels and is much slower on CPUs
    without instructions for it (see `docs/performance.md`). `auto`: on CPUs with such instructions, whichever of the
    two each process finds faster; elsewhere, also on GPUs, `float32`."""
    micro_batch: int = 16
    """Crops that go through the network at once, whatever images they come from."""
    skip_certain: float = 1.0
    """Windows are left out if their pixels are certain already, by the windows before them or by the ensemble's other
    network: if the most probable class has a mean probability above this, 0.5..1. 0.9 leaves out half of the windows of
    photographs with `voc`, 0.88 a third with `demo` (see `docs/performance.md`). 1: none."""
    tile: int = 0
    """A network for whole images gets those with a longer side than this in overlapping tiles of this side, in pixels.
    Only with a larger `max-side` than this. 0: always whole."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs; `auto` takes a GPU where there is one."""

    def __post_init__(self) -> None:
        require_kinds(self)
        require(self.micro_batch >= 1, "micro_batch", self.micro_batch, "must be at least 1")
        require(0.5 <= self.skip_certain <= 1, "skip_certain", self.skip_certain, "must lie in 0.5..1")
        require(self.tile == 0 or self.tile >= 64, "tile", self.tile, "0 or at least 64")


@dataclass(frozen=True)
class EnsembleConfig:
    """EDeconvNet: a fully convolutional network beside DeconvNet (paper section 5)."""

    fcn: str | None = None
    """The other network: `voc-fcn`, a file of jobs/train_fcn.py or jobs/convert_weights.py (FCN-8s), or one of another
    library as `weights` names them, such as `torchvision:fcn_resnet50=FILE`, with DeconvNet's classes in the same
    order. None: DeconvNet alone."""
    fcn_kind: FcnKind = "auto"
    """What a plain file holds: `--fcn FILE --fcn-kind fcn_resnet50` is `--fcn torchvision:fcn_resnet50=FILE`.
    `auto`: the file says it itself. torchvision's files don't."""
    ensemble: EnsembleRule = "mean"
    """How the two are combined: mean of their probabilities (paper)
    or product of their scores, the other network's clamped at 0 (release)."""
    ensemble_weight: float = 0.5
    """Weight of DeconvNet in the mean, 0..1; the other network has the rest. If one network is better, another weight
    than the paper's does better; choose it on photographs that neither was trained on."""

    def __post_init__(self) -> None:
        require_kinds(self)
        if self.fcn is not None:
            parse_network(self.fcn, self.fcn_kind)
        require(0 <= self.ensemble_weight <= 1, "ensemble_weight", self.ensemble_weight, "must lie in 0..1")


@dataclass(frozen=True)
class RefineConfig:
    """Fully connected CRF (Kraehenbuehl and Koltun 2011).

    Iterations, kernels and weights are the DeconvNet release's, the normalisation is not: the release has none.
    """

    crf: Crf = "native"
    """CRF backend. `native`: this project's compiled one; `pydensecrf`: the authors';
    `torch`: several images at once on a GPU (`refine-gpus`). All three compute the same.
    `none` takes the most probable class of each pixel."""
    crf_normalization: CrfNormalization = "symmetric"
    """How the kernels are normalised. `symmetric`: divided by the roots of their sums at both pixels, so that a weight
    counts the same whatever its kernel's width. `none` (the DeconvNet release): the weights multiply sums over tens to
    thousands of pixels. No weights fit both; `jobs/tune_crf.py` finds some for your network."""
    crf_iterations: int = 10
    """Mean-field iterations."""
    gaussian_sxy: float = 3.0
    """Smoothness kernel: standard deviation in pixels."""
    gaussian_weight: float = 3.0
    """Smoothness kernel: weight."""
    bilateral_sxy: float = 20.0
    """Appearance kernel: spatial standard deviation in pixels."""
    bilateral_srgb: float = 3.0
    """Appearance kernel: colour standard deviation, on the scale 0..255."""
    bilateral_weight: float = 5.0
    """Appearance kernel: weight."""
    label_threshold: float = 0.1
    """Classes whose probability stays below this in the whole image are left out of the CRF,
    whose time grows with the number of classes. Background always stays. 0: keep all."""
    mask_format: Literal["palette", "grey"] = "palette"
    """PNG format of the masks. `palette` shows VOC's colours in a viewer; `grey` is what every library, OpenCV too,
    reads as class numbers."""

    def __post_init__(self) -> None:
        require_kinds(self)
        require(self.crf_iterations >= 1, "crf_iterations", self.crf_iterations, "must be at least 1")
        for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")
        for name in ("gaussian_weight", "bilateral_weight"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must be 0 or more")
        require(0 <= self.label_threshold < 0.5, "label_threshold", self.label_threshold, "must lie in 0..0.5")

    @property
    def exact_unaries(self) -> bool:
        """Whether the CRF starts from log-probabilities in float32, not from probabilities in float16.

        Sums over thousands of pixels can bring back labels that float16 rounds to 0.
        """
        return self.crf != "none" and self.crf_normalization == "none"


STAGES = (
    Stage("decode", "tasks", 0.02, 0.02),
    Stage("filter", "tasks", 0.0, 0.0, needed=lambda config: config.filter.min_pixels > 0),
    Stage("propose", "tasks", 0.1, 0.15),
    Stage("predict", "predict", 1.0, 0.1),
    Stage("refine", "refine", 0.2, 0.2),
)
"""In the order in which an image passes them. Schema, plan, timing, graph, progress and summary follow this list."""


def stages_of(config: SegmentConfig) -> tuple[Stage, ...]:
    """The stages of a run with these settings."""
    return tuple(stage for stage in STAGES if stage.needed(config))
