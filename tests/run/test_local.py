"""Runs of few images without Ray: the real job with real processes, which are killed, stopped and cut off."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent

import numpy as np
import psutil
import pytest
from conftest import exit_code, write_tiles
from PIL import Image

from examples.scenes.dataset import scene_of
from jobs import segment_dataset
from jobs.segment_dataset import main, parse
from pipeline import segment
from pipeline.errors import ClusterError
from pipeline.imaging.images import decode_mask
from pipeline.outputs.results import read_errors, read_results
from pipeline.run import local
from pipeline.run.local import suits_this_machine

REPOSITORY = Path(__file__).parents[2]
SMALL = ("--weights", "demo", "--proposals", "2", "--crf", "none", "--device", "cpu")
MARK = b"MARK"
"""At the end of a JPEG file, where decoders do not look."""


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The job is called without a cluster; this process's reaction to SIGTERM is left as it was."""
    on_sigterm = signal.getsignal(signal.SIGTERM)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield
    signal.signal(signal.SIGTERM, on_sigterm)


def hook(folder: Path, action: str) -> str:
    """A folder for PYTHONPATH: processes act before they open a marked image; in the action, `gate` is a path."""
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(
        "import os, time, PIL.Image as image\n"
        f"gate = {str(folder / 'gate')!r}\n"
        "open_image = image.open\n"
        "def open_or_not(file, *a, **k):\n"
        f"    if file.getvalue().endswith({MARK!r}):\n{indent(action, ' ' * 8)}\n"
        "    return open_image(file, *a, **k)\n"
        "image.open = open_or_not\n"
    )
    return str(folder / "hook")


@pytest.fixture
def at_the_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a `hook` in `tmp_path` for all processes of the runs of a test."""
    return lambda action: monkeypatch.syspath_prepend(hook(tmp_path, action))


WAIT = "while not os.path.exists(gate): time.sleep(0.05)"
KILL_ONE = """
try: open(gate + "-killed", "x").close()
except FileExistsError: pass
else: os.kill(os.getpid(), 9)
"""


def marked(folder: Path, *numbers: int, images: int = 6) -> Path:
    """Small images, some of them marked; returns their folder."""
    folder.mkdir()
    write_tiles(folder, images)
    for number in numbers:
        with (folder / f"{number:02}.jpg").open("ab") as file:
            file.write(MARK)
    return folder


def run(photos: Path, output: Path, *more: str) -> int:
    return exit_code(main, "--input", str(photos), "--output", str(output), *SMALL, *more)


def masks_of(output: Path) -> dict[str, bytes]:
    return {row["image_id"]: row["mask"] for row in read_results(str(output)).to_pylist()}


def summary_of(output: Path) -> dict[str, object]:
    return json.loads((output / "run" / "summary.json").read_text())


def until(happened: Callable[[], bool]) -> None:
    while not happened():
        time.sleep(0.02)


@contextmanager
def job_at_the_gate(
    photos: Path, output: Path, options: Sequence[str] = SMALL, masks: int = 4
) -> Iterator[subprocess.Popen[str]]:
    """The job as the leader of a group of processes, as a shell starts it, when masks are there; then it is killed.

    Every process loads the `hook` beside the output.
    """
    command = [sys.executable, "jobs/segment_dataset.py", "--input", str(photos), "--output", str(output), *options]
    job = subprocess.Popen(
        command, cwd=REPOSITORY, env=hooked(output.parent), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    with job:
        try:
            until(lambda: len(list((output / "masks").glob("*.png"))) == masks or job.poll() is not None)
            yield job
        finally:
            job.kill()


def hooked(folder: Path) -> dict[str, str]:
    """The environment of a job in a process of its own."""
    there = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return there | {"PYTHONPATH": f"{folder / 'hook'}:{REPOSITORY}"}


def meanwhile(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


FULL = ("--weights", "demo", "--proposals", "4", "--device", "cpu")
JOB_AND_WHAT_IT_IMPORTED = (
    "import sys\nfrom jobs.segment_dataset import main\ncode = main(sys.argv[1:])\n"
    "print([name for name in ('ray', 'torch') if name in sys.modules], code)\n"
)


@dataclass(frozen=True)
class Stopped:
    """A run of five images, one of them cut off, that was told to stop, and the same command once more."""

    arguments: list[str]
    output: Path
    code: int
    said: str
    processes: int
    threads_of_the_first: int
    processes_left: list[psutil.Process]
    masks_saved: int
    again: subprocess.CompletedProcess[str]
    """One of its processes was killed."""


@pytest.fixture(scope="module", params=["Ctrl-C", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def stopped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """Made once, since its processes take seconds to start. A terminal sends Ctrl-C to all of the group."""
    folder = tmp_path_factory.mktemp("stopped")
    photos, output = folder / "photos", folder / "out"
    photos.mkdir()
    for number in (0, 1, 3, 4):
        scene = Image.fromarray(scene_of(7, "val", number).image_HW3)
        scene.resize((scene.width // 2, scene.height // 2)).save(photos / f"{number}.jpg", quality=92)
    (photos / "2.jpg").write_bytes((photos / "0.jpg").read_bytes()[:2000])
    for number in (3, 4):
        with (photos / f"{number}.jpg").open("ab") as file:
            file.write(MARK)
    hook(folder, WAIT + KILL_ONE)
    with job_at_the_gate(photos, output, FULL, masks=2) as job:
        processes = psutil.Process(job.pid).children(recursive=True)
        threads = processes[0].num_threads()
        os.killpg(job.pid, signal.SIGINT) if request.param == "Ctrl-C" else job.terminate()
        said, _ = job.communicate()
    left = psutil.wait_procs(processes, timeout=600)[1]
    saved = len(masks_of(output))
    (folder / "gate").touch()
    arguments = ["--input", str(photos), "--output", str(output), *FULL]
    again = subprocess.run(
        [sys.executable, "-c", JOB_AND_WHAT_IT_IMPORTED, *arguments],
        cwd=REPOSITORY, env=hooked(folder), capture_output=True, text=True, check=False,
    )  # fmt: skip
    return Stopped(arguments, output, job.returncode, said, len(processes), threads, left, saved, again)


def test_a_run_that_is_told_to_stop_keeps_what_is_finished_and_leaves_no_process(stopped):
    assert stopped.code == 3, stopped.said
    assert "few images (5): processes of this machine do them, without Ray\n" in stopped.said
    assert "the same command goes on from here" in stopped.said
    assert "Traceback" not in stopped.said
    assert stopped.processes >= 2
    assert stopped.threads_of_the_first == 1  # so that its forks are whole
    assert stopped.processes_left == []
    assert 1 <= stopped.masks_saved <= 2  # the row of an image follows its mask


def test_the_same_command_goes_on_and_a_killed_process_costs_an_attempt_and_no_image(stopped):
    assert stopped.again.stderr == ""
    assert stopped.again.stdout.splitlines()[-2].startswith("4 of 5 images done, 1 failed, 0 left")
    summary = summary_of(stopped.output)
    assert {stage: totals["rows"] for stage, totals in summary["stages"].items()} == {
        "decode": 5,
        "propose": 4,
        "predict": 4,
        "refine": 4,
    }  # fmt: skip  (of both calls: none twice)
    assert summary["faults"]["attempts_lost"] == 1
    assert sorted(file.name for file in (stopped.output / "run").iterdir()) == [
        "classes.json", "config.json", "manifest.parquet", "report.html", "summary.json",
    ]  # fmt: skip


def test_neither_ray_nor_torch_is_imported_by_the_job_itself(stopped):
    assert stopped.again.stdout.splitlines()[-1] == "[] 0"


def test_results_are_those_of_the_stages_and_a_bad_image_is_a_row(stopped):
    rows = read_results(str(stopped.output)).to_pylist()
    config = parse(stopped.arguments)
    for row, found in zip(rows, segment([row["uri"] for row in rows], "demo", config), strict=True):
        assert np.array_equal(decode_mask(row["mask"]), found.mask_HW)
        assert (stopped.output / "masks" / f"{row['image_id']}.png").read_bytes() == row["mask"]
    assert len(rows) == len({row["mask"] for row in rows}) == 4
    (error,) = read_errors(str(stopped.output)).to_pylist()
    assert (error["image_id"], error["error_stage"], error["error_type"]) == ("2.jpg", "decode", "truncated")


@pytest.mark.slow
def test_only_images_without_a_row_are_done_again(tmp_path, capsys):
    photos, output = marked(tmp_path / "photos", images=3), tmp_path / "out"
    assert run(photos, output) == 0
    masks = masks_of(output)
    (output / "results" / next(iter((output / "results").iterdir())).name).unlink()
    capsys.readouterr()
    assert run(photos, output) == 0
    assert "2 done before" in capsys.readouterr().out
    assert masks_of(output) == masks
    assert summary_of(output)["stages"]["refine"]["rows"] == 4


@pytest.mark.slow
def test_an_image_that_kills_its_process_becomes_an_error_row(tmp_path, at_the_mark):
    at_the_mark("os.kill(os.getpid(), 9)")
    photos = marked(tmp_path / "photos", 2)
    assert run(photos, tmp_path / "out", "--max-attempts", "2", "--max-error-rate", "0.5") == 0
    assert sorted(masks_of(tmp_path / "out")) == [f"{number:02}.jpg" for number in (0, 1, 3, 4, 5)]
    (error,) = read_errors(str(tmp_path / "out")).to_pylist()
    assert (error["image_id"], error["error_stage"], error["error_type"]) == ("02.jpg", "decode", "WorkerDied")
    assert summary_of(tmp_path / "out")["faults"]["attempts_lost"] >= 3  # one before it was tried alone, and two


@pytest.mark.slow
def test_processes_end_with_a_job_that_is_killed(tmp_path, at_the_mark):
    at_the_mark(WAIT)
    photos, output = marked(tmp_path / "photos", 4, 5), tmp_path / "out"
    with job_at_the_gate(photos, output) as job:
        processes = psutil.Process(job.pid).children(recursive=True)
    assert psutil.wait_procs(processes, timeout=600)[1] == []
    (tmp_path / "gate").touch()
    assert run(photos, output) == 0
    assert len(masks_of(output)) == 6


@pytest.mark.slow
def test_too_many_errors_end_the_run(tmp_path, capsys, at_the_mark):
    at_the_mark(WAIT)
    photos = marked(tmp_path / "photos", 0, images=1)
    for number in range(10):
        (photos / f"bad{number}.jpg").write_text("no image at all")
    assert run(photos, tmp_path / "out") == 4
    assert "stopped: 10 of 10 images failed" in capsys.readouterr().out
    assert len(read_errors(str(tmp_path / "out"))) == 10


@pytest.mark.slow
def test_a_run_whose_output_was_taken_over_adds_nothing_more(tmp_path, capsys, at_the_mark):
    at_the_mark(WAIT)
    photos, output = marked(tmp_path / "photos", 4, 5), tmp_path / "out"
    lease = output / "run" / "lease.json"

    def take_over() -> None:
        until(lambda: len(list((output / "results").glob("*.parquet"))) == 4)
        lease.write_text(json.dumps(json.loads(lease.read_text()) | {"run_id": "another"}))
        (tmp_path / "gate").touch()

    meanwhile(take_over)
    assert run(photos, output) == 3
    assert "taken over by another run" in capsys.readouterr().out
    assert len(masks_of(output)) == 4
    assert json.loads(lease.read_text())["run_id"] == "another"


@pytest.mark.slow
def test_a_network_that_the_processes_cannot_load_ends_the_run_with_its_reason(tmp_path, monkeypatch, capsys):
    """It can be made once: by the job, which tries it."""
    (tmp_path / "once.py").write_text(
        "import os, torch\n"
        "class Once:\n"
        "    class_names = ('background', 'thing')\n"
        "    def __init__(self):\n"
        f"        open({str(tmp_path / 'made')!r}, 'x').close()\n"
        "    def scores(self, image_3HW):\n"
        "        return torch.zeros(2, *image_3HW.shape[1:])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ("--input", str(marked(tmp_path / "photos")), "--output", str(tmp_path / "out"), "--device", "cpu",
                 "--weights", "once:Once")  # fmt: skip
    assert exit_code(main, *arguments) == 3
    told = capsys.readouterr().out
    assert "stopped, the same command goes on from here: " in told
    assert "CheckpointError: once:Once cannot be made: FileExistsError" in told
    (tmp_path / "made").unlink()


@pytest.mark.slow
def test_work_that_breaks_off_is_started_again_with_what_is_left(tmp_path, monkeypatch, capsys, at_the_mark):
    """The process that starts the others is lost, and then one of the others, so that none comes in its place."""
    monkeypatch.setattr("pipeline.run.driver.PAUSES", (0.1,))
    at_the_mark(WAIT)
    photos, output = marked(tmp_path / "photos", 4, 5), tmp_path / "out"

    def lose_processes() -> None:
        until(lambda: len(list((output / "results").glob("*.parquet"))) == 4)
        first, *others = psutil.Process().children(recursive=True)
        first.kill()
        first.wait()
        for other in others:
            other.kill()
        (tmp_path / "gate").touch()

    meanwhile(lose_processes)
    assert run(photos, output) == 0
    assert len(masks_of(output)) == 6
    assert "what is left starts again in 0 s" in capsys.readouterr().out
    assert summary_of(output)["faults"]["graphs_broken"] == 1


@pytest.mark.parametrize(
    ("arguments", "environment", "fits"),
    [
        ((), {}, True),
        (("--device", "cpu"), {}, True),
        (("--predict-workers", "1"), {}, True),
        (("--device", "cuda"), {}, False),
        (("--predict-gpus", "0.5"), {}, False),
        (("--refine-workers", "2"), {}, False),
        ((), {"RAY_ADDRESS": "10.0.0.1:6379"}, False),  # also in a submitted job
        ((), {"RAY_ADDRESS": "local"}, False),  # how to ask for a Ray of one's own
    ],
)
def test_a_cluster_and_gpus_are_a_matter_of_ray(monkeypatch, arguments, environment, fits):
    monkeypatch.setattr(local, "GPU_FILES", ())
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert suits_this_machine(parse(["--input", "in", "--output", "out", *arguments])) is fits


def test_a_machine_with_a_gpu_is_a_matter_of_ray_unless_it_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(local, "GPU_FILES", (str(tmp_path),))
    assert not suits_this_machine(parse(["--input", "in", "--output", "out"]))
    assert suits_this_machine(parse(["--input", "in", "--output", "out", "--device", "cpu"]))


def test_nothing_of_this_machines_is_left_when_many_images_go_to_ray(tmp_path, monkeypatch):
    monkeypatch.setattr(segment_dataset, "MOST_IMAGES", 2)
    before, left = psutil.Process().children(), []

    def ray_starts(*_: object) -> None:
        left.extend(one for one in psutil.Process().children() if one not in before)
        raise ClusterError("no Ray here")

    monkeypatch.setattr(segment_dataset, "workplace", ray_starts)
    assert run(marked(tmp_path / "photos", images=3), tmp_path / "out") == 5
    assert left == []


def test_a_dry_run_of_few_images_starts_nothing_and_writes_nothing(tmp_path, capsys):
    photos = marked(tmp_path / "photos")
    assert run(photos, tmp_path / "out", "--dry-run", "--predict-workers", "3") == 0
    told = capsys.readouterr().out
    for said in ("6 images, 0 done before", "decode -> propose -> predict -> refine -> write",
                 "3 process(es) of this machine for all of them, without Ray", "mean_probability"):  # fmt: skip
        assert said in told
    assert not (tmp_path / "out").exists()


def test_as_many_processes_as_cores_images_and_memory(monkeypatch):
    monkeypatch.setattr(local, "cores", lambda: 8)
    memory = psutil.virtual_memory()
    for available, images, asked, count in (
        (100, 64, 0, 8), (100, 3, 0, 3), (5, 64, 0, 5), (0, 64, 0, 1), (100, 64, 2, 2), (100, 1, 2, 1),
    ):  # fmt: skip
        there = memory._replace(available=available * local.PROCESS_BYTES)
        monkeypatch.setattr(psutil, "virtual_memory", lambda there=there: there)
        assert local.processes_for(images, asked) == count
