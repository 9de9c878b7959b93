"""The thread beside the run: signs of life, lines for people, and an end to runs that go nowhere."""

import re
import threading

import pytest

from pipeline.outputs.lease import take_lease
from pipeline.run.attempts import RunProgress
from pipeline.run.watch import Watch

PATIENCE = 600  # seconds; only a broken watch needs them, on a machine however busy


@pytest.fixture
def lease(tmp_path):
    return take_lease(str(tmp_path / "out"))


def watch_until(condition: threading.Event, lease, progress, stall_timeout: float = 100.0) -> tuple[Watch, list[str]]:
    lines: list[str] = []
    watch = Watch(lease, progress, lambda: (0, 0), 10, stall_timeout, lines.append, condition.set, period=0.02)
    assert condition.wait(PATIENCE)
    watch.close()
    return watch, lines


def test_it_tells_how_far_the_run_is(lease):
    states = [
        RunProgress({}, 0, 0, 0.0),
        RunProgress({"decode": 3}, 0, 0, 0.0),
        RunProgress({"decode": 5, "refine": 4}, 2, 0, 0.0),
        RunProgress({"decode": 9, "refine": 8}, 2, 0, 0.0),
    ]
    enough = threading.Event()
    lines: list[str] = []

    def progress() -> RunProgress:
        if len(lines) == len(states):
            enough.set()
        return states[min(len(lines), len(states) - 1)]  # the next one when the last was told

    watch = Watch(lease, progress, lambda: (len(lines), 0), 10, 100.0, lines.append, enough.set, period=0.02)
    assert enough.wait(PATIENCE)
    watch.close()
    assert "none" in lines[0]
    assert "decode 3" in lines[1]
    # No rate yet: Ray's start is not it.
    assert lines[2] == "2 of 10 images saved, 2 attempts lost (decode 5, refine 4)"
    assert re.match(r"3 of 10 images saved, [\d.]+ images/s, \d+:\d\d:\d\d left, 2 attempts lost \(", lines[3])
    assert watch.reason is None


def test_skipped_images_are_named_among_the_saved(lease):
    told, lines = threading.Event(), []

    def log(line: str) -> None:
        lines.append(line)
        told.set()

    watch = Watch(lease, lambda: RunProgress({"refine": 4}, 0, 0, 0.0), lambda: (4, 3), 10, 100.0, log, told.set, 0.02)
    assert told.wait(PATIENCE)
    watch.close()
    assert lines[0].startswith("4 of 10 images saved, 3 of them skipped (")


def test_a_run_that_goes_nowhere_is_ended(lease):
    stopped = threading.Event()
    watch, _ = watch_until(stopped, lease, lambda: RunProgress({"decode": 1}, 0, 0, 7.0), stall_timeout=6.0)
    assert watch.reason == "no image was finished in any stage for 7 s"


def test_a_cluster_that_does_not_answer_is_a_stall_in_the_end(lease):
    def silent() -> RunProgress:
        raise TimeoutError("no answer")

    stopped = threading.Event()
    watch, lines = watch_until(stopped, lease, silent, stall_timeout=0.1)
    assert "no image was finished" in watch.reason
    assert any("no answer" in line for line in lines)


def test_a_run_that_was_taken_over_is_ended(lease):
    lease.release()
    stopped = threading.Event()
    watch, _ = watch_until(stopped, lease, lambda: RunProgress({}, 0, 0, 0.0))
    assert "lease.json is gone" in watch.reason
