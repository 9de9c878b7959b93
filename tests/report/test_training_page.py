"""A training's report: what it says is what the output holds, at any stage of any of the trainings."""

import json
import math
import shlex
import sys
from pathlib import Path

import pytest
from conftest import exit_code
from hypothesis import given
from hypothesis import strategies as st
from pages import check_is_safe_and_usable, read
from training_outputs import look, measured, photograph_training, window_training

from jobs import console
from jobs.commands import SEGMENT, TRAIN, TRAIN_FCN, TRAIN_LITE, parse
from jobs.report import steps_after_training
from pipeline.config import TrainConfig
from pipeline.config.fcn import TrainFcnConfig
from pipeline.config.lite import TrainLiteConfig
from pipeline.models.checkpoint_header import read_info
from pipeline.report.training_page.charts import HEIGHT, LEFT, WIDTH, chart, ticks_for
from pipeline.report.training_page.gather import gather
from pipeline.report.training_page.render import MOST_ROWS

HOSTILE = '"><script>alert(1)</script>'
HISTORY = {
    "stage1": [look(0, 100, 0.5, (0.8, 0.1, 0.3, None)), look(1, 200, 0.6, (0.8, 0.2, 0.3, None))],
    "stage2": [look(0, 50, 0.7, (0.9, 0.2, 0.4, None)), look(1, 100, 0.8, (0.9, 0.25, 0.5, None)),
               look(2, 150, 0.75, (0.9, 0.9, 0.9, None), rate=0.001)],
}  # fmt: skip


def test_a_page_tells_what_was_trained_and_how_well(tmp_path: Path):
    page = read(window_training(tmp_path / "OUT", HISTORY, width=0.25, vgg16="/weights/vgg.pth"))
    check_is_safe_and_usable(page)
    for said in (
        "Finished: mean IoU 0.550 on validation windows.",
        "stage 1: ImageNet's VGG-16 in the encoder, from /weights/vgg.pth, and random weights in the decoder; "
        "stage 2: the best network of the stage before",
        "--width 0.25 instead of 1.0",
        "/data/windows",
        "64 windows",
        "at step 300; those after it, up to step 350, are not better",
        "cat 0.250 dog 0.500 background 0.900",  # hardest first, of the network that is exported
        "Neither there nor found: cow",
        "hardest class cat",
        "examples a second 10.0",
        "steps 350",
        "training loss 0.250",
        "150 0.001 0.250 0.350 0.750 0.900",
    ):
        assert said in page.text, said
    assert [one["alt"].split(":")[0] for one in page.all("img")] == [f"validation windows of stage {n}" for n in (1, 2)]
    assert len(page.all("svg")) == 3
    assert "validation 0.6 at step 100, 0.35 at step 350" in page.text
    assert len(page.all("circle")) == 3 * 2 * 5
    assert len([one for one in page.all("line") if one.get("class") == "stage"]) == 3  # where stage 2 begins


def test_new_statistics_are_those_of_the_exported_network(tmp_path: Path):
    effect = {"windows": 8, "before": measured(0.3, 0.8, (0.9, 0.25, 0.5, None)),
              "after": measured(0.2, 0.81, (0.9, 0.3, 0.5, None))}  # fmt: skip
    page = read(window_training(tmp_path / "OUT", HISTORY, effect=effect, bn_statistics=8))
    assert "mean IoU 0.550 before, 0.567 after" in page.text
    assert "Finished: mean IoU 0.567" in page.text
    assert "cat 0.300" in page.text


def test_an_fcn_and_a_light_deconvnet_have_pages(tmp_path: Path):
    lines = [(500, 1.5, (0.8, 0.1, 0.4, 0.2)), (1000, 0.5, (0.9, 0.2, 0.6, 0.1))]
    fcn = TrainFcnConfig(("/data/VOC", "/data/SBD"), "out", steps=1000, encoder="lite2")
    page = read(photograph_training(tmp_path / "fcn", fcn, lines))
    check_is_safe_and_usable(page)
    for said in ("Finished: mean IoU 0.450 on validation photographs.", "/data/VOC; /data/SBD", "8 crops",
                 "ImageNet's EfficientNet-lite2 in the encoder, from its package", "cow 0.100 cat 0.200",
                 "--encoder lite2 instead of lite0", "the learning rate has fallen to its end"):  # fmt: skip
        assert said in page.text, said
    lite = TrainLiteConfig(("/data/VOC",), "out", fcn="/nets/my_fcn.safetensors", steps=1000)
    page = read(photograph_training(tmp_path / "lite", lite, lines))
    check_is_safe_and_usable(page)
    assert "encoder and context of /nets/my_fcn.safetensors, which stay as they are" in page.text
    assert "photographs, each in one window" in page.text
    assert gather(str(tmp_path / "lite")).stages == (200,)


def test_a_training_at_work_has_a_page_with_all_its_validations(tmp_path: Path):
    empty = read(window_training(tmp_path / "new", {}, ended=False))
    check_is_safe_and_usable(empty)
    assert "no validation yet" in empty.text
    assert "not exported yet" in empty.text
    output = window_training(tmp_path / "OUT", HISTORY, ended=False)
    record = json.loads(Path(output, "train.json").read_text())
    record["history"] = {"stage1": HISTORY["stage1"]}  # as long as stage 2 is at work
    Path(output, "train.json").write_text(json.dumps(record))
    page = read(output)
    check_is_safe_and_usable(page)
    assert "Not finished: step 350" in page.text
    assert "mean IoU 0.550" in page.text
    assert "not recorded before the end of a stage" in page.text


@pytest.mark.slow
def test_a_training_of_an_earlier_version_has_a_page(tmp_path: Path):
    """Its record has no classes and no IoU of theirs; an FCN's classes are those in the network."""
    output = window_training(tmp_path / "OUT", HISTORY)
    record = json.loads(Path(output, "train.json").read_text())
    del record["classes"]
    for line in (line for lines in record["history"].values() for line in lines):
        del line["val"]["iou"], line["train"]["iou"]
    Path(output, "train.json").write_text(json.dumps(record))
    page = read(output)
    check_is_safe_and_usable(page)
    assert "not recorded by a training of an earlier version" in page.text
    bundled = (Path(console.__file__).parents[1] / "pipeline/checkpoints/voc_fcn.safetensors").read_bytes()
    names = read_info(bundled).class_names
    config = TrainFcnConfig(("/data",), "out", steps=10)
    output = photograph_training(tmp_path / "fcn", config, [(10, 1.0, [0.5] * len(names))], names)
    record = json.loads(Path(output, "train.json").read_text())
    del record["classes"]
    Path(output, "train.json").write_text(json.dumps(record))
    assert gather(output).classes == ()  # what is there is no network
    Path(output, "fcn.safetensors").write_bytes(bundled)
    assert [one.label.name for one in gather(output).classes] == list(names)


def test_names_are_text_whatever_is_in_them(tmp_path: Path):
    names = ("background", f"cat{HOSTILE}", "{{ 7 * 7 }}", "cow</style>")
    output = window_training(tmp_path / "OUT", HISTORY, names, init=f"/nets/{HOSTILE}.safetensors")
    page = read(output)
    check_is_safe_and_usable(page)
    for said in (*names, f"/nets/{HOSTILE}.safetensors"):
        assert said in page.text


def test_a_damaged_picture_is_left_out(tmp_path: Path):
    output = window_training(tmp_path / "OUT", HISTORY)
    (tmp_path / "OUT/windows/stage1_epoch001.png").write_bytes(b"no picture")
    assert len(read(output).all("img")) == 1


@pytest.mark.slow
def test_the_page_of_a_long_training_stays_small(tmp_path: Path):
    many = [look(n, 10 * (n + 1), 0.5 + n / 8000, (0.8, 0.1, 0.3, None)) for n in range(25)] * 100
    history = {"stage1": [line | {"steps": 10 * (n + 1)} for n, line in enumerate(many)]}
    page = read(window_training(tmp_path / "OUT", history))
    assert Path(tmp_path, "OUT", "report.html").stat().st_size < 500_000
    assert len(page.all("tr")) < MOST_ROWS + 60
    assert "25,000 0.01" in page.text  # the last one is among them
    assert "2,500; curves.csv has all" in page.text
    assert not page.all("circle")


def test_the_commands_of_the_page_do_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/deconvnet"])

    def of(output: str) -> dict[str, list[str]]:
        return {step.why.split()[0]: shlex.split(step.command)[1:] for step in steps_after_training(gather(output))}

    changed = {"width": 0.5, "epochs": (2, 3), "stages": (2,), "init": "/nets/a b.safetensors", "sync_bn": True}
    output = window_training(tmp_path / "it's $HOME", HISTORY, ended=False, **changed)
    name, *words = of(output)["Go"]
    assert name == "train"
    assert parse(TRAIN, words, console=True) == TrainConfig("/data/windows", output, **changed)
    config = TrainFcnConfig(("/data/my VOC", "/data/SBD"), str(tmp_path / "fcn"), steps=10, val_share=0.3)
    steps = of(photograph_training(tmp_path / "fcn", config, [(10, 1.0, (0.5, 0.5, 0.5, 0.5))]))
    again = parse(TRAIN_FCN, steps["Train"][1:], console=True)  # the last one: with other settings
    assert (again.data, again.steps, again.val_share, again.output) == (config.data, 10, 0.3, "FOLDER")
    used = parse(SEGMENT, steps["Segment"][1:], console=True)
    assert (used.recipe, used.weights) == ("fcn+crf", f"{tmp_path}/fcn/fcn.safetensors")
    lite = TrainLiteConfig(("/data",), str(tmp_path / "lite"), fcn="/nets/my fcn.safetensors", steps=10)
    steps = of(photograph_training(tmp_path / "lite", lite, [(10, 1.0, (0.5, 0.5, 0.5, 0.5))]))
    assert parse(TRAIN_LITE, steps["Train"][1:], console=True).fcn == lite.fcn
    used = parse(SEGMENT, steps["Segment"][1:], console=True)
    assert (used.recipe, used.ensemble.fcn) == ("voc", lite.fcn)


def test_the_command_writes_the_page_and_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output = window_training(tmp_path / "OUT", HISTORY)
    assert exit_code(console.main, "report", output) == 0
    assert capsys.readouterr().out.strip() == f"{output}/report.html"
    Path(output, "train.json").write_text("{")
    assert exit_code(console.main, "report", output) == 2
    assert "train.json is damaged" in capsys.readouterr().err


@given(st.lists(st.floats(-1e6, 1e6) | st.just(math.nan) | st.none(), min_size=1, max_size=30))
def test_every_value_of_a_curve_lies_in_its_drawing(values: list[float | None]):
    drawn = chart("loss", range(1, len(values) + 1), {"training": values})
    known = [one for one in values if one is not None and math.isfinite(one)]
    assert (drawn is None) == (not known)
    if drawn is None:
        return
    (line,) = drawn.lines
    assert len(line.dots) == len(known)
    low, high = drawn.across[0][0], drawn.across[-1][0]
    for dot in line.dots:
        assert LEFT - 0.01 <= dot.x <= WIDTH
        assert 0 <= high - 0.01 <= dot.y <= low + 0.01 <= HEIGHT
    order = sorted(range(len(known)), key=lambda n: known[n])
    assert [line.dots[n].y for n in order] == sorted((dot.y for dot in line.dots), reverse=True)


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_marks_of_an_axis_are_few_and_hold_all(low: float, spread: float):
    ticks = ticks_for(low, low + spread)
    rounding = 1e-6 * (abs(low) + spread) + 1e-9
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low + rounding
    assert ticks[-1] >= low + spread - rounding
