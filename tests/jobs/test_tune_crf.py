"""The search for the CRF's parameters, on a run's saved probabilities."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.tune_crf import main
from pipeline.config import RefineConfig
from pipeline.crf.refine import refine, refine_logs
from pipeline.evaluation.crf_tuning import RANGES, options, search
from pipeline.evaluation.metrics import confusion_matrix, mean_iou
from pipeline.outputs.probabilities import encode_probabilities, probabilities_uri
from pipeline.outputs.writing import write_rows

NAMES = ("background", "disc", "bar")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The output of a run on three noisy pictures of a disc, and their ground truth beside it."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(3):
        y, x = np.mgrid[:48, :64]
        truth = (np.hypot(y - 24, x - 20 - 8 * number) < 14).astype(np.uint8)
        image = np.where(truth[..., None] == 1, (200, 60, 60), (60, 90, 200)) + rng.normal(0, 6, (48, 64, 3))
        scores = np.stack([1 - truth.astype(float), truth, np.zeros_like(truth)]) * 2 + rng.normal(0, 1.5, (3, 48, 64))
        logs = scores - np.log(np.exp(scores).sum(axis=0))
        name = f"{number}.png"
        for folder, array in (("images", image.clip(0, 255).astype(np.uint8)), ("SegmentationClass", truth)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / folder / name)
        saved = Path(probabilities_uri(str(tmp_path / "out"), name))
        saved.parent.mkdir(parents=True, exist_ok=True)
        saved.write_bytes(encode_probabilities(np.arange(3), logs))
        rows.append({"image_id": name, "uri": str(tmp_path / "images" / name), "status": "ok",
                     "pixel_counts": [1, 0, 0], "mean_probability": [1.0, None, None]})  # fmt: skip
    write_rows(str(tmp_path / "out"), rows, NAMES)
    (tmp_path / "out" / "run").mkdir()
    settings = {"settings": {"decode": {"max_side": 640, "max_megapixels": 200.0}}}
    (tmp_path / "out" / "run" / "config.json").write_text(json.dumps(settings))
    return tmp_path


def reached(run: Path, config: RefineConfig) -> float:
    """Mean IoU of the run's images, image by image, by the CRF called directly."""
    total = np.zeros((3, 3), np.int64)
    for file in sorted((run / "images").iterdir()):
        image = np.array(Image.open(file))
        logs = np.load(run / "out" / "probabilities" / f"{file.name}.npz")["log_probabilities"].astype(np.float32)
        refined = (
            refine_logs([image], [logs], config)[0] if config.exact_unaries else refine(image, np.exp(logs), config)
        )
        truth = np.array(Image.open(run / "SegmentationClass" / file.name))
        total += confusion_matrix(truth, refined.argmax(0).astype(np.uint8), 3)
    return mean_iou(total)


def test_the_best_parameters_are_told_and_reach_what_is_told(run, tmp_path, capsys):
    arguments = ["--results", str(run / "out"), "--ground-truth", str(run), "--trials", "8", "--threads", "2",
                 "--json", str(tmp_path / "trials.json")]  # fmt: skip
    assert main(arguments) == 0
    told = capsys.readouterr().out
    rows = json.loads((tmp_path / "trials.json").read_text())
    assert [row["refine"]["crf"] for row in rows] == ["none"] + ["native"] * 16
    for row in rows:
        assert row["mean_iou"] == pytest.approx(reached(run, RefineConfig(**row["refine"])))
    for normalization in ("symmetric", "none"):
        own = [row for row in rows[1:] if row["refine"]["crf_normalization"] == normalization]
        assert own[0]["mean_iou"] == max(row["mean_iou"] for row in own)
        assert RefineConfig(crf_normalization=normalization) in [RefineConfig(**row["refine"]) for row in own]
        assert f"best, {normalization}: {options(RefineConfig(**own[0]['refine']))}" in told
    assert main(arguments) == 0
    assert capsys.readouterr().out == told


def test_the_search_comes_near_the_best_and_stays_in_its_ranges():
    best = {"gaussian_sxy": 2.0, "gaussian_weight": 0.1, "bilateral_sxy": 40.0, "bilateral_srgb": 8.0,
            "bilateral_weight": 0.2}  # fmt: skip

    def height(config):
        return -sum((math.log(getattr(config, name)) - math.log(value)) ** 2 for name, value in best.items())

    trials = search(height, RefineConfig(crf_normalization="none"), 300, seed=1)
    assert [trial.mean_iou for trial in trials] == sorted((trial.mean_iou for trial in trials), reverse=True)
    assert trials[0].mean_iou > -0.3 > height(RefineConfig(crf_normalization="none"))
    for trial in trials:
        for name, (low, high) in RANGES["none"].items():
            assert low <= getattr(trial.refine, name) <= high
    assert search(height, RefineConfig(crf_normalization="none"), 300, seed=1) == trials


def test_a_run_without_saved_probabilities_is_told(run, capsys):
    for file in (run / "out" / "probabilities").iterdir():
        file.unlink()
    assert main(["--results", str(run / "out"), "--ground-truth", str(run)]) == 2
    assert "--save-probabilities" in capsys.readouterr().err


def test_files_that_are_no_probabilities_are_named(run, capsys):
    file = run / "out" / "probabilities" / "1.png.npz"
    for content in (b"", b"no archive", file.read_bytes()[:200]):
        file.write_bytes(content)
        assert main(["--results", str(run / "out"), "--ground-truth", str(run)]) == 2
        assert "1.png.npz" in capsys.readouterr().err


def test_an_image_that_has_changed_its_size_is_named(run, capsys):
    Image.new("RGB", (30, 20)).save(run / "images" / "2.png")
    assert main(["--results", str(run / "out"), "--ground-truth", str(run)]) == 2
    assert "2.png has another size" in capsys.readouterr().err


def test_options_are_those_of_the_main_job():
    from jobs.segment_dataset import parse

    config = replace(RefineConfig(), crf_normalization="none", gaussian_weight=0.07, bilateral_srgb=11.5)
    parsed = parse(["--input", "in", "--output", "out", *options(config).split()])
    assert parsed.refine == config
