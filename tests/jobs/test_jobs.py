"""The console command and the scripts: one definition, one help, one table of exit codes."""

import dataclasses
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from conftest import exit_code
from privileges import file_modes_hold

from jobs import common, console
from jobs.commands import COMMANDS, EVALUATE, SEGMENT, TRAIN, Command, parse
from jobs.common import EXIT_CODES, call
from pipeline import errors
from pipeline.config import SegmentConfig, TrainConfig
from pipeline.errors.claim import after_claim

REPOSITORY = Path(__file__).parents[2]
HEAVY = ("torch", "ray", "pyarrow", "numpy", "cv2", "matplotlib")
each_command = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)


def run_python(*arguments: str, cwd: Path = REPOSITORY, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, from a folder, with the project at hand."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONIOENCODING", "PYTHONUTF8")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, errors="replace", check=False,
        env={**clean, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "80", **environment},
    )  # fmt: skip


def test_the_overview_fits_one_screen_and_names_every_command(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        assert exit_code(console.main, *arguments) == 0
        told = capsys.readouterr().out.splitlines()
        assert len(told) <= 24
        assert all(any(line.split()[:1] == [one.name] for line in told) for one in COMMANDS)


def test_a_mistyped_command_is_answered_with_the_nearest(capsys):
    assert exit_code(console.main, "segmnt", "photos") == 2
    assert "did you mean segment?" in capsys.readouterr().err
    assert exit_code(console.main, "xyz") == 2
    assert "build-training-set" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["train", "train-fcn", "train-lite"])
def test_a_training_is_refused_a_store_that_cannot_keep_its_checkpoints(name, tmp_path, capsys):
    assert exit_code(console.main, name, str(tmp_path), "--output", "gs://bucket/out") == 2
    assert "--output is gs://bucket/out; a training keeps its checkpoints in a local" in " ".join(
        capsys.readouterr().err.replace("│", " ").split()
    )


def test_a_package_of_an_extra_that_is_not_there_is_named_with_what_brings_it(tmp_path):
    hidden = (
        "import sys; sys.modules['google.protobuf'] = None\nfrom jobs.console import main\nsys.exit(main(sys.argv[1:]))"
    )
    ended = run_python("-c", hidden, "convert", __file__, "--kind", "vgg16", "--output", str(tmp_path / "out"))
    assert ended.returncode == 2, ended.stderr
    assert "google.protobuf is not installed; pip install 'deconvnet-ray[all]'" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_nothing_heavy_is_imported_before_the_command_line_is_read():
    check = (
        "import sys; from jobs.console import main\n"
        "from contextlib import suppress\n"
        "for words in ('', 'segment --help', 'train --help-all', 'inspect', 'evaluate x --panel 1'):\n"
        "    with suppress(SystemExit): main(words.split())\n"
        f"sys.exit(', '.join(set({HEAVY}) & set(sys.modules)) or 0)"
    )
    ended = run_python("-c", check)
    assert ended.returncode == 0, ended.stderr[-300:]


@each_command
@pytest.mark.parametrize("on_console", [True, False], ids=["console", "script"])
def test_the_short_help_has_what_people_use_first_and_the_long_one_everything(command, on_console, capsys):
    told = {}
    for asked in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as end:
            parse(command, [asked], on_console)
        assert end.value.code == 0
        told[asked] = capsys.readouterr().out
    option = re.compile(r"^[│ ] *(?:-h, )?--(?:no-)?([a-z][\w-]+)", re.MULTILINE)
    shown = {asked: set(option.findall(text)) - {"help-all"} for asked, text in told.items()}
    everything = every_option(command)
    subject = {command.subject.replace("_", "-")} if on_console else set()
    assert shown["--help-all"] - {"help"} == everything - subject
    assert shown["--help"] <= shown["--help-all"]
    assert {name.replace("_", "-") for name in command.first} - subject <= shown["--help"]
    assert len(shown["--help"]) <= 13
    name = f"deconvnet {command.name}" if on_console else f"jobs/{command.module}.py"
    assert f"usage: {name} " in told["--help"]
    assert ("--help-all" in told["--help"]) == (shown["--help"] != shown["--help-all"])


def every_option(command: Command) -> set[str]:
    found = set()
    for name, nested in get_type_hints(command.config).items():
        inside = get_type_hints(nested) if dataclasses.is_dataclass(nested) else (name,)
        found |= {inner.replace("_", "-") for inner in inside}
    return found


@each_command
def test_the_example_of_the_help_is_read_alike_on_the_console_and_by_the_script(command):
    words = command.example.split()
    first_option = next((index for index, word in enumerate(words) if word.startswith("--")), len(words))
    as_script = [f"--{command.subject.replace('_', '-')}", *words[:first_option], *words[first_option:]]
    assert parse(command, words, console=True) == parse(command, as_script)


@pytest.mark.parametrize(  # two of them for every change: each starts a Python with all of a job's imports
    "command",
    [one if one.name == "segment" else pytest.param(one, marks=pytest.mark.slow) for one in COMMANDS],
    ids=lambda command: command.name,
)
def test_a_job_is_a_script_that_explains_itself(command):
    ended = run_python(f"jobs/{command.module}.py", "--help")
    assert ended.returncode == 0, ended.stderr
    assert f"jobs/{command.module}.py" in ended.stdout
    assert callable(importlib.import_module(f"jobs.{command.module}").run)


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (errors.ConfigError("--limit is 0"), 2, "segment: --limit is 0"),
        (FileNotFoundError(2, "No such file or directory", "x"), 2, "'x'"),
        (errors.FolderInUseError("at work"), 2, "at work"),
        (errors.LeaseError("taken over"), 3, "the same command goes on from here: taken over"),
        (errors.WorkBrokenError("a node is gone"), 3, "a node is gone"),
        (KeyboardInterrupt(), 3, "the same command goes on from here"),
        (errors.TooManyErrors("9 of 10"), 4, "9 of 10"),
        (errors.TrainingError("the loss is nan"), 4, "the loss is nan"),
        (errors.ClusterError("nobody answers"), 5, "nobody answers"),
        (errors.UserError("s3://key:secret@bucket/x"), 2, "s3://"),
        (ZeroDivisionError("division by zero"), 1, "a fault of the program"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_an_error_ends_as_its_line_of_the_table_says(raised, code, said, capsys):
    def run(_config: SegmentConfig) -> int:
        raise raised

    assert call(SEGMENT, ["--input", "in", "--output", "out"], run) == code
    told = capsys.readouterr().err
    assert said in told
    assert "secret" not in told
    assert ("Traceback" in told) == (code == 1)


def test_the_table_of_exit_codes_is_the_same_in_code_help_and_documentation():
    documentation = (REPOSITORY / "docs/segmenting.md").read_text()
    assert set(re.findall(r"^\| (\d) \|", documentation, re.MULTILINE)) == {"0", "1", "2", "3", "4", "5"}
    in_docstring = dict(re.findall(r"^ *(\d)  +(.+?)  ", common.__doc__ or "", re.MULTILINE))
    for kind, code in EXIT_CODES:
        if issubclass(kind, errors.PipelineError):
            assert kind.__name__ in in_docstring[str(code)]


def test_a_store_that_fails_after_the_claim_is_a_stop():
    with pytest.raises(errors.StoppedError, match="disk"), after_claim():
        raise OSError("disk full")
    with pytest.raises(errors.ClusterError), after_claim():
        raise errors.ClusterError("gone")


SCRIPT = """
import sys
from jobs.common import end_process
def main():
    for line in range(20000):
        print("photo caf\\u00e9", line)
    print("done", file=sys.stderr)
    return 3
end_process(main)
"""


def test_a_reader_that_goes_away_does_not_end_the_work():
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()  # as `head -1` does
    assert process.wait(60) == 3
    assert process.stderr.read() == "done\n"


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"PYTHONIOENCODING": "ascii"}, marks=pytest.mark.slow),
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
)
def test_a_terminal_without_a_letter_gets_a_question_mark(environment):
    ended = run_python("-c", SCRIPT, **environment)
    assert (ended.returncode, ended.stderr) == (3, "done\n")
    assert ended.stdout.startswith("photo caf? 0\n")
    told = run_python("-m", "jobs.console", "segment", "--help", **environment)
    assert told.returncode == 0
    assert "--proposals INT" in told.stdout


def test_the_help_goes_into_a_pipe_that_closes():
    for words in ("-m jobs.console segment --help-all", "jobs/evaluate.py --help"):
        command = f"set -o pipefail; {sys.executable} {words} | head -1"
        ended = subprocess.run(
            ["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.startswith("usage: ")


def test_lines_to_type_next_have_the_form_in_which_the_job_was_called(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/deconvnet", "segment"])
    assert EVALUATE.line("runs/x", "--panels", "20") == "deconvnet evaluate runs/x --panels 20"
    monkeypatch.setattr(sys, "argv", ["jobs/train.py"])
    assert TRAIN.line("set", "--width", "1") == "python jobs/train.py --training-set set --width 1"


def test_a_recipe_has_a_name_that_its_setting_allows_and_gives_itself():
    for command in (SEGMENT, TRAIN):
        names = get_args(get_type_hints(command.config)["recipe"])
        assert set(names) == set(command.recipes)
        for name in names:
            assert command.recipes[name](command.config("in", "out")).recipe == name
            assert parse(command, ["in", "--output", "out", "--recipe", name], console=True).recipe == name
    assert SEGMENT.recipes[SegmentConfig.recipe](SegmentConfig("in", "out")) == SegmentConfig("in", "out")
    assert TRAIN.recipes[TrainConfig.recipe](TrainConfig("in", "out")) == TrainConfig("in", "out")


def test_an_output_that_may_not_be_written_is_told_before_anything_starts(tmp_path, capsys):
    (tmp_path / "closed").mkdir(mode=0o555)
    output = tmp_path / "closed" / "deeper" / "out"
    with file_modes_hold():
        code = call(SEGMENT, ["--input", "a.jpg", "--output", str(output)], lambda _: pytest.fail("it was begun"))
    assert code == 2
    assert f"this folder may not be written to: '{tmp_path}/closed'" in capsys.readouterr().err


def test_a_submitted_job_is_told_where_to_write_before_it_does_anything(monkeypatch, capsys):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    for command in (SEGMENT, TRAIN):
        assert call(command, ["in", "--output", "runs/x"], lambda _: 0, console=True) == 2
        assert "--output runs/x would lie in Ray's copy" in capsys.readouterr().err
        assert call(command, ["in", "--output", "/shared/x"], lambda _: 0, console=True) == 0
