"""From a folder in VOC's layout to weights, with the real jobs."""

import json
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from conftest import exit_code, pid_of
from PIL import Image

from examples.scenes.compose import CLASSES
from examples.scenes.config import ScenesConfig
from examples.scenes.dataset import write_dataset
from jobs.build_training_set import main as build
from jobs.train import main, parse
from pipeline.models.checkpoint import load_checkpoint

SMALL = [
    "--width",
    "0.0625",
    "--batch-size",
    "4",
    "--micro-batch",
    "2",
    "--val-windows",
    "8",
    "--learning-rate",
    "0.01",
]


@pytest.fixture(scope="module")
def training_set(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    list(write_dataset(ScenesConfig(output=str(root / "voc"), train=4, val=2, seed=5)))
    arguments = ["--data", str(root / "voc"), "--output", str(root / "windows"), "--windows-per-image", "3"]
    assert build(arguments, runner=lambda work, images: pa.concat_tables([work(images)])) == 0
    return root / "windows"


@pytest.mark.slow
@pytest.mark.usefixtures("in_ray")
def test_two_stages_give_a_checkpoint_and_a_history_and_go_on_where_they_stopped(
    training_set, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # how soon Ray Train sees that a worker is done
    monkeypatch.chdir(tmp_path)  # workers have another working directory: what is relative must be so to this one
    output = tmp_path / "run"
    relative = os.path.relpath(training_set, tmp_path)
    whole = ["--training-set", relative, "--output", "run", "--epochs", "2", "1", "--bn-statistics", "8"]
    whole += [*SMALL, "--max-failures", "0"]

    def kill_the_worker() -> None:
        worker = None
        while worker is None:  # to ask takes seconds on a busy machine, so before there is anything to kill it for
            with suppress(ValueError):
                worker = pid_of("RayTrainWorker")
        while not list(output.glob("ray/stage1/checkpoint_*/network.safetensors")):
            time.sleep(0.05)
        os.kill(worker, signal.SIGKILL)

    threading.Thread(target=kill_the_worker, daemon=True).start()
    code, said = exit_code(main, *whole), capsys.readouterr()
    assert code == 0, said
    assert "training goes on from the last checkpoint" in said.out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    checkpoint = load_checkpoint((output / "deconvnet.safetensors").read_bytes())
    assert checkpoint.info.class_names == CLASSES
    assert checkpoint.info.width == 0.0625
    record = json.loads((output / "train.json").read_text())
    history = record["history"]
    assert [line["epoch"] for line in history["stage1"]] == [0, 1]
    assert [line["epoch"] for line in history["stage2"]] == [0]
    assert history["stage1"][1]["train"]["loss"] < history["stage1"][0]["train"]["loss"]
    # stage 2 starts from stage 1's network
    assert (output / "stage2_start.safetensors").read_bytes() == (output / "stage1.safetensors").read_bytes()
    last = load_checkpoint((output / "stage2_statistics.safetensors").read_bytes()).net.state_dict()
    assert all(torch.equal(tensor, last[name]) for name, tensor in checkpoint.net.state_dict().items())
    assert "windows, stages (1, 2)" in checkpoint.info.trained_on
    # new statistics of batch normalisation, and nothing else
    trained = load_checkpoint((output / "stage2.safetensors").read_bytes()).net.state_dict()
    changed = {name for name, tensor in last.items() if not torch.equal(tensor, trained[name])}
    assert changed == {name for name in last if "running" in name}
    assert record["bn_statistics"]["windows"] == 8
    assert record["bn_statistics"]["before"] == history["stage2"][0]["val"]
    # what people look at
    assert (output / "curves.csv").read_text().count("\n") == 4
    assert record["classes"] == list(CLASSES)
    assert all(len(line["val"]["iou"]) == len(CLASSES) for lines in history.values() for line in lines)
    assert f"report so far: {output}/report.html" in said.out  # when stage 2 begins
    assert f"report:  {output}/report.html" in said.out
    assert (output / "report.html").read_text().startswith("<!DOCTYPE html>")
    for name in ("curves.png", "windows/stage1_epoch001.png", "windows/stage2_epoch000.png"):
        Image.open(output / name).verify()

    assert exit_code(main, *whole, "--workers", "2") == 0  # how the work is done may change
    assert json.loads((output / "train.json").read_text())["history"] == history

    assert exit_code(main, *whole, "--momentum", "0.5") == 2
    assert "momentum: 0.9 -> 0.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0", "1"], "epochs"),
        (["--init", "nothing.safetensors"], "nothing.safetensors"),
        (["--vgg16", "nothing.pth"], "nothing.pth"),
        (["--batch-size", "3", "--workers", "2", "--max-workers", "4"], "--batch-size is 3"),
        (["--workers", "2", "--max-workers", "1"], "--max-workers is 1"),
        (["--recipe", "mine"], "recipe"),
        (["--batch-size", "100000"], "training examples for stage 1"),
    ],
)
def test_bad_arguments_are_told(training_set, tmp_path, arguments, message, capsys):
    paths = ["--training-set", str(training_set), "--output", str(tmp_path / "run")]
    assert exit_code(main, *paths, *arguments) == 2
    assert message in "".join(capsys.readouterr())


def test_a_recipe_gives_defaults_and_an_option_wins():
    paths = ["--training-set", "a", "--output", "b"]
    assert parse(paths).schedule == "plateau"
    assert parse(paths).bias_lr_factor == 1
    release = parse([*paths, "--recipe", "release", "--lr-steps", "7", "8"])
    assert (release.recipe, release.schedule, release.lr_steps, release.iterations) == (
        "release", "steps", (7, 8), (20_000, 40_000),
    )  # fmt: skip
    assert parse([*paths, "--recipe=release", "--schedule", "plateau"]).schedule == "plateau"


def test_a_missing_training_set_is_told(tmp_path, capsys):
    assert exit_code(main, "--training-set", str(tmp_path / "nothing"), "--output", str(tmp_path / "run")) == 2
    assert "--training-set is" in capsys.readouterr().err
    (tmp_path / "nothing").mkdir()
    assert exit_code(main, "--training-set", str(tmp_path / "nothing"), "--output", str(tmp_path / "run")) == 2
    assert "training_set.json" in capsys.readouterr().err
