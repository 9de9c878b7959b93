"""Settings of the main job, stage by stage."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipeline.config.checks import require


@dataclass(frozen=True)
class DecodeConfig:
    """Bytes to RGB."""

    max_side: int = 640
    """Images with a longer side are scaled down to it, in pixels, for proposals, network and CRF;
    masks keep the original size. 0: never scale."""
    max_megapixels: float = 200.0
    """Images with more pixels than this, in millions, are refused as decompression bombs."""

    def __post_init__(self) -> None:
        require(self.max_side == 0 or self.max_side >= 32, "max_side", self.max_side, "0 or at least 32")
        require(self.max_megapixels > 0, "max_megapixels", self.max_megapixels, "must be above 0")


@dataclass(frozen=True)
class ProposeConfig:
    """Object proposals: EdgeBoxes, extended, filtered, the best kept (paper section 6; release)."""

    proposals: int = 50
    """Proposals an image gives to the network: the best-scored ones of those that pass `min-side`.
    0: none are made; the network is an FCN and sees the whole image (recipes `fcn`, `fcn+crf`)."""
    proposals_from: str | None = None
    """Proposals of your own instead of EdgeBoxes: a Parquet table with columns image_id, box (x0, y0, x1, y1) and
    score, a JSON file of COCO detections, or the DeconvNet release's folder of .mat files, whose boxes are windows
    already. In pixels of the upright image; see `docs/segmenting.md`."""
    edges: Literal["learned", "gradient", "structured"] = "learned"
    """Edge detector: the small network that ships with the project, the colour gradient,
    or OpenCV's structured forests (needs `edge-model`)."""
    edge_model: str | None = None
    """File of OpenCV's structured-forest edge model (model.yml.gz), for `edges structured`."""
    edge_threshold: float = 0.1
    """Edges weaker than this (0..1) are dropped before EdgeBoxes."""
    max_boxes: int = 2000
    """Boxes asked of EdgeBoxes, before the filter."""
    extend: float = 1.2
    """Each box is extended by this factor about its centre."""
    window_shape: Literal["auto", "square", "box"] = "auto"
    """Of the window around a box. `square`: a square with a side of `extend` times the longer side (DeconvNet
    release); `box`: the extended box, which the network sees stretched to a square. A network must see what it was
    trained on: `auto` takes the shape that its file names, `box` where it names none."""
    min_side: float = 112.0
    """Boxes whose window has a smaller side, in pixels, are skipped."""
    min_side_of: Literal["longer", "shorter"] = "longer"
    """Which side of a window that is no square `min-side` measures. By the shorter one long thin objects are skipped,
    as this project did before it had square windows."""
    small_image_share: float = 0.3
    """`min-side` asks for at most this share of an image's shorter side. 0: it holds for small images too."""

    def __post_init__(self) -> None:
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

    window: Literal["250-224", "direct"] = "250-224"
    """`250-224`: a box is resized to 250x250 and its central 224x224 is fed. `direct`: resized straight to 224x224."""
    aggregation: Literal["max", "sum", "average"] = "max"
    """How overlapping score maps are combined: pixel-wise maximum (equation 1), sum (equation 2), or average: the sum
    divided by the number of windows that cover the pixel."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the network's weights and maps. `bfloat16` is for GPUs and CPUs with AMX, much slower on others,
    and changes few labels (see `docs/performance.md`)."""
    micro_batch: int = 16
    """Crops that go through the network at once, whatever images they come from."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs; `auto` takes a GPU where there is one."""

    def __post_init__(self) -> None:
        require(self.micro_batch >= 1, "micro_batch", self.micro_batch, "must be at least 1")


@dataclass(frozen=True)
class EnsembleConfig:
    """EDeconvNet: a fully convolutional network beside DeconvNet (paper section 5)."""

    fcn: str | None = None
    """The other network: `voc-fcn`, a file of jobs/train_fcn.py or jobs/convert_weights.py (FCN-8s),
    or a state dict of torchvision's (`.pth`, `.safetensors`) with DeconvNet's classes in the same order.
    None: DeconvNet alone."""
    fcn_kind: Literal[
        "auto", "fcn8s", "litefcn", "fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101",
        "deeplabv3_mobilenet_v3_large",
    ] = "auto"  # fmt: skip
    """What `fcn` holds; `auto`: the file says it itself. torchvision's files don't."""
    ensemble: Literal["mean", "product"] = "mean"
    """How the two are combined: mean of their probabilities (paper)
    or product of their scores, the other network's clamped at 0 (release)."""
    ensemble_weight: float = 0.5
    """Of DeconvNet in the mean, 0..1; the other network has the rest. Two networks that are not equally good do better
    with another one than the paper's, chosen on photographs that neither was trained on."""

    def __post_init__(self) -> None:
        require(0 <= self.ensemble_weight <= 1, "ensemble_weight", self.ensemble_weight, "must lie in 0..1")


@dataclass(frozen=True)
class RefineConfig:
    """Fully connected CRF (Kraehenbuehl and Koltun 2011).

    Iterations, kernels and weights are the DeconvNet release's, the normalisation is not: the release has none.
    """

    crf: Literal["native", "pydensecrf", "torch", "none"] = "native"
    """CRF backend. `native`: this project's compiled one; `pydensecrf`: the authors';
    `torch`: several images at once on a GPU (`refine-gpus`). All three compute the same.
    `none` takes the most probable class of each pixel."""
    crf_normalization: Literal["symmetric", "none"] = "symmetric"
    """Of the kernels. `symmetric`: divided by the roots of their sums at both pixels, so that a weight counts the same
    whatever its kernel's width. `none` (the DeconvNet release): the weights stand before sums over tens to thousands
    of pixels. No weights fit both; `jobs/tune_crf.py` finds some for your network."""
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
    label_threshold: float = 0.1
    """Classes whose probability stays below this in the whole image are left out of the CRF,
    which costs time per class. Background always stays. 0: keep all."""
    mask_format: Literal["palette", "grey"] = "palette"
    """PNG of the masks. `palette` shows VOC's colours in a viewer; `grey` is what every library reads as class numbers,
    OpenCV too."""

    def __post_init__(self) -> None:
        require(self.crf_iterations >= 1, "crf_iterations", self.crf_iterations, "must be at least 1")
        for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")
        for name in ("gaussian_weight", "bilateral_weight"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must be 0 or more")
        require(0 <= self.label_threshold < 0.5, "label_threshold", self.label_threshold, "must lie in 0..0.5")

    @property
    def exact_unaries(self) -> bool:
        """Whether the CRF starts from log-probabilities in float32, not from probabilities in float16.

        Sums over thousands of pixels bring labels back that float16 has as 0.
        """
        return self.crf != "none" and self.crf_normalization == "none"


@dataclass(frozen=True)
class SegmentConfig:
    """Segment photographs with DeconvNet, proposal by proposal, on this machine or on a Ray cluster.

    Writes OUTPUT/results/*.parquet (a row an image), OUTPUT/masks (palette PNGs), OUTPUT/errors/*.parquet (the images
    that could not be done, and why) and OUTPUT/run (config.json, summary.json, manifest.parquet).
    """

    input: str
    """Images: a folder (with all its subfolders), a pattern such as `photos/**/*.jpg`, an S3 Inventory,
    or a Parquet or CSV manifest with a `uri` column. Local or s3://."""
    output: str
    """Folder for results, masks, errors and the run's record. The same command again finishes what is left."""
    weights: str = "demo"
    """A checkpoint (.safetensors), or one that ships with the project: `demo` (see `docs/results.md`),
    `voc-fcn` (see `docs/models/voc-fcn.md`), which brings its recipe, `fcn+crf`."""
    recipe: Literal["deconvnet", "deconvnet+crf", "fcn", "fcn+crf", "edeconvnet", "edeconvnet+crf", "release"] = (
        "deconvnet+crf"
    )
    """A row of the paper's table, an FCN alone, or the authors' released code: where the settings start from.
    Settings that are given win; `--recipe NAME --help-all` shows what it stands for."""
    limit: int | None = None
    """Take only the first so many images of the sorted input."""
    masks: bool = True
    """Also write each mask as OUTPUT/masks/<image id>.png; the masks are in the Parquet results either way."""
    save_probabilities: bool = False
    """Also write what the CRF starts from, OUTPUT/probabilities/<image id>.npz: log-probabilities (float16, at working
    size) of the classes that can still win. 1 to 3 MB an image; jobs/tune_crf.py reads them."""
    overwrite: bool = False
    """Delete what another run left in OUTPUT before starting."""
    retry_failed: bool = False
    """Do the images that failed in earlier calls again."""
    dry_run: bool = False
    """Print the plan (images, pools, stages, columns) and end; writes nothing."""
    max_error_rate: float | None = None
    """Stop with exit code 4 as soon as more than this part of all images has failed; 0 allows none.
    Default: when more than 0.05 of the images done so far have, looked at from 10 failures on."""
    max_attempts: int = 3
    """An image that kills the process working on it alone so many times becomes an error row."""
    stall_timeout: float = 1800.0
    """Seconds without a finished image in any stage after which the work counts as broken off: what is left begins
    anew, or the run ends as resumable (exit code 3)."""
    rows_per_file: int = 128
    """Images in a Parquet file of results, at most: after a minute it holds those that are finished."""
    plan: Literal["auto", "guess"] = "auto"
    """How the numbers of processes that are not given are found. `auto`: each stage is timed on a few images first,
    in runs of 100 images and more; `guess`: by the proportions of a small network."""
    price: float | None = None
    """What an hour of the whole cluster costs, in any currency; with it, the plan tells what the run will cost."""
    predict_workers: int = 0
    """Processes that run the network, one a GPU where there are GPUs. 0: sized from the cluster."""
    predict_gpus: float | None = None
    """GPUs of each of these processes; below 1, several share one.
    Default: 1 where there are GPUs and `device` is not `cpu`, else 0."""
    refine_workers: int = 0
    """Processes that run the CRF. 0: sized from the cluster."""
    refine_gpus: float | None = None
    """GPUs of each of these processes, for `crf torch`. Default: 0.1, beside a process that runs the network,
    where there are GPUs and `device` is not `cpu`, else 0."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    propose: ProposeConfig = field(default_factory=ProposeConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)

    def __post_init__(self) -> None:
        require(self.limit is None or self.limit >= 1, "limit", self.limit, "must be at least 1")
        rate = self.max_error_rate
        require(rate is None or 0 <= rate <= 1, "max_error_rate", rate, "must lie in 0..1")
        require(self.rows_per_file >= 1, "rows_per_file", self.rows_per_file, "must be at least 1")
        require(self.max_attempts >= 1, "max_attempts", self.max_attempts, "must be at least 1")
        require(self.stall_timeout > 0, "stall_timeout", self.stall_timeout, "must be above 0")
        for name in ("predict_workers", "refine_workers"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must be 0 or more")
        require(self.price is None or self.price >= 0, "price", self.price, "must be 0 or more")
        for name in ("predict_gpus", "refine_gpus"):
            gpus = getattr(self, name)
            require(gpus is None or 0 <= gpus <= 1 or gpus.is_integer(), name, gpus, "must lie in 0..1 or be whole")
        require(
            self.ensemble.fcn is None or self.propose.proposals > 0,
            "proposals",
            self.propose.proposals,
            "the first network of an ensemble (`fcn`) is a DeconvNet, which needs some",
        )
        only_torch = not self.refine_gpus or self.refine.crf == "torch"
        require(only_torch, "refine_gpus", self.refine_gpus, "only `crf torch` computes on GPUs")

    @property
    def whole_images(self) -> bool:
        """Whether the network sees whole images, not proposals."""
        return self.propose.proposals == 0

    def result_settings(self) -> dict[str, Any]:
        """The settings that change what is in the results; two runs may share an output only if these agree."""
        settings = {"input": self.input, "masks": self.masks, "save_probabilities": self.save_probabilities}
        for stage in ("decode", "propose", "predict", "refine"):
            settings |= {f"{stage}.{name}": value for name, value in asdict(getattr(self, stage)).items()}
        if self.refine.mask_format == "palette":  # outputs of before there was a choice go on
            del settings["refine.mask_format"]
        if self.ensemble.fcn is not None:  # which file it is, its fingerprint says
            settings["ensemble.rule"] = self.ensemble.ensemble
            settings["ensemble.weight"] = self.ensemble.ensemble_weight
        return {name: value for name, value in settings.items() if name not in _RESULT_NEUTRAL}


# Where and how many crops at once changes speed and the last float digits only.
_RESULT_NEUTRAL = {"predict.device", "predict.micro_batch"}
