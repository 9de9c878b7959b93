"""Semantic segmentation with DeconvNet, proposal by proposal, on Ray.

The interface for other Python code is here, in `pipeline.config` and in `pipeline.errors`; `docs/from_python.md` shows
it. Importing this package loads nothing: each name is loaded when it is first used, and torch and Ray only for the
names that need them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.api.segment import Segmentation as Segmentation
    from pipeline.api.segment import segment as segment
    from pipeline.api.train import Trained as Trained
    from pipeline.api.train import train as train
    from pipeline.api.train_fcn import train_fcn as train_fcn
    from pipeline.config import SEGMENT_RECIPES as SEGMENT_RECIPES
    from pipeline.config import TRAIN_RECIPES as TRAIN_RECIPES
    from pipeline.config import SegmentConfig as SegmentConfig
    from pipeline.config import TrainConfig as TrainConfig
    from pipeline.config import TrainFcnConfig as TrainFcnConfig
    from pipeline.config import TrainingSetConfig as TrainingSetConfig
    from pipeline.inference.predictor import Predictor as Predictor
    from pipeline.outputs.results import read_errors as read_errors
    from pipeline.outputs.results import read_results as read_results
    from pipeline.outputs.results import read_skipped as read_skipped

__version__ = "0.2.0"

_HOMES = {
    "pipeline.api.segment": ("Segmentation", "segment"),
    "pipeline.api.train": ("Trained", "train"),
    "pipeline.api.train_fcn": ("train_fcn",),
    "pipeline.config": (
        "SEGMENT_RECIPES",
        "TRAIN_RECIPES",
        "SegmentConfig",
        "TrainConfig",
        "TrainFcnConfig",
        "TrainingSetConfig",
    ),
    "pipeline.inference.predictor": ("Predictor",),
    "pipeline.outputs.results": ("read_errors", "read_results", "read_skipped"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
