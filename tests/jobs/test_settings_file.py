"""`--config`: settings from a file, under those of the command line."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from conftest import exit_code

from jobs import console
from jobs.commands import COMMANDS, SEGMENT, TRAIN, TRAIN_FCN, parse
from jobs.segment_dataset import main as segment
from pipeline.config import SegmentConfig, TrainConfig
from pipeline.run.prepare import with_absolute_paths
from pipeline.run.record import open_run

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
PATHS = ["--input", "a", "--output", "b"]


def written(folder: Path, content: object) -> str:
    (folder / "settings.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "settings.yaml")


def test_the_command_line_wins_over_the_file_and_the_file_over_the_recipe(tmp_path):
    file = written(tmp_path, {"recipe": "release", "proposals": 7, "refine": {"crf": "none"}, "min-side": 50})
    config = parse(SEGMENT, ["--config", file, *PATHS, "--weights", "demo", "--proposals", "9"])
    assert (config.recipe, config.propose.proposals, config.refine.crf) == ("release", 9, "none")
    assert config.propose.min_side == 50.0
    assert config.refine.crf_normalization == "none"  # of the recipe
    assert parse(SEGMENT, ["--config", file, *PATHS, "--recipe", "deconvnet+crf"]).refine.bilateral_weight == (
        SegmentConfig("a", "b").refine.bilateral_weight
    )


def test_what_is_needed_may_stand_in_the_file_for_the_console_and_the_script(tmp_path):
    file = written(tmp_path, {"input": "photos", "output": "out"})
    for console_form in (True, False):
        config = parse(SEGMENT, ["--config", file], console=console_form)
        assert (config.input, config.output) == ("photos", "out")
    assert parse(SEGMENT, ["others", "--config", file], console=True).input == "others"
    fcn = parse(TRAIN_FCN, ["--config", written(tmp_path, {"data": ["x", "y"], "steps": 3}), "--output", "o"])
    assert (fcn.data, fcn.steps) == (("x", "y"), 3)
    train = parse(TRAIN, ["w", "--output", "o", "--config", written(tmp_path, {"epochs": [1, 2]})], console=True)
    assert train.epochs == (1, 2)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_what_is_printed_is_read_back_as_the_same_settings(command, tmp_path, capsys):
    words = command.example.split()
    with pytest.raises(SystemExit) as end:
        parse(command, [*words, "--print-config"], console=True)
    assert end.value.code == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert parse(command, ["--config", str(tmp_path / "printed.yaml")], console=True) == parse(
        command, words, console=True
    )


def test_a_runs_record_is_such_a_file(tmp_path):
    config = parse(SEGMENT, [*PATHS, "--weights", "voc", "--proposals", "3"])
    record = {"identity": {"proposals": 1}, "classes": ["background"], "settings": asdict(config)}
    (tmp_path / "config.json").write_text(json.dumps(record))
    assert parse(SEGMENT, ["--config", str(tmp_path / "config.json")]) == config


def test_a_runs_record_names_bundled_networks_for_any_installation(tmp_path):
    config = with_absolute_paths(parse(SEGMENT, [*PATHS, "--weights", "voc"]))
    assert Path(config.weights).is_absolute()
    open_run(replace(config, output=str(tmp_path)), "f", ("a", "b"), pa.table({"image_id": ["a"], "uri": ["a"]}))
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (record["settings"]["weights"], record["settings"]["ensemble"]["fcn"]) == ("voc", "voc-fcn")
    # earlier versions wrote where the package lay
    record["settings"]["weights"] = "/gone/python3.11/site-packages/pipeline/checkpoints/voc.safetensors"
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    again = with_absolute_paths(parse(SEGMENT, ["--config", str(tmp_path / "run" / "config.json")]))
    assert again == replace(config, output=str(tmp_path))


def test_the_record_of_a_training_is_one_too(tmp_path):
    config = TrainConfig("windows", "out", stages=(2,), epochs=(3, 4), init="first.safetensors", sync_bn=True)
    record = {"config": asdict(config), "classes": ["background", "cat"], "history": {}, "bn_statistics": None}
    (tmp_path / "train.json").write_text(json.dumps(record))
    assert parse(TRAIN, ["--config", str(tmp_path / "train.json")]) == config


def test_a_value_out_of_range_that_the_command_line_replaces_is_no_trouble(tmp_path, capsys):
    file = written(tmp_path, {"proposals": -1})
    assert parse(SEGMENT, [*PATHS, "--config", file, "--proposals", "7"]).propose.proposals == 7
    assert capsys.readouterr().err == ""


def test_what_a_runs_call_was_told_to_do_once_is_not_done_again(tmp_path):
    """Else its record would delete results: those of `--output`, too."""
    config = parse(SEGMENT, [*PATHS, "--overwrite", "--retry-failed", "--proposals", "3"])
    record = {"identity": {}, "classes": ["background"], "settings": asdict(config)}
    (tmp_path / "config.json").write_text(json.dumps(record))
    again = parse(SEGMENT, ["--config", str(tmp_path / "config.json")])
    assert (again.overwrite, again.retry_failed, again.propose.proposals) == (False, False, 3)
    assert parse(
        SEGMENT, ["--config", written(tmp_path, asdict(config))]
    ).overwrite  # a file for people says what it means


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("propsals: 3", "there is no setting propsals; did you mean proposals?"),
        ("proposals: many", "proposals is 'many': Input should be a valid integer"),
        ("crf: [1", "is neither YAML nor JSON"),
        ("crf: fast", "crf is 'fast': Input should be 'native', 'pydensecrf'"),
        ("just words", "holds no settings"),
        ("{proposals: 3, propose: {proposals: 4}}", "has proposals twice"),
        ("proposals: -1", "--config mine.yaml: --proposals is -1; must be 0 or more"),
        ("masks: 'no'", "masks is 'no': write true or false"),
    ],
)
def test_a_file_that_cannot_be_used_is_told(content, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(content)
    assert exit_code(segment, *PATHS, "--config", "mine.yaml") == 2
    assert message in capsys.readouterr().err
    assert exit_code(segment, *PATHS, "--config", ".") == 2
    assert "--config . is a folder" in capsys.readouterr().err
    assert exit_code(segment, *PATHS, "--config", "mine.yml") == 2
    assert "did you mean" in capsys.readouterr().err


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_the_files_of_the_project_are_read_with_the_command_that_they_name(file, monkeypatch):
    monkeypatch.chdir(file.parents[1])
    words = file.read_text().splitlines()[1].removeprefix("# deconvnet ").split()
    command = next(one for one in COMMANDS if one.name == words[0])
    config = asdict(parse(command, words[1:], console=True))
    flat = config | {k: v for value in config.values() if isinstance(value, dict) for k, v in value.items()}
    for name, value in yaml.safe_load(file.read_text()).items():
        for key, one in value.items() if isinstance(value, dict) else [(name, value)]:
            assert flat[key] == (tuple(one) if isinstance(one, list) else one)


@pytest.mark.ray
def test_a_run_from_a_file_of_the_project(tmp_path, scenes, in_ray, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["--weights", "demo", "--limit", "1", "--proposals", "2", "--predict-workers", "1"]
    arguments = [str(scenes / "JPEGImages"), "--output", "out", "--config", str(CONFIGS[0])]
    assert exit_code(console.main, "segment", *arguments, *small) == 0
    record = json.loads(Path("out/run/config.json").read_text())
    assert record["settings"]["propose"] | {"proposals": 2} == record["settings"]["propose"]
    assert exit_code(console.main, "segment", "--config", "out/run/config.json") == 0  # nothing is left to do
