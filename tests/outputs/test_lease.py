"""The fence: whatever is alive elsewhere, no file gets into an output that belongs to another run."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline import storage
from pipeline.errors import FolderInUseError, LeaseError
from pipeline.outputs.lease import Lease, take_lease


@pytest.fixture
def output(tmp_path) -> str:
    return str(tmp_path / "out")


def stage(lease: Lease, part: str, text: str = "rows") -> None:
    storage.write_atomic(storage.join(lease.staged, part), text.encode())


def become_another(output: str, **changes: object) -> None:
    """Let the lease look as if another process had written it."""
    path = Path(output, "run", "lease.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_staged_is_in_place_after_the_commit_and_not_before(output):
    lease = take_lease(output)
    stage(lease, "results/part-0.parquet")
    assert not Path(output, "results").exists()
    lease.commit(["results/part-0.parquet"])
    assert Path(output, "results", "part-0.parquet").read_text() == "rows"
    lease.release()
    assert sorted(path.name for path in Path(output).rglob("*") if path.is_file()) == ["part-0.parquet"]


def test_a_living_owner_on_this_machine_is_refused_at_once(output):
    take_lease(output)
    with pytest.raises(FolderInUseError, match="at work"):
        take_lease(output)


def test_an_owner_that_ended_on_this_machine_is_followed_at_once(output):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = psutil.Process(child.pid).create_time()
    first = take_lease(output)
    become_another(output, pid=child.pid, started=started)
    with pytest.raises(FolderInUseError):
        take_lease(output)
    child.kill()  # not waited for: a zombie is as dead
    psutil.wait_procs([psutil.Process(child.pid)], timeout=0.5)
    second = take_lease(output)
    child.communicate()
    assert second.run_id != first.run_id


def test_a_process_id_that_came_round_again_is_not_the_owner(output):
    take_lease(output)
    become_another(output, started=psutil.Process().create_time() - 1000)
    take_lease(output)


def test_an_owner_elsewhere_is_waited_for_and_followed_when_silent(output):
    take_lease(output).beat(1)
    become_another(output, host="elsewhere")
    said: list[str] = []
    take_lease(output, said.append, silence=0.2)
    assert "elsewhere" in said[0]


def test_an_owner_elsewhere_that_gives_a_sign_is_left_alone(output):
    first = take_lease(output)
    first.beat(1)
    become_another(output, host="elsewhere")
    with pytest.raises(FolderInUseError, match="at work"):
        take_lease(output, lambda _: first.beat(2), silence=1)


def test_a_run_that_was_taken_over_commits_nothing_more(output):
    first = take_lease(output)
    stage(first, "results/early.parquet")
    first.commit(["results/early.parquet"])
    stage(first, "results/late.parquet")
    become_another(output, host="elsewhere")
    second = take_lease(output, print, silence=0.1)
    stage(first, "results/later.parquet")  # a left-over worker
    for part in ("results/late.parquet", "results/later.parquet"):
        with pytest.raises(LeaseError, match="taken over"):
            first.commit([part])
        with pytest.raises(LeaseError):
            first.check()
    stage(second, "results/new.parquet")
    second.commit(["results/new.parquet"])
    first.release()  # must not take the other's lease away
    second.check()
    assert sorted(path.name for path in Path(output, "results").iterdir()) == ["early.parquet", "new.parquet"]


def test_what_was_staged_before_a_takeover_cannot_be_moved_after_it(output, monkeypatch):
    """The driver was stopped between looking at the lease and moving the file, for as long as it takes."""
    first = take_lease(output)
    stage(first, "results/part.parquet")
    become_another(output, host="elsewhere")
    second = take_lease(output, print, silence=0.1)
    looks = iter([None])
    monkeypatch.setattr(Lease, "check", lambda self: next(looks, None))  # its one look was before the takeover
    with pytest.raises(FileNotFoundError):
        first.commit(["results/part.parquet"])
    assert list(Path(second.output).rglob("part.parquet")) == []


def test_a_lease_is_kept_alive_and_released(output):
    lease = take_lease(output)
    sign = Path(output, "run", f"alive-{lease.run_id}")
    with lease.kept_alive(period=0.01):
        while not sign.exists() or int(sign.read_text()) < 3:
            time.sleep(0.01)
    assert list(Path(output, "run").iterdir()) == []
    take_lease(output)
