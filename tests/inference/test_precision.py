"""The precision that is chosen on a processor, and what bfloat16 changes in the labels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.checkpoints.bundled import weights_uri
from pipeline.config import PredictConfig, ProposeConfig, SegmentConfig
from pipeline.imaging.images import decode_image
from pipeline.inference import precision as precision_module
from pipeline.inference.precision import ALIKE, INSTRUCTIONS, WORTH, decide, in_best_precision, instructions, trial
from pipeline.proposals.edgeboxes import propose
from pipeline.stages.predict import load_in_one_precision, load_predict

DEMO = SegmentConfig("in", "out", weights_uri("demo"), predict=PredictConfig(device="cpu", precision="auto"))


def in_precision(precision):
    return load_in_one_precision(replace(DEMO, predict=replace(DEMO.predict, precision=precision)))


@pytest.mark.parametrize(
    ("speed", "alike", "precision", "why"),
    [
        (WORTH, ALIKE, "bfloat16", "at least 1.2 times"),
        (2.2, 1.0, "bfloat16", "at least 1.2 times"),
        (WORTH - 0.01, 1.0, "float32", "less than 1.2 times"),
        (0.1, 1.0, "float32", "less than 1.2 times"),
        (2.2, ALIKE - 0.01, "float32", "more than 5% of the labels"),
        (2.2, float("nan"), "float32", "labels"),
    ],
)
def test_bfloat16_is_taken_where_it_is_faster_and_right(speed, alike, precision, why):
    decided, reason = decide(speed, alike)
    assert decided == precision
    assert why in reason


def test_the_instructions_are_this_processors():
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else None
    if flags is None or "avx2" not in flags:
        pytest.skip("only an x86 processor under Linux lists its instructions here")
    assert instructions() == next((name for name in INSTRUCTIONS if name in flags), None)


def test_without_instructions_nothing_is_tried():
    made = []

    def make(precision):
        made.append(precision)
        return in_precision(precision)

    _, line = in_best_precision(make, 16, None)
    assert made == ["float32"]
    assert line.startswith("the network computes in float32: this processor has no instructions")


def test_the_trial_runs_both_and_the_line_names_the_one_that_is_returned(monkeypatch):
    """Which one it is depends on the processor; without instructions bfloat16 loses."""
    monkeypatch.setattr(precision_module, "ROUNDS", 1)
    made = {}

    def make(precision):
        made[precision] = in_precision(precision)
        return made[precision]

    stage, line = in_best_precision(make, 2, "amx_bf16")
    assert set(made) == {"float32", "bfloat16"}
    (precision,) = (name for name, one in made.items() if one is stage)
    assert line.startswith(f"the network computes in {precision}: this processor has amx_bf16, and bfloat16 was ")


def test_the_trial_notices_a_network_that_computes_something_else(monkeypatch):
    monkeypatch.setattr(precision_module, "ROUNDS", 1)
    exact, broken = in_precision("float32"), in_precision("float32")
    assert trial(exact, exact, 2)[1] == 1
    for conv in broken._predictor._net.convolutions:
        conv.weight.mul_(-1)
    assert trial(exact, broken, 2)[1] < ALIKE


def test_a_network_that_fails_in_bfloat16_computes_in_float32():
    def make(precision):
        if precision == "bfloat16":
            raise NotImplementedError("no such kernel")
        return in_precision(precision)

    _, line = in_best_precision(make, 2, "amx_bf16")
    assert line.startswith("the network computes in float32: in bfloat16 it failed on a test image")


def test_the_stage_says_what_was_chosen_only_where_it_was_left_open():
    lines = []
    load_predict(DEMO, 0, lines.append)
    assert len(lines) == 1
    load_predict(replace(DEMO, predict=replace(DEMO.predict, precision="float32")), 0, lines.append)
    assert len(lines) == 1


@pytest.mark.slow
def test_bfloat16_changes_few_labels(scenes):
    """Before the CRF; on processors without its instructions the same roundings are emulated."""
    exact, rounded = in_precision("float32"), in_precision("bfloat16")
    same = []
    for file in sorted((scenes / "JPEGImages").glob("val_*.jpg")):
        image_HW3 = decode_image(file.read_bytes(), 1.0)
        boxes_N4 = propose(image_HW3, ProposeConfig(proposals=4, window_shape="box")).boxes_N4
        labels = [
            one.class_ids_K[one.probabilities_KHW.argmax(axis=0)]
            for stage in (exact, rounded)
            for one in stage.predict([image_HW3], [boxes_N4])
        ]
        same.append((labels[0] == labels[1]).mean())
    assert np.mean(same) >= 0.98
