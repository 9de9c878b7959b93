"""What Ray cannot mend by itself: the graph breaks, and the job starts it again with what is left."""

import json
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
from conftest import exit_code, pid_of, write_tiles
from empty_stages import MANIFEST, driver_of
from ray.data import Dataset
from ray.data._internal.execution.no_progress_guard import NoProgressGuard
from ray.data.exceptions import SystemException
from ray.util.state import list_actors

from jobs.segment_dataset import main
from pipeline.cluster import connect, workplace
from pipeline.cluster.plan import profile_stages
from pipeline.cluster.pools import Pools
from pipeline.errors import WorkBrokenError
from pipeline.inputs.manifest import build_manifest
from pipeline.outputs.audit import audit
from pipeline.run import driver

IMAGES = 24
FAST = ("--weights", "demo", "--proposals", "2", "--crf", "none", "--max-side", "64", "--rows-per-file", "2",
        "--predict-workers", "1")  # fmt: skip


@pytest.fixture(autouse=True)
def log_without_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest keeps what Ray Data logs; exceptions there, with all their frames, would keep a broken graph's actors."""
    make = logging.getLogRecordFactory()

    def record(*arguments: Any, **named: Any) -> logging.LogRecord:
        made = make(*arguments, **named)
        made.msg, made.args, made.exc_info = made.getMessage(), (), None
        return made

    monkeypatch.setattr(logging, "_logRecordFactory", record)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("photos"), IMAGES)


def wait_for_results(output: Path) -> None:
    while not list((output / "results").glob("*.parquet")):
        time.sleep(0.02)


def test_a_graph_that_breaks_is_started_again_with_what_is_left(in_ray, photos, tmp_path, monkeypatch, capsys):
    """The attempt log is lost when the first results are there; what the first graph held is free for the second."""
    monkeypatch.setattr(driver, "PAUSES", (0.1,))
    output, first_predict = tmp_path / "out", []

    def lose_the_attempt_log() -> None:
        pids = []
        while not pids:  # to ask takes seconds, in which all images may be done: so before there are results
            with suppress(ValueError):
                pids = [pid_of(actor) for actor in ("AttemptLog", "MapWorker(MapBatches(Predict))")]
        first_predict.append(psutil.Process(pids[1]))
        wait_for_results(output)
        os.kill(pids[0], signal.SIGKILL)

    threading.Thread(target=lose_the_attempt_log, daemon=True).start()
    code = exit_code(main, "--input", str(photos), "--output", str(output), *FAST)
    told = capsys.readouterr().out
    assert code == 0, told
    found = audit(str(output), build_manifest(str(photos), None))
    assert (found.ok, found.complete) == (IMAGES, True)
    assert re.search(r"the work broke off: .* actor died .*\nwhat is left starts again in 0 s", told)
    assert told.count("1 process(es) for the network, 1 to refine and save\n") == 2
    assert not first_predict[0].is_running()
    assert json.loads((output / "run" / "summary.json").read_text())["faults"]["graphs_broken"] == 1


@pytest.mark.slow
def test_an_output_that_fails_ends_the_call_and_the_same_command_goes_on(in_ray, photos, tmp_path, monkeypatch, capsys):
    """The folder of the run's record turns into a file, as a disk that breaks: nothing can be read or written there."""
    monkeypatch.setattr(driver, "PAUSES", (0.1, 0.1))
    output = tmp_path / "out"

    def break_the_output() -> None:
        wait_for_results(output)
        (output / "run").rename(tmp_path / "run")
        (output / "run").write_text("")

    threading.Thread(target=break_the_output, daemon=True).start()
    arguments = ("--input", str(photos), "--output", str(output), *FAST)
    assert exit_code(main, *arguments) == 3
    told = capsys.readouterr().out
    assert re.search(r"^the work broke off: .*Not a directory.*\nwhat is left starts again", told, re.MULTILINE)
    assert re.search(r"^stopped, the same command goes on from here: .*Not a directory", told, re.MULTILINE)
    assert "Traceback" not in told
    (output / "run").unlink()
    (tmp_path / "run").rename(output / "run")
    monkeypatch.undo()
    (output / "run" / "lease.json").unlink()  # not released, and this process, its owner, is alive
    assert exit_code(main, *arguments) == 0, capsys.readouterr().out
    found = audit(str(output), build_manifest(str(photos), None))
    assert (found.ok, found.complete) == (IMAGES, True)


def test_timing_that_does_not_end_is_given_up_and_keeps_nothing(in_ray, photos):
    hangs = {"decode": lambda: lambda _: time.sleep(600)}
    manifest, told = build_manifest(str(photos), None), []
    assert profile_stages(manifest, hangs, Pools(1, 0.25, 0, 1, 0.125, 1), 2.0, told.append) is None
    assert "the stages could not be timed" in told[0]
    for _ in range(600):
        if ray.available_resources()["CPU"] == connect.total("CPU"):
            break
        time.sleep(0.1)
    else:
        alive = [(actor.class_name, actor.pid) for actor in list_actors(filters=[("state", "=", "ALIVE")])]
        pytest.fail(f"still taken: {ray.available_resources()}; {alive}")


def break_with_rays_own_clock(monkeypatch, output: Path) -> None:
    """The first graph gets the clock that `build_dataset` stops; it strikes while the gate is shut.

    It is not asked before there are results: on a busy machine the first take longer than the clock's three seconds.
    """
    build, check = workplace.build_dataset, NoProgressGuard.check

    def strike(limited: NoProgressGuard) -> None:
        if list((output / "results").glob("*.parquet")):
            check(limited)

    monkeypatch.setattr(NoProgressGuard, "check", strike)

    def once(*arguments: Any) -> Dataset:
        monkeypatch.setattr(workplace, "build_dataset", build)
        graph = build(*arguments)
        assert graph.context.execution_no_progress_timeout_s == -1
        graph.context.execution_no_progress_timeout_s = 3.0
        return graph

    monkeypatch.setattr(workplace, "build_dataset", once)


def break_with(error: Exception) -> Callable[[pytest.MonkeyPatch, Path], None]:
    def prepare(monkeypatch: pytest.MonkeyPatch, output: Path) -> None:
        """Something in Ray Data's scheduler trips once, when there are results."""

        def trip(_: NoProgressGuard) -> None:
            if list((output / "results").glob("*.parquet")):
                monkeypatch.setattr(NoProgressGuard, "check", lambda _: None)
                raise error

        monkeypatch.setattr(NoProgressGuard, "check", trip)

    return prepare


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prepare", "named"),
    [
        (break_with_rays_own_clock, "ExecutionTimeoutError"),
        (break_with(SystemException("of Ray's inside")), "SystemException: of Ray's inside"),
    ],
)
def test_whatever_ray_raises_is_a_broken_graph(in_ray, tmp_path, monkeypatch, prepare, named):
    output, gate, told = tmp_path / "out", tmp_path / "gate", []
    monkeypatch.setattr(driver, "PAUSES", (0.1,))
    prepare(monkeypatch, output)

    def log(line: str) -> None:
        told.append(line)
        if "broke off" in line:
            gate.touch()

    call = driver_of(output, gate, log=log)
    call.run_graphs(MANIFEST)
    found = audit(str(output), MANIFEST)
    assert (found.ok, found.complete) == (len(MANIFEST), True)
    (broken,) = [line for line in told if "the work broke off" in line]
    assert named in broken
    assert call.summary.faults["graphs_broken"] == 1


@pytest.mark.parametrize(
    ("error", "said"), [(KeyError("operator 7"), "KeyError: 'operator 7'"), (AssertionError(), "AssertionError: ")]
)
def test_the_type_of_what_a_graph_raises_does_not_matter(error, said):
    def bundles() -> Iterator[object]:
        yield object()
        raise error

    with pytest.raises(WorkBrokenError) as broken:
        workplace.work_through(SimpleNamespace(iter_internal_ref_bundles=bundles))
    assert str(broken.value) == said
