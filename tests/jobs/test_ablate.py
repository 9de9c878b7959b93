"""The ablation job: runs, scores and a table."""

import csv
import json
from pathlib import Path

import pytest
from conftest import exit_code
from PIL import Image

from examples.scenes.config import ScenesConfig
from examples.scenes.dataset import write_dataset
from jobs.ablate import by_proposals, main
from pipeline.config import AblateConfig, ConfigError
from pipeline.evaluation.results import evaluate_results


@pytest.mark.slow
@pytest.mark.usefixtures("in_ray")
def test_variants_are_made_scored_and_not_made_again(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    list(write_dataset(ScenesConfig(str(tmp_path / "scenes"), train=1, val=2, seed=7)))
    output = tmp_path / "out"
    base = "--crf none --predict-workers 1"
    arguments = ["--data", "scenes", "--split", "val", "--output", "out", f"--base={base}",
                 "--also", "three=--proposals 3", "--only", "three", "proposals-1"]  # fmt: skip
    assert exit_code(main, *arguments) == 0
    told = capsys.readouterr().out
    rows = json.loads((output / "ablation.json").read_text())
    assert [row["variant"] for row in rows] == ["three", "proposals-1"]
    assert [row["settings"]["propose.proposals"] for row in rows] == [3, 1]
    for row in rows:
        evaluation = evaluate_results(str(output / row["variant"]), str(tmp_path / "scenes"), "val", 5).summary()
        assert row["mean_iou"] == evaluation["mean_iou"]
        assert row["mean_iou_near_boundaries"] == evaluation["trimap"][4]["mean_iou"]
        assert row["images"] == 2
        assert row["seconds_an_image"] > 0
        assert f"{row['mean_iou']:.3f}" in told
        assert row["settings"]["refine.crf"] == "none"
    with (output / "ablation.csv").open() as file:
        assert [row["options"] for row in csv.DictReader(file)] == [f"{base} --proposals {n}" for n in (3, 1)]
    with Image.open(output / "proposals.png") as figure:
        assert figure.format == "PNG"
    assert exit_code(main, *arguments) == 0  # nothing is left to do
    assert "2 images, 2 done before" in capsys.readouterr().out


def test_only_the_number_of_proposals_may_differ_in_the_figure():
    def row(count: int, iou: float, crf: str = "none") -> dict:
        return {"settings": {"propose.proposals": count, "refine.crf": crf}, "mean_iou": iou}

    rows = [row(50, 0.7), row(5, 0.4), row(5, 0.5, "other"), row(10, 0.6)]
    assert by_proposals(rows) == [(5, 0.4), (10, 0.6), (50, 0.7)]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"also": ("--proposals 3",)}, "write NAME="),
        ({"also": ("../x=--proposals 3",)}, "write NAME="),
        ({"only": ("none-such",)}, "the variants are base, "),
    ],
)
def test_wrong_variants_are_told(settings, complaint):
    with pytest.raises(ConfigError, match=complaint):
        AblateConfig("data", "out", **settings)


def test_wrong_options_and_data_end_before_anything_is_run(tmp_path: Path, capsys):
    arguments = ["--data", str(tmp_path), "--output", str(tmp_path / "out")]
    assert exit_code(main, *arguments, "--also", "x=--proposals none") == 2
    assert exit_code(main, *arguments) == 2
    assert "SegmentationClass" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
