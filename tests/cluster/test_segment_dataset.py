"""The main job as users run it: folders of real files, a local Ray, and a cluster with `ray job submit`."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import exit_code
from PIL import Image

from examples.scenes.compose import CLASSES
from examples.scenes.dataset import scene_of
from jobs.segment_dataset import main
from pipeline import SegmentConfig
from pipeline import segment as segment_from_python
from pipeline.config import ProposeConfig
from pipeline.evaluation.metrics import confusion_matrix, mean_iou
from pipeline.imaging.classes import voc_palette
from pipeline.imaging.images import decode_mask
from pipeline.outputs.results import read_errors, read_results, read_skipped
from pipeline.run.record import RunRecord

REPOSITORY = Path(__file__).parents[2]
FAST = ["--weights", "demo", "--proposals", "12", "--rows-per-file", "4", "--min-pixels", "2"]
SMALL = ["--weights", "demo", "--proposals", "2", "--crf", "none", "--predict-workers", "1"]


def segment_here(*arguments: object) -> int:
    """The exit code of the job, called in this process and, where there is something to do, in a Ray it is part of."""
    return exit_code(main, *map(str, arguments))


def segment(*arguments: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "jobs/segment_dataset.py", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


MARK = b"MARK"
"""At the end of a JPEG file, where decoders do not look."""


def at_the_mark(action: str, folder: Path) -> dict[str, str]:
    """The environment of a job in whose own Ray every process does this before it opens a marked image."""
    hook = folder / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import os, PIL.Image as image\n"
        "open_image = image.open\n"
        "def open_or_not(file, *a, **k):\n"
        f"    if file.getvalue().endswith({MARK!r}): {action}\n"
        "    return open_image(file, *a, **k)\n"
        "image.open = open_or_not\n"
    )
    return {"PYTHONPATH": f"{hook}:{REPOSITORY}", "RAY_ADDRESS": "local"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Scenes and every kind of awkward file, in folders of their own."""
    root = tmp_path_factory.mktemp("photos")
    for folder, index in (("one", 0), ("two", 1), ("three", 2)):
        (root / folder).mkdir()
        Image.fromarray(scene_of(7, "val", index).image_HW3).save(root / folder / "same name.jpg", quality=92)
    scene = Image.fromarray(scene_of(7, "val", 3).image_HW3)
    odd = root / "odd"
    odd.mkdir()
    scene.convert("L").save(odd / "grey.png")
    scene.convert("RGBA").save(odd / "rgba.png")
    scene.convert("CMYK").save(odd / "cmyk.jpg")
    Image.fromarray(np.asarray(scene.convert("L")).astype(np.uint16) * 257).save(odd / "16bit.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    scene.save(odd / "rotated.jpg", exif=exif)
    Image.new("RGB", (1, 1), "red").save(odd / "1x1.png")
    Image.new("RGB", (2, 1), "red").save(odd / "1x2.png")
    Image.new("RGB", (1, 5000), "blue").save(odd / "1x5000.png")
    Image.new("RGB", (300, 200), "green").save(odd / "flat.png")
    bad = root / "bad"
    bad.mkdir()
    whole = (root / "one" / "same name.jpg").read_bytes()
    (bad / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (bad / "text.jpg").write_text("no image at all")
    (bad / "empty.png").write_bytes(b"")
    Image.new("1", (30_000, 30_000)).save(bad / "bomb.png")
    return root


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory) -> tuple[subprocess.CompletedProcess[str], Path]:
    output = tmp_path_factory.mktemp("runs") / "out"
    in_its_own_ray = {"RAY_ADDRESS": "local"}  # otherwise so few images are done without one
    return segment("--input", photos, "--output", output, *FAST, environment=in_its_own_ray), output


GOOD = 11
SKIPPED = {"odd/1x1.png": "1 x 1 pixels, fewer than --min-pixels 2"}
BAD = {
    "bad/truncated.jpg": "truncated",
    "bad/text.jpg": "not_an_image",
    "bad/empty.png": "empty",
    "bad/bomb.png": "too_large",
}
ALL = GOOD + len(SKIPPED) + len(BAD)


def test_every_image_is_in_results_or_errors_and_the_job_ends_well(run):
    process, output = run
    assert process.returncode == 0, process.stderr
    results, errors = read_results(str(output)), read_errors(str(output))
    assert len(results) == GOOD
    assert set(errors["image_id"].to_pylist()) == set(BAD)
    assert process.stdout.splitlines()[-1].startswith(
        f"{GOOD} of {ALL} images done, {len(BAD)} failed, 1 skipped, 0 left"
    )


def test_what_the_settings_leave_out_is_no_failure_and_says_why(run):
    process, output = run
    rows = read_skipped(str(output)).to_pylist()
    assert {row["image_id"]: row["skip_reason"] for row in rows} == SKIPPED
    assert [(row["status"], row["skip_stage"], row["height"], row["width"]) for row in rows] == [
        ("skipped", "filter", 1, 1)
    ]
    assert not list((output / "masks").rglob("1x1*"))
    for name, reason in SKIPPED.items():
        assert f"1 by filter; {name}: {reason}" in process.stdout


def test_bad_images_say_what_is_wrong_with_them(run):
    process, output = run
    for name, kind in BAD.items():
        assert f"1 in decode: {kind}; {name}: " in process.stdout
    assert "Execution plan" not in process.stderr  # Ray Data's own lines stay in its log
    for row in read_errors(str(output)).to_pylist():
        assert (row["status"], row["error_stage"], row["error_type"]) == ("failed", "decode", BAD[row["image_id"]])
        assert len(row["error_message"]) > 10


def test_masks_have_the_size_of_their_images_and_agree_with_their_rows(run, photos):
    _, output = run
    for row in read_results(str(output)).to_pylist():
        labels = decode_mask(row["mask"])
        path = output / "masks" / f"{row['image_id']}.png"
        assert path.read_bytes() == row["mask"]
        with Image.open(path) as mask:
            assert mask.mode == "P"
            assert np.array_equal(np.array(mask.getpalette()[:63]).reshape(-1, 3), voc_palette()[:21])
        assert labels.shape == (row["height"], row["width"])
        assert np.bincount(labels.ravel(), minlength=len(CLASSES)).tolist() == row["pixel_counts"]
        for count, probability in zip(row["pixel_counts"], row["mean_probability"], strict=True):
            assert (probability is None) == (count == 0)
            assert probability is None or 0 < probability <= 1
        assert 0 < row["mean_confidence"] <= 1
        assert 1 <= row["num_proposals"] <= 12
        assert len(row["model_fingerprint"]) == 16
    sizes = {row["image_id"]: (row["height"], row["width"]) for row in read_results(str(output)).to_pylist()}
    assert sizes["odd/1x5000.png"] == (5000, 1)
    with Image.open(photos / "odd" / "rotated.jpg") as stored:
        assert sizes["odd/rotated.jpg"] == stored.size  # upright: width and height change places


def test_files_that_differ_only_in_folder_stay_apart(run):
    _, output = run
    ids = read_results(str(output), ["image_id"])["image_id"].to_pylist()
    assert {one for one in ids if "same" in one} == {f"{folder}/same%20name.jpg" for folder in ("one", "two", "three")}


def test_the_bundled_network_finds_the_objects(run):
    _, output = run
    masks = {row["image_id"]: row["mask"] for row in read_results(str(output), ["image_id", "mask"]).to_pylist()}
    confusion = sum(
        confusion_matrix(
            scene_of(7, "val", i).classes_HW, decode_mask(masks[f"{folder}/same%20name.jpg"]), len(CLASSES)
        )
        for folder, i in (("one", 0), ("two", 1), ("three", 2))
    )
    assert mean_iou(confusion) > 0.4  # three scenes and 12 proposals; background everywhere gives about 0.14


def test_the_run_leaves_its_settings_and_summary(run):
    _, output = run
    summary = json.loads((output / "run" / "summary.json").read_text())
    counted = [summary[f"images_{name}"] for name in ("total", "ok", "failed", "skipped")]
    assert counted == [ALL, GOOD, len(BAD), len(SKIPPED)]
    assert summary["seconds"] > 0
    assert summary["images_per_second"] == pytest.approx(ALL / summary["seconds"], rel=0.01)
    rows = {stage: totals["rows"] for stage, totals in summary["stages"].items()}
    assert rows == {"decode": ALL, "filter": GOOD + 1, "propose": GOOD, "predict": GOOD, "refine": GOOD}
    assert all(totals["seconds"] > 0 for stage, totals in summary["stages"].items() if stage != "filter")
    config = json.loads((output / "run" / "config.json").read_text())
    assert config["settings"]["propose"]["proposals"] == 12
    assert config["classes"] == list(CLASSES)


def test_from_python_the_masks_are_those_of_the_job_bit_by_bit(run, photos):
    _, output = run
    rows = read_results(str(output)).to_pylist()
    config = SegmentConfig("", "", propose=ProposeConfig(proposals=12))
    found = segment_from_python([row["uri"] for row in rows], weights="demo", config=config)
    for row, one in zip(rows, found, strict=True):
        assert np.array_equal(one.mask_HW, decode_mask(row["mask"])), row["image_id"]


def test_the_same_command_again_has_nothing_to_do(run, photos, capsys):
    _, output = run
    before = sorted((file.name, file.stat().st_mtime_ns) for file in (output / "results").iterdir())
    assert segment_here("--input", photos, "--output", output, *FAST) == 0
    assert f"{ALL} done before" in capsys.readouterr().out
    assert sorted((file.name, file.stat().st_mtime_ns) for file in (output / "results").iterdir()) == before


def test_what_is_missing_is_made_again_and_equal(run, photos, in_ray):
    _, output = run
    part = next((output / "results").iterdir())
    lost = pq.read_table(part).to_pylist()
    part.unlink()
    assert segment_here("--input", photos, "--output", output, *FAST, "--predict-workers", 1) == 0
    masks = {row["image_id"]: row["mask"] for row in read_results(str(output)).to_pylist()}
    assert len(masks) == GOOD
    for row in lost:
        assert masks[row["image_id"]] == row["mask"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "{photos}", "--weights", "{photos}/bad/text.jpg"], "safetensors"),
        (["--input", "{photos}", "--weights", "missing.safetensors"], "missing.safetensors"),
        (["--input", "{photos}", "--weights", "vocs"], "did you mean voc?"),
        (["--input", "{photos}/nothing"], "nothing"),
        (["--input", "{empty}"], "holds no image"),
        (["--input", "{photos}", "--weights", "demo", "--proposals", "0"], "sees object proposals"),
        (["--input", "{photos}", "--crf", "fast"], "crf"),
        (["--input", "{photos}", "--refine-gpus", "0.5"], "only `crf torch`"),
        (["--input", "{photos}", "--edges", "structured"], "--edge-model is None"),
        (["--input", "{photos}", "--edges", "structured", "--edge-model", "gone.yml"], "gone.yml"),
    ],
)
def test_bad_arguments_are_told_before_anything_is_written(photos, tmp_path, arguments, message, capsys):
    (tmp_path / "empty").mkdir()
    filled = [argument.format(photos=photos, empty=tmp_path / "empty") for argument in arguments]
    assert exit_code(main, *filled, "--output", str(tmp_path / "out")) == 2
    assert message in "".join(capsys.readouterr())
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_refused(photos, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    for more in ([], ["--dry-run"], ["--overwrite"]):
        arguments = ["--input", photos / "one", "--output", tmp_path / "mine.txt", "--weights", "demo", *more]
        assert segment_here(*arguments) == 2
        assert "mine.txt is a file" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_another_runs_output_is_refused(run, photos, capsys):
    _, output = run
    assert exit_code(main, "--input", str(photos), "--output", str(output), *FAST, "--window", "direct") == 2
    assert "predict.window: 250-224 -> direct" in capsys.readouterr().err


def test_a_run_with_more_failures_than_it_was_told_to_allow_ends_with_4(run, photos, capsys):
    """Also when the last of it was done before: a script that repeats the command gets the same answer."""
    _, output = run
    for allowed, code in ((len(BAD) / (GOOD + len(BAD)), 0), (0.2, 4), (0, 4)):
        assert segment_here("--input", photos, "--output", output, *FAST, "--max-error-rate", allowed) == code
        told = capsys.readouterr().out.splitlines()
        assert told[-1].startswith(f"{GOOD} of {ALL} images done, {len(BAD)} failed")
        assert (f"more images failed than --max-error-rate {allowed:g} allows" in told) == (code == 4)


def test_nothing_but_bad_images_ends_with_4(photos, tmp_path, in_ray):
    assert (
        segment_here(
            "--input", photos / "bad", "--output", tmp_path / "out", "--weights", "demo", "--predict-workers", 1
        )
        == 4
    )
    assert len(read_errors(str(tmp_path / "out"))) == len(BAD)


@pytest.mark.slow
def test_a_stopped_run_says_so_and_the_same_command_finishes_it(photos, tmp_path, head, in_ray):
    arguments = ["--input", photos / "one", "--output", tmp_path / "out", *FAST, "--predict-workers", 1]
    command = [sys.executable, "jobs/segment_dataset.py", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=REPOSITORY, env=head.environment, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "process(es) for the network" in line:  # the pools are planned, the graph starts
            process.send_signal(signal.SIGTERM)
            break
    output, _ = process.communicate()
    assert process.returncode == 3
    assert "the same command goes on" in output
    assert len(read_results(str(tmp_path / "out"))) == 0
    assert segment_here(*arguments) == 0
    assert len(read_results(str(tmp_path / "out"))) == 1


def test_ctrl_c_while_the_output_is_counted_ends_the_job_at_once(run, photos, monkeypatch, capsys):
    _, output = run
    monkeypatch.setattr(RunRecord, "audit", lambda _: signal.raise_signal(signal.SIGINT))
    assert segment_here("--input", photos, "--output", output, *FAST) == 3
    assert "stopped at once; the same command goes on" in capsys.readouterr().out
    assert not (output / "run" / "lease.json").exists()


@pytest.mark.slow
def test_failed_images_are_done_again_when_asked(photos, tmp_path, in_ray):
    folder = tmp_path / "photos"
    folder.mkdir()
    good = (photos / "one" / "same name.jpg").read_bytes()
    (folder / "a.jpg").write_bytes(good)
    (folder / "b.jpg").write_bytes(good[:1000])
    arguments = ["--input", folder, "--output", tmp_path / "out", *FAST, *SMALL]
    assert segment_here(*arguments) == 0
    assert read_errors(str(tmp_path / "out"))["image_id"].to_pylist() == ["b.jpg"]
    (folder / "b.jpg").write_bytes(good)
    assert segment_here(*arguments) == 0
    assert len(read_results(str(tmp_path / "out"))) == 1  # what failed counts as done
    assert segment_here(*arguments, "--retry-failed") == 0
    assert sorted(read_results(str(tmp_path / "out"))["image_id"].to_pylist()) == ["a.jpg", "b.jpg"]
    assert len(read_errors(str(tmp_path / "out"))) == 0


def test_an_image_that_kills_its_process_becomes_an_error_row_and_the_run_goes_on(photos, tmp_path):
    """A codec that crashes: here, every process that opens the marked file dies on the spot."""
    folder = tmp_path / "photos"
    folder.mkdir()
    good = (photos / "one" / "same name.jpg").read_bytes()
    for name in "abcd":
        (folder / f"{name}.jpg").write_bytes(good)
    (folder / "killer.jpg").write_bytes(good + MARK)
    arguments = ["--input", folder, "--output", tmp_path / "out", *FAST, *SMALL]
    environment = at_the_mark("os.kill(os.getpid(), 9)", tmp_path)
    process = segment(*arguments, "--max-attempts", "1", environment=environment)
    assert process.returncode == 0, process.stdout + process.stderr
    assert len(read_results(str(tmp_path / "out"))) == 4
    (error,) = read_errors(str(tmp_path / "out")).to_pylist()
    assert (error["image_id"], error["error_stage"], error["error_type"]) == ("killer.jpg", "decode", "WorkerDied")
    summary = json.loads((tmp_path / "out" / "run" / "summary.json").read_text())
    assert summary["faults"]["attempts_lost"] >= 2


@pytest.mark.slow
def test_a_run_that_makes_no_progress_ends_as_resumable(photos, tmp_path):
    """A codec that hangs: here, for ever, so that nothing depends on who is faster."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes((photos / "one" / "same name.jpg").read_bytes() + MARK)
    environment = at_the_mark("__import__('threading').Event().wait()", tmp_path)
    arguments = ["--input", folder, "--output", tmp_path / "out", *FAST, *SMALL]
    process = segment(*arguments, "--stall-timeout", "30", environment=environment)
    assert process.returncode == 3, process.stdout + process.stderr
    assert "no image was finished" in process.stdout


def test_a_dry_run_prints_the_plan_and_writes_nothing(photos, tmp_path, in_ray, capsys):
    assert segment_here("--input", photos / "odd", "--output", tmp_path / "out", "--dry-run") == 0
    told = capsys.readouterr().out
    for said in ("9 images, 0 done before", "16bit.png", "timing the stages on 4 images", "bound by ",
                 " for 9 images", "decode -> propose -> predict -> refine -> write", "1 actor",
                 "mean_probability"):  # fmt: skip
        assert said in told
    assert not (tmp_path / "out").exists()


def test_help_explains_every_setting(capsys):
    assert segment_here("--help-all") == 0
    told = capsys.readouterr().out
    for option in ("input", "output", "weights", "limit", "crf", "proposals", "edges", "window", "max-side"):
        assert f"--{option}" in told


@pytest.mark.slow
def test_it_runs_as_a_submitted_job_on_a_cluster(photos, tmp_path, head):
    """`ray job submit`: the working directory is uploaded and runs on the head."""
    output = tmp_path / "out"
    command = ["ray", "job", "submit", f"--address={head.dashboard}", "--working-dir", ".", "--",
               "python", "jobs/segment_dataset.py", "--input", photos / "one", "--output", output, *FAST]  # fmt: skip
    environment = {name: value for name, value in head.environment.items() if name != "RAY_ADDRESS"}
    for _ in range(60):
        process = subprocess.run(
            list(map(str, command)), cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
        )
        if not re.search("Failed to connect|No available agent", process.stderr + process.stdout):
            break
        time.sleep(2)  # the head's agent is still starting
    assert process.returncode == 0, process.stdout + process.stderr
    assert len(read_results(str(output))) == 1
