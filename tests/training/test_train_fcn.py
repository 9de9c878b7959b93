"""From a folder in VOC's layout to an FCN and to masks, with the real jobs."""

import json
import os
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import exit_code
from PIL import Image

from examples.scenes.compose import CLASSES
from jobs.segment_dataset import main as segment
from jobs.segment_dataset import parse
from jobs.train_fcn import main
from pipeline.config import SegmentConfig
from pipeline.imaging.images import decode_mask
from pipeline.models.checkpoint_header import read_info
from pipeline.models.members import load_member
from pipeline.outputs.results import read_results

SMALL = ["--imagenet", "none", "--steps", "4", "--batch-size", "4", "--crop", "64", "--long-side", "96"]


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory, in_ray) -> Path:
    output = tmp_path_factory.mktemp("fcn")
    whole = ["--data", os.path.relpath(scenes, output), "--output", ".", *SMALL, "--val-every", "2", "--workers", "2"]
    with chdir(output):  # the workers have other working directories
        assert exit_code(main, *whole) == 0
    return output


def test_training_leaves_a_network_a_record_and_curves(trained, scenes, capsys):
    record = json.loads((trained / "train.json").read_text())
    assert [line["step"] for line in record["history"]] == [2, 4]
    assert all(len(line["iou"]) == len(CLASSES) for line in record["history"])
    assert (trained / "curves.csv").read_text().count("\n") == 3
    Image.open(trained / "curves.png").verify()
    assert record["classes"] == list(CLASSES)
    assert "Training report" in (trained / "report.html").read_text()
    info = read_info((trained / "fcn.safetensors").read_bytes())
    assert (info.architecture, info.encoder, info.long_side, info.class_names) == ("litefcn", "lite0", 96, CLASSES)
    assert "4 steps of 4 crops" in info.trained_on
    whole = ["--data", str(scenes), "--output", str(trained), *SMALL, "--val-every", "2"]
    assert exit_code(main, *whole) == 0  # it is done; how many workers there are may change
    assert exit_code(main, *whole, "--seed", "1") == 2
    assert "seed: 0 -> 1" in capsys.readouterr().err


@pytest.mark.slow
def test_the_main_job_segments_whole_images_with_it(trained, scenes, tmp_path):
    weights = trained / "fcn.safetensors"
    member = load_member(weights.read_bytes(), "fcn")
    arguments = ["--input", str(scenes / "JPEGImages"), "--output", str(tmp_path), "--recipe", "fcn", "--limit", "2"]
    assert exit_code(segment, *arguments, "--weights", str(weights)) == 0
    table = read_results(str(tmp_path))
    assert table["num_proposals"].to_pylist() == [0, 0]
    assert set(table["model_fingerprint"].to_pylist()) == {member.fingerprint}
    assert str(weights) in (tmp_path / "run/config.json").read_text()
    for row in table.to_pylist():
        image_HW3 = np.asarray(Image.open(row["uri"]).convert("RGB"))
        expected_HW = member.scores(torch.from_numpy(image_HW3.copy()).permute(2, 0, 1)).argmax(0).numpy()
        assert (decode_mask(row["mask"]) == expected_HW).mean() > 0.99


def test_networks_and_recipes_that_do_not_fit_are_told(trained, tmp_path, capsys):
    weights, common = str(trained / "fcn.safetensors"), ["--input", str(tmp_path), "--output", str(tmp_path / "out")]
    assert exit_code(segment, *common, "--weights", weights) == 2
    assert "--recipe fcn+crf" in capsys.readouterr().err
    assert exit_code(segment, *common, "--weights", "demo", "--recipe", "fcn") == 2
    assert "proposals" in capsys.readouterr().err
    assert exit_code(segment, *common, "--recipe", "fcn", "--fcn", weights) == 2
    assert "needs some" in capsys.readouterr().err


def test_a_bundled_network_brings_its_recipe():
    common = ["--input", "in", "--output", "out"]
    default = parse(common)
    assert default == parse([*common, "--weights", "voc"]) == parse([*common, "--recipe", "voc"])
    assert (default.recipe, default.weights, default.ensemble.fcn) == ("voc", "voc", "voc-fcn")
    assert parse([*common, "--weights", "demo"]).recipe == SegmentConfig.recipe
    assert parse([*common, "--weights", "my.safetensors"]).recipe == SegmentConfig.recipe
    brought = parse([*common, "--weights", "voc-fcn"])
    assert (brought.recipe, brought.whole_images, brought.weights) == ("fcn+crf", True, "voc-fcn")
    assert parse([*common, "--weights", "voc-fcn", "--recipe", "fcn"]).refine.crf == "none"
    assert parse([*common, "--recipe", "fcn"]).weights == "voc-fcn"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--imagenet", "nothing.pth"], "nothing.pth"),
        (["--crop", "100"], "--crop is 100"),
        (["--batch-size", "3", "--workers", "2"], "--batch-size is 3"),
        (["--steps", "0"], "--steps is 0"),
        (["--val-split", "nothing"], "nothing.txt"),
    ],
)
def test_bad_arguments_are_told(scenes, tmp_path, arguments, message, capsys):
    assert exit_code(main, "--data", str(scenes), "--output", str(tmp_path / "run"), *arguments) == 2
    assert message in "".join(capsys.readouterr())


def test_a_file_of_another_network_is_told(scenes, tmp_path, capsys):
    torch.save({"layer.weight": torch.zeros(1)}, tmp_path / "other.pth")
    arguments = ["--data", str(scenes), "--output", str(tmp_path / "run"), "--imagenet", str(tmp_path / "other.pth")]
    assert exit_code(main, *arguments) == 2
    assert "no EfficientNet-lite0" in capsys.readouterr().err
