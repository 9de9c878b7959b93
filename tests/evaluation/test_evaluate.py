"""The evaluate job as a user calls it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from evaluation_files import NAMES, labels, write_results, write_truth
from PIL import Image
from s3_outputs import upload

from jobs import evaluate
from pipeline import storage
from pipeline.datasets.layouts import folder_pairs
from pipeline.evaluation.results import PUBLISHED, PUBLISHED_CLASSES
from pipeline.imaging.classes import VOC_CLASSES


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
    return evaluate.main()


@pytest.fixture
def case(tmp_path: Path) -> tuple[Path, Path]:
    write_truth(tmp_path / "voc", {"a": labels([0, 1]), "b": labels([2, 2])}, val=["a"], both=["a", "b"])
    write_results(tmp_path / "run", {"a.jpg": labels([0, 1])})
    return tmp_path / "run", tmp_path / "voc"


def test_figures_are_printed_and_written(case, monkeypatch, capsys):
    output, voc = case
    assert run(monkeypatch, "--results", output, "--ground-truth", voc, "--split", "val") == 0
    printed = capsys.readouterr().out
    assert (
        "1 image: mean IoU 1.0000 (1.000 to 1.000 in 95 % of draws of so many images), pixel accuracy 1.0000" in printed
    )
    assert "cow" in printed
    content = json.loads((output / "run" / "evaluation.json").read_text())
    assert content["mean_iou"] == 1
    assert content["split"] == "val"
    assert content["results"] == str(output)


def test_results_and_ground_truth_in_a_store_give_the_figures_of_a_disk(case, stored, monkeypatch, capsys):
    output, voc = case
    upload(output.parent, stored)
    for results, truth in ((output, voc), (f"{stored}/run", f"{stored}/voc")):
        assert run(monkeypatch, "--results", results, "--ground-truth", truth, "--split", "val") == 0
    assert "1 image: mean IoU 1.0000" in capsys.readouterr().out
    there, here = (json.loads(storage.read_bytes(f"{at}/run/evaluation.json")) for at in (f"{stored}/run", output))
    assert there["results"] == f"{stored}/run"
    assert {name for name in here if here[name] != there[name]} <= {"results", "ground_truth"}


def test_plain_folders_are_scored_as_they_were_trained_on(monkeypatch, capsys, tmp_path: Path):
    """The images of `val` are those that training keeps for validation."""
    mine = tmp_path / "mine"
    write_truth(mine, {f"{n}": labels([0, n % 4]) for n in range(10)})
    (mine / "SegmentationClass").rename(mine / "masks")
    (mine / "images").mkdir()
    for n in range(10):
        Image.new("RGB", (2, 1)).save(mine / "images" / f"{n}.jpg")
    (mine / "classes.txt").write_text("\n".join(NAMES))
    _, kept = folder_pairs(str(mine), 0.2)
    names = {Path(pair.image_uri).stem for pair in kept}
    write_results(tmp_path / "run", {f"{n}.jpg": labels([0, n % 4 if str(n) in names else 3]) for n in range(10)})
    for split, images, perfect in (("val", 2, True), ("train", 8, False), (None, 10, False)):
        of_split = ["--split", split] if split else []
        assert run(monkeypatch, "--results", tmp_path / "run", "--ground-truth", mine, *of_split) == 0
        assert f"{images} images: mean IoU" in capsys.readouterr().out
        content = json.loads((tmp_path / "run" / "run" / "evaluation.json").read_text())
        assert (content["pixel_accuracy"] == 1) == perfect
    assert run(monkeypatch, "--results", tmp_path / "run", "--ground-truth", mine, "--split", "test") == 2
    assert "there is no split test" in capsys.readouterr().err


def test_missing_images_are_reported_and_can_be_an_error(case, monkeypatch, capsys, tmp_path: Path):
    output, voc = case
    arguments = ("--results", output, "--ground-truth", voc, "--split", "both", "--json", tmp_path / "e.json")
    assert run(monkeypatch, *arguments) == 0
    assert "1 ground truths have no result and are not in these figures: b" in capsys.readouterr().out
    assert json.loads((tmp_path / "e.json").read_text())["missing"] == ["b"]
    assert run(monkeypatch, *arguments, "--require-all") == 2


def test_missing_data_and_bad_arguments_exit_with_2(case, monkeypatch, capsys):
    output, voc = case
    assert run(monkeypatch, "--results", output / "none", "--ground-truth", voc) == 2
    assert "--results is" in capsys.readouterr().err
    assert run(monkeypatch, "--results", output, "--ground-truth", output) == 2
    assert run(monkeypatch, "--results", "s3://me:hush@bucket/x", "--ground-truth", voc) == 2
    assert "hush" not in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "--results", output)
    assert caught.value.code == 2


def test_results_near_boundaries_are_shown_and_drawn(case, monkeypatch, capsys, tmp_path: Path):
    output, voc = case
    assert run(monkeypatch, "--results", output, "--ground-truth", voc, "--split", "val", "--trimap", 2) == 0
    assert "at most 2" in capsys.readouterr().out
    with Image.open(output / "run" / "trimap.png") as figure:
        assert figure.format == "PNG"


def test_objects_are_shown_by_size(case, monkeypatch, capsys, tmp_path: Path):
    output, voc = tmp_path / "run", tmp_path / "voc"
    truth = np.zeros((20, 40), np.uint8)
    truth[5:15, 5:35] = 2
    write_truth(voc, {"a": truth}, val=["a"])
    write_results(output, {"a.jpg": np.where(np.arange(40) < 20, truth, 0).astype(np.uint8)})
    assert run(monkeypatch, "--results", output, "--ground-truth", voc, "--split", "val", "--objects") == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["20%", "to", "100%", "of", "the", "image", "1", "0.500", "0.500", "to", "0.500", "0%"] in printed
    assert ["5%", "to", "20%", "of", "the", "image", "0", "-", "-", "-"] in printed
    assert json.loads((output / "run" / "evaluation.json").read_text())["objects"][3]["mean_iou"] == 0.5


def test_a_submission_needs_no_ground_truth(monkeypatch, capsys, tmp_path: Path):
    write_results(tmp_path / "run", {"2008_000006.jpg": labels([0, 20])}, VOC_CLASSES)
    assert run(monkeypatch, "--results", tmp_path / "run", "--submission", tmp_path / "voc") == 0
    assert f"tar -czf results.tgz -C {tmp_path / 'voc'} results" in capsys.readouterr().out
    assert len(list((tmp_path / "voc").rglob("2008_000006.png"))) == 1
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "--results", tmp_path / "run")
    assert caught.value.code == 2


@pytest.mark.parametrize("option", ["--split val", "--trimap 5", "--objects", "--require-all", "--json e.json"])
def test_what_needs_a_ground_truth_is_not_ignored_without_one(option, monkeypatch, capsys, tmp_path: Path):
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "--results", tmp_path, "--panels", 2, *option.split())
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert option.split()[0].lstrip("-") in printed.replace("_", "-")
    assert "needs `--ground-truth FOLDER`" in " ".join(printed.replace("│", " ").split())


def test_the_papers_figures_stand_beside_those_of_vocs_classes(monkeypatch, capsys, tmp_path: Path):
    write_truth(tmp_path / "voc", {"a": labels([0, 20])})
    write_results(tmp_path / "run", {"a.jpg": labels([0, 20])}, VOC_CLASSES)
    assert run(monkeypatch, "--results", tmp_path / "run", "--ground-truth", tmp_path / "voc") == 0
    printed = capsys.readouterr().out
    assert "EDeconvNet+CRF" in printed
    assert "0.725" in printed
    lines = [line.split() for line in printed.splitlines()]
    *_, sofa = (line for line in lines if line[:1] == ["sofa"])
    assert sofa[-5:] == ["0.374", "0.529", "0.550", "0.523", "0.543"]
    for name, percents in PUBLISHED_CLASSES.items():
        assert len(percents) == len(VOC_CLASSES)
        assert sum(percents) / 21 == pytest.approx(PUBLISHED[name], abs=0.051)  # both are rounded
