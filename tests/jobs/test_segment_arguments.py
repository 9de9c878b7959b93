"""What the main job settles before it starts: the shape of windows, and what an older output was begun with."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import exit_code

from jobs.segment_dataset import as_output_was_begun, main, parse
from jobs.segment_report import show_plan
from pipeline.checkpoints.bundled import weights_uri
from pipeline.config import SegmentConfig
from pipeline.config.earlier import RUNS
from pipeline.errors import FolderError
from pipeline.models.checkpoint_header import NetworkInfo, read_info
from pipeline.run.prepare import with_shape_of
from pipeline.run.record import check_run, identity


@pytest.mark.parametrize("asked", [["--window-shape", "square"], ["--recipe", "release"]])
def test_windows_of_another_shape_than_the_networks_are_refused(asked, tmp_path: Path, capsys):
    arguments = ["--input", str(tmp_path), "--output", str(tmp_path / "out"), "--weights", "demo", *asked]
    assert exit_code(main, *arguments) == 2
    told = capsys.readouterr().err
    assert "--window-shape is square" in told
    assert "give --window-shape box" in told
    assert not (tmp_path / "out").exists()


def test_an_input_that_is_not_there_is_told_before_the_networks_are_looked_at(tmp_path: Path, capsys):
    (tmp_path / "photos").mkdir()
    arguments = ["--input", str(tmp_path / "photo"), "--output", str(tmp_path / "out"), "--weights", "gone.safetensors"]
    assert exit_code(main, *arguments) == 2
    told = capsys.readouterr()
    assert f"--input is {tmp_path}/photo, which does not exist; did you mean {tmp_path}/photos?" in told.err
    assert "gone.safetensors" not in told.err + told.out
    assert not (tmp_path / "out").exists()


def test_the_plan_names_the_stages_that_the_recipe_runs(capsys):
    plans = {weights: plan_of_one_image(capsys, weights) for weights in ("voc", "voc-fcn")}
    assert "stages: decode -> propose -> predict -> refine -> write; " in plans["voc"]
    assert "stages: decode -> predict -> refine -> write; " in plans["voc-fcn"]


def test_one_is_not_told_as_many(capsys):
    told = plan_of_one_image(capsys, "voc-fcn")
    assert told.startswith("1 image, 0 done before; ")
    assert "\nabout 1 file of 1 row, more in a slow run" in told


def plan_of_one_image(capsys, weights: str) -> str:
    config = parse(["--input", "in", "--output", "out", "--weights", weights])
    one = pa.table({"image_id": ["a.jpg"], "uri": ["/a.jpg"]})
    assert show_plan(config, NetworkInfo(("background", "thing"), "any"), one, one, local=True) == 0
    return str(capsys.readouterr().out)


def test_the_networks_shape_is_taken_where_none_is_given():
    info = read_info(Path(weights_uri("demo")).read_bytes())
    config = parse(["--input", "in", "--output", "out", "--weights", "demo"])
    assert config.propose.window_shape == "auto"
    assert with_shape_of(config, info).propose.window_shape == info.window_shape == "box"


def test_an_older_output_of_a_recipe_goes_on_as_the_recipe_was_then(tmp_path: Path, capsys):
    arguments = ["--input", "in", "--output", str(tmp_path), "--recipe", "release"]
    new = parse(arguments)
    assert (new.refine.crf_normalization, new.propose.window_shape) == ("none", "square")
    (tmp_path / "run").mkdir()
    identity = {name: value for name, value in new.result_settings().items() if name not in RUNS}
    (tmp_path / "run" / "config.json").write_text(json.dumps({"identity": identity}))
    old = as_output_was_begun(new)
    assert (old.refine.crf_normalization, old.propose.window_shape) == ("symmetric", "box")
    assert old.propose.min_side_of == "shorter"
    assert "begun before there was --crf-normalization" in capsys.readouterr().out
    assert as_output_was_begun(parse([*arguments, "--overwrite"])) == parse([*arguments, "--overwrite"])


@pytest.mark.parametrize("begun", ["float32", "bfloat16"])
def test_an_output_that_was_begun_in_one_precision_goes_on_in_it(begun, tmp_path: Path, capsys):
    arguments = ["--input", "in", "--output", str(tmp_path)]
    record(tmp_path, parse([*arguments, "--precision", begun]))
    now = as_output_was_begun(parse([*arguments, "--precision", "auto"]))
    assert now.predict.precision == begun
    check_run(now, "f")
    assert f"the output was begun with --precision {begun}: it stays so" in capsys.readouterr().out


def test_an_output_that_left_the_precision_open_goes_on_on_every_machine_and_is_never_half_of_one_precision(tmp_path):
    arguments = ["--input", "in", "--output", str(tmp_path)]
    left_open = parse([*arguments, "--precision", "auto"])
    record(tmp_path, left_open)
    now = as_output_was_begun(left_open)
    assert now == left_open
    check_run(now, "f")
    exact = as_output_was_begun(parse([*arguments, "--precision", "float32"]))
    with pytest.raises(FolderError, match=r"predict\.precision: auto -> float32"):
        check_run(exact, "f")


def record(output: Path, config: SegmentConfig) -> None:
    (output / "run").mkdir()
    (output / "run" / "config.json").write_text(json.dumps({"identity": identity(config, "f")}))
