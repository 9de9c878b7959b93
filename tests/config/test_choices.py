"""What is one of a list: unknown names are refused, and each name has its file or its line. Numbers as text."""

import re
from dataclasses import fields, replace
from importlib import import_module
from typing import get_args

import numpy as np
import pytest

from pipeline import storage
from pipeline.config import (
    ConfigError,
    DecodeConfig,
    EnsembleConfig,
    FilterConfig,
    PredictConfig,
    ProposeConfig,
    RefineConfig,
    SegmentConfig,
    TrainConfig,
    TrainingSetConfig,
)
from pipeline.config.fcn import TrainFcnConfig
from pipeline.config.lite import TrainLiteConfig
from pipeline.config.recipes import SEGMENT_RECIPES
from pipeline.config.segmenting import Recipe
from pipeline.config.stages import GPU_CRFS, Aggregation, Crf, Edges
from pipeline.errors import StorageError
from pipeline.inference.aggregate import RULES


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (ProposeConfig(), "edges"),
        (ProposeConfig(), "window_shape"),
        (PredictConfig(), "aggregation"),
        (PredictConfig(), "window"),
        (EnsembleConfig(), "ensemble"),
        (EnsembleConfig(), "fcn_kind"),
        (RefineConfig(), "crf"),
        (SegmentConfig("in", "out"), "recipe"),
        (SegmentConfig("in", "out"), "plan"),
    ],
)
def test_a_name_that_nobody_knows_is_refused_and_never_the_default(config, name):
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} is median; there is ") as refused:
        replace(config, **{name: "median"})
    assert getattr(config, name) in str(refused.value)


@pytest.mark.parametrize(
    "config",
    [
        SegmentConfig("in", "out", limit=1, max_error_rate=0.5, price=1.0, predict_gpus=2),
        DecodeConfig(), FilterConfig(), ProposeConfig(), PredictConfig(), EnsembleConfig(), RefineConfig(),
        TrainConfig("set", "out", iterations=(9, 9), validate_every=5),
        TrainFcnConfig(("set",), "out"), TrainLiteConfig(("set",), "out", val_share=0.1),
        TrainingSetConfig(("set",), "out"),
    ],
    ids=lambda config: type(config).__name__,
)  # fmt: skip
def test_a_number_given_as_text_is_refused_by_name(config):
    for one in fields(config):
        value = getattr(config, one.name)
        many = isinstance(value, tuple) and isinstance(value[0], int)
        if many or (isinstance(value, int | float) and not isinstance(value, bool)):
            text = tuple(map(str, value)) if many else str(value)
            option = one.name.replace("_", "-")
            with pytest.raises(ConfigError, match=re.escape(f"--{option} is {text!r}; ")):
                replace(config, **{one.name: text})


def test_numbers_of_numpy_are_numbers():
    assert replace(PredictConfig(), skip_certain=np.float32(0.75), micro_batch=np.int64(4)).micro_batch == 4


def test_each_name_has_its_file_or_its_line():
    for name in get_args(Edges):
        assert callable(import_module(f"pipeline.proposals.detectors.{name}").find_edges)
    for name in set(get_args(Crf)) - {"none"}:
        backend = import_module(f"pipeline.crf.backends.{name}")
        assert callable(backend.mean_fields)
        assert isinstance(backend.MODULE, str)
    assert set(GPU_CRFS) < set(get_args(Crf))
    assert set(RULES) == set(get_args(Aggregation))
    assert set(SEGMENT_RECIPES) == set(get_args(Recipe))


def test_a_scheme_without_a_store_is_refused_with_those_that_there_are():
    with pytest.raises(StorageError, match="use a local path, file://"):
        storage.read_bytes("ftp://host/photo.jpg")
    with pytest.raises(StorageError, match="gcs:// is gs:// here"):
        storage.absolute("gcs://bucket/photos")
    with pytest.raises(StorageError, match="did you mean gs://bucket/photos"):
        storage.absolute("gs:/bucket/photos")
    assert storage.absolute("./gs:/photos").endswith("/gs:/photos")


@pytest.mark.parametrize(
    "config", [TrainConfig("set", "out"), TrainFcnConfig(("set",), "out"), TrainLiteConfig(("set",), "out")]
)
def test_a_training_is_refused_a_store_that_cannot_keep_its_checkpoints(config):
    for output in ("gs://bucket/out", "az://container/out"):
        with pytest.raises(ConfigError, match=rf"--output is {output}; .* on s3://: name one, and copy it afterwards"):
            replace(config, output=output)
    for output in ("s3://bucket/out", "file:///out", "a:b"):
        assert replace(config, output=output).output == output
