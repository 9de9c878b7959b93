"""The commands of README and docs: each is understood, and those of the first pages do what they say, as typed.

A command is only parsed where it needs S3, a cluster or BSDS500, or where its comment says that it takes hours.
"""

import importlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import exit_code, write_tiles

from benchmarks.network import random_network
from examples.scenes.config import ScenesConfig
from examples.scenes.dataset import write_dataset
from jobs import console
from jobs.commands import COMMANDS, parse
from pipeline.imaging.classes import VOC_CLASSES
from pipeline.models.checkpoint import CheckpointInfo, dump_checkpoint

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = {
    "README.md": {"segment"},
    "docs/segmenting.md": {"segment", "report"},
    "docs/evaluating.md": {"segment", "evaluate", "segment_dataset", "tune_crf", "inspect"},
}
"""Pages whose commands are run, and jobs that are among them."""
SHELL = ("(echo", "tar ")
"""How lines begin that prepare or pack something."""
CONSOLE = re.compile(r"^(?:\.venv/bin/)?deconvnet (?P<words>.*)")
SCRIPT = re.compile(r"python jobs/(?P<module>\w+)\.py (?P<words>.*)")


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block of code, in order."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def lines(text: str) -> list[str]:
    return text.replace("\\\n", " ").splitlines()


def lines_of(page: Path) -> list[str]:
    """Lines of shell, those that are only outlined (with an ellipsis) left out."""
    return [line for language, text in blocks(page) if not language for line in lines(text) if "..." not in line]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_understood(page: Path):
    for line in lines_of(page):
        if found := CONSOLE.search(line):
            name, *words = shlex.split(found["words"], comments=True)
            command = next(one for one in COMMANDS if one.name == name)
            parse(command, without_files(words), console=True)
        elif found := SCRIPT.search(line):
            command = next(one for one in COMMANDS if one.module == found["module"])
            parse(command, without_files(shlex.split(found["words"], comments=True)))


def without_files(words: list[str]) -> list[str]:
    """The words of a command but `--config FILE`: the files that pages name are made by commands before them."""
    return words if "--config" not in words else words[: words.index("--config")] + words[words.index("--config") + 2 :]


def test_the_pages_have_commands():
    found = sum(bool(CONSOLE.search(line) or SCRIPT.search(line)) for page in PAGES for line in lines_of(page))
    assert found >= 20


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of small data under the names that the pages use; it is the working directory, and its `home` is `~`."""
    for folder in (tmp_path / "photos", tmp_path / "home" / "photos"):
        folder.mkdir(parents=True)
        write_tiles(folder, 2)
        (folder / "empty.jpg").touch()  # so that there is an error to read
    list(write_dataset(ScenesConfig(str(tmp_path / "VOC2012"), train=2, val=1, seed=5)))
    (tmp_path / "VOC2012" / "classes.txt").unlink()  # as there is none in VOC's own folder
    list(write_dataset(ScenesConfig(str(tmp_path / "data" / "demo"), train=0, val=13, seed=1)))
    shutil.copytree(tmp_path / "VOC2012" / "JPEGImages", tmp_path / "VOC2012_test" / "JPEGImages")
    network = dump_checkpoint(random_network(1 / 16, len(VOC_CLASSES)), CheckpointInfo(VOC_CLASSES, 1 / 16))
    for name in ("my.safetensors", "runs/voc/deconvnet.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(network)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def run_as_typed(line: str) -> str | None:
    """Run a line of shell; a job's name if it calls one, in this process, so that all share a Ray."""
    if any(word in line for word in ("# hours", "# a quarter", "s3://", "BSDS500", "make ", "ray job submit")):
        return None
    if found := CONSOLE.search(line):
        words = shlex.split(found["words"], comments=True)
        assert (
            exit_code(console.main, *(str(Path(word).expanduser()) if word.startswith("~") else word for word in words))
            == 0
        ), line
        return words[0]
    if found := SCRIPT.search(line):
        main = importlib.import_module(f"jobs.{found['module']}").main
        assert exit_code(main, *shlex.split(found["words"], comments=True)) == 0, line
        return found["module"]
    if line.startswith(SHELL):
        subprocess.run(["/bin/sh", "-c", line], check=True)
    return None


@pytest.mark.ray
@pytest.mark.parametrize(
    "page", [page if page == "README.md" else pytest.param(page, marks=pytest.mark.slow) for page in RUN]
)
def test_the_commands_of_a_page_work_as_typed_from_any_folder(page: str, elsewhere: Path, in_ray):
    done = set()
    for language, text in blocks(ROOT / page):
        if language == "python" and "(mask" not in text:  # lines on one mask: tests/imaging runs those
            exec(compile(text, page, "exec"), globals())
        for line in lines(text) if not language else ():
            if "..." not in line:
                done.add(run_as_typed(line))
    assert RUN[page] <= done
    for masks in (elsewhere / "runs").glob("*/masks"):
        assert list(masks.rglob("*.png"))
