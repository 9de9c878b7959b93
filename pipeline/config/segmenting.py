"""Settings of the main job; those of its stages are in `config.stages`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipeline.config.checks import require, require_kinds
from pipeline.config.networks import parse_network
from pipeline.config.shards import WHOLE, Shard
from pipeline.config.stages import (
    GPU_CRFS,
    STAGES,
    DecodeConfig,
    EnsembleConfig,
    FilterConfig,
    PredictConfig,
    ProposeConfig,
    RefineConfig,
)

Recipe = Literal[
    "deconvnet", "deconvnet+crf", "fcn", "fcn+crf", "voc", "edeconvnet", "edeconvnet+crf", "release"
]  # fmt: skip
"""Starting points: functions in `config.recipes`."""


@dataclass(frozen=True)
class SegmentConfig:
    """Segment photographs with DeconvNet, proposal by proposal, on this machine or on a Ray cluster.

    Writes OUTPUT/results/*.parquet (one row per image), OUTPUT/masks (palette PNGs), OUTPUT/errors/*.parquet (the
    images that could not be done, and why), OUTPUT/skipped/*.parquet (those that the settings leave out, and why) and
    OUTPUT/run (report.html, config.json, summary.json, manifest.parquet).
    """

    input: str
    """Images: a folder (with all its subfolders), a pattern such as `photos/**/*.jpg`, an S3 Inventory,
    a Parquet or CSV manifest with a `uri` column, tar files (`shards/*.tar`) or Parquet files that hold the images.
    Local or in a store (docs/storage.md)."""
    output: str
    """Folder for results, masks, errors and the run's record. The same command again finishes what is left."""
    weights: str = "voc"
    """A checkpoint (.safetensors), or one that ships with the project and brings its recipe: `voc`, a DeconvNet with
    an FCN beside it, and `voc-fcn`, that FCN alone, for photographs (`docs/models`); `demo` for generated scenes.
    Or a network of another library, with the recipe `fcn+crf`: `torchvision:fcn_resnet50=FILE`, `hf:FOLDER`,
    `onnx:FILE`, or `module:Class` of your own (`docs/networks.md`)."""
    classes: str | None = None
    """A text file with the names of the classes, one a line, background first, for a network of another library whose
    files have none, or others."""
    recipe: Recipe = "deconvnet+crf"
    """A row of the paper's table, an FCN alone, or the authors' released code: where the settings start from.
    Settings that are given win; `--recipe NAME --help-all` shows what it stands for."""
    limit: int | None = None
    """Take only the first N images of the sorted input."""
    shard: str | None = None
    """Do only part I of N of the images, `2/3` for example. N calls, on machines or clusters that know nothing of each
    other, fill one output at the same time (`docs/running_on_a_cluster.md`)."""
    masks: bool = True
    """Masks are written as OUTPUT/masks/<image id>.png, too; without that they are in the Parquet results only."""
    save_probabilities: bool = False
    """Also write what the CRF starts from, OUTPUT/probabilities/<image id>.npz: log-probabilities (float16, at working
    size) of the classes that can still win. 1 to 3 MB per image; jobs/tune_crf.py reads them."""
    overwrite: bool = False
    """Delete what another run left in OUTPUT before starting."""
    retry_failed: bool = False
    """Try images again that failed in earlier calls."""
    dry_run: bool = False
    """Print the plan (images, processes, stages, columns, time, cost) and end; writes nothing."""
    max_error_rate: float | None = None
    """Stop with exit code 4 as soon as more than this share of all images has failed, skipped ones not counted; 0
    allows none.
    Default: more than 0.05 of the images done so far, checked from the tenth failure on."""
    max_attempts: int = 3
    """An image becomes an error row once it has killed a process that worked on it alone this many times."""
    stall_timeout: float = 1800.0
    """Seconds without a finished image in any stage after which the run counts as stalled: the images that are left
    are started again, or the run ends as resumable (exit code 3)."""
    rows_per_file: int = 1024
    """Most images in one Parquet file of results; fewer where their masks fill 16 MiB. After a minute a file is written
    with those that are finished."""
    plan: Literal["auto", "guess"] = "auto"
    """How the numbers of processes that are not given are chosen. `auto`: each stage is timed on a few images first,
    in runs of 100 images and more; `guess`: by the proportions of a small network."""
    price: float | None = None
    """What an hour of the whole cluster costs, in any currency; with it, the plan says what the run will cost."""
    predict_workers: int = 0
    """Processes that run the network, one per GPU where there are GPUs. 0: sized from the cluster. In a run of few
    images without Ray, processes for all stages; 0: one per core."""
    predict_gpus: float | None = None
    """GPUs of each of these processes; below 1, several share one.
    Default: 1 where there are GPUs and `device` is not `cpu`, else 0."""
    refine_workers: int = 0
    """Processes that run the CRF. 0: sized from the cluster."""
    refine_gpus: float | None = None
    """GPUs of each of these processes, for `crf torch`. Default: 0.1, beside a process that runs the network,
    where there are GPUs and `device` is not `cpu`, else 0."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    propose: ProposeConfig = field(default_factory=ProposeConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)

    def __post_init__(self) -> None:
        require_kinds(self)
        parse_network(self.weights)
        require(self.limit is None or self.limit >= 1, "limit", self.limit, "must be at least 1")
        alone = Shard.parse(self.shard) == WHOLE or not self.overwrite
        others = "--overwrite would delete what other shards did: use it without --shard, or choose another --output"
        require(alone, "shard", self.shard, others)
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
            fits = gpus is None or 0 <= gpus <= 1 or float(gpus).is_integer()
            require(fits, name, gpus, "must lie in 0..1 or be whole")
        require(
            self.ensemble.fcn is None or self.propose.proposals > 0,
            "proposals",
            self.propose.proposals,
            "the first network of an ensemble (`fcn`) needs some: give 1 or more, or choose a network that sees whole "
            "images, as `--weights voc-fcn` does",
        )
        fits = not self.refine_gpus or self.refine.crf in GPU_CRFS
        require(fits, "refine_gpus", self.refine_gpus, f"only `crf {' or '.join(GPU_CRFS)}` computes on GPUs")

    @property
    def whole_images(self) -> bool:
        """Whether the network sees whole images, not proposals."""
        return self.propose.proposals == 0

    def result_settings(self) -> dict[str, Any]:
        """The settings that change what is in the results; two runs may share an output only if these agree."""
        settings = {"input": self.input, "masks": self.masks, "save_probabilities": self.save_probabilities}
        for stage in (stage.name for stage in STAGES if hasattr(self, stage.name)):
            settings |= {f"{stage}.{name}": value for name, value in asdict(getattr(self, stage)).items()}
        if self.classes is not None:
            settings["classes"] = self.classes
        if self.ensemble.fcn is not None:  # its fingerprint says which file it is
            settings["ensemble.rule"] = self.ensemble.ensemble
            settings["ensemble.weight"] = self.ensemble.ensemble_weight
        return {name: value for name, value in settings.items() if name not in _RESULT_NEUTRAL}


# The device and the number of crops at once change only the speed and the last float digits.
_RESULT_NEUTRAL = {"predict.device", "predict.micro_batch"}

ONCE = ("shard", "overwrite", "retry_failed", "dry_run")
"""Options of a single call, not of its run: they are left out when a run's record is read as settings."""
