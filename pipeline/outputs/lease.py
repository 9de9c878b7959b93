"""One driver at a time owns an output folder; no other process adds to its results.

Each process of the job has a run id. Workers only *stage* files, under OUTPUT/run/staged/<run id>. The driver moves
them into place, one by one, and only while OUTPUT/run/lease.json names its own run id. A driver that takes the lease
over first writes the lease, then removes all staged files, then reads which images are done. So a file of another run
id is either in place before that reading, or its source is gone when the other driver tries to move it. No image can
get into the results twice, whatever is still running elsewhere, and no clocks are compared. (On S3 a move is a copy
and a delete. The one gap is a copy that is under way at that moment; it lasts as long as the store takes to copy one
file.)
"""

from __future__ import annotations

import json
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from uuid import uuid4

import psutil

from pipeline import storage
from pipeline.errors import FolderError, FolderInUseError, LeaseError
from pipeline.outputs import layout

SILENCE_SECONDS = 45.0
"""An owner on another machine counts as dead after this long without a sign of life."""
BEAT_SECONDS = 10.0
"""Seconds between an owner's calls of `Lease.beat`."""
CLOCK_SECONDS = 2.0
"""By how much a corrected clock may change the recorded start time of a process."""


@dataclass(frozen=True)
class Owner:
    """The holder of a lease, as in lease.json."""

    run_id: str
    host: str
    boot: float
    pid: int
    started: float

    def is_gone(self) -> bool | None:
        """Whether its process has ended; None where this machine cannot know."""
        if (self.host, self.boot) != _this_machine():
            return None
        try:
            process = psutil.Process(self.pid)
            another = abs(process.create_time() - self.started) > CLOCK_SECONDS  # process ids are reused
            return another or bool(process.status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True


@dataclass(frozen=True)
class Lease:
    """The right of one process of the job to put files into an output folder."""

    output: str
    run_id: str

    @property
    def staged(self) -> str:
        """The folder in which workers stage files for this run id."""
        return storage.join(_staged(self.output), self.run_id)

    def beat(self, count: int) -> None:
        """Give a sign of life, every `BEAT_SECONDS`; `count` must differ from call to call."""
        storage.write_atomic(_beat(self.output, self.run_id), str(count).encode())

    @contextmanager
    def kept_alive(self, period: float = BEAT_SECONDS) -> Iterator[None]:
        """Give signs of life from a separate thread, and release the lease at the end."""
        ended = threading.Event()

        def beat() -> None:
            count = 0
            while not ended.wait(period):
                count += 1
                with suppress(OSError):  # a store in trouble; the next sign may get through
                    self.beat(count)

        thread = threading.Thread(target=beat, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with suppress(OSError):  # the next run sees that this process is gone, or waits until it counts as dead
                self.release()

    def check(self) -> None:
        """Make sure that the lease still names this run id.

        Raises:
            LeaseError: another run took the folder over.
        """
        owner = _owner(self.output)
        if owner is None:
            raise LeaseError(
                f"{_lease(self.output)} is gone: another run took the folder over and has ended, somebody removed it, "
                f"or {platform.node()} does not see the folder; this run ends here"
            )
        if owner.run_id != self.run_id:
            raise LeaseError(f"{self.output} was taken over by another run ({_name(owner)}); this one ends here")

    def commit(self, parts: list[str]) -> None:
        """Move staged files into place.

        Args:
            parts: paths below both the staging folder and the output, such as `results/part-0.parquet`.

        Raises:
            LeaseError: another run took the folder over; the remaining parts are not moved.
        """
        self.check()
        for part in parts:
            try:
                storage.move(storage.join(self.staged, part), storage.join(self.output, part))
            except FileNotFoundError:
                self.check()
                raise

    def release(self) -> None:
        """Release the folder, and remove files that were staged but never moved."""
        owner = _owner(self.output)
        if owner is not None and owner.run_id == self.run_id:
            storage.remove_folder(_staged(self.output))
            storage.remove(_lease(self.output))
        storage.remove(_beat(self.output, self.run_id))


def take_lease(output: str, log: Callable[[str], None] = print, silence: float = SILENCE_SECONDS) -> Lease:
    """Become the owner of an output folder; if the last owner may be alive elsewhere, wait for its signs of life.

    Args:
        output: the output folder.
        log: prints a line when there is something to wait for.
        silence: seconds without a sign of life after which that owner counts as dead.

    Raises:
        FolderInUseError: the owner is alive.
        OSError: the store cannot be read or written.
    """
    owner = _owner(output)
    if owner is not None:
        _refuse_if_alive(output, owner, log, silence)
    host, boot = _this_machine()
    mine = Owner(uuid4().hex, host, boot, psutil.Process().pid, psutil.Process().create_time())
    storage.write_atomic(_lease(output), json.dumps(asdict(mine)).encode())
    storage.remove_folder(_staged(output))
    if owner is not None:
        storage.remove(_beat(output, owner.run_id))
    return Lease(storage.absolute(output), mine.run_id)


def _refuse_if_alive(output: str, owner: Owner, log: Callable[[str], None], silence: float) -> None:
    gone = owner.is_gone()
    if gone is False:
        raise FolderInUseError(f"{output} belongs to a run that is at work: {_name(owner)}; wait for it, or stop it")
    if gone:
        return
    sign = _sign(output, owner)
    log(f"{output} was left by a run elsewhere ({_name(owner)}); waiting {silence:.0f} s for a sign of life from it")
    deadline = time.monotonic() + silence
    while time.monotonic() < deadline:
        time.sleep(min(2.0, silence / 4))
        if _owner(output) is None:
            return
        if _sign(output, owner) != sign:
            raise FolderInUseError(
                f"{output} belongs to a run that is at work: {_name(owner)}; wait for it, or stop it"
            )


def _this_machine() -> tuple[str, float]:
    return platform.node(), round(psutil.boot_time())


def _owner(output: str) -> Owner | None:
    try:
        fields = json.loads(storage.read_bytes(_lease(output)))
        if "call" in fields:  # the name of `run_id` in versions before 0.2
            fields["run_id"] = fields.pop("call")
        return Owner(**fields)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise FolderError(f"{_lease(output)} is damaged ({error}); remove it if no run is at work there") from error


def _sign(output: str, owner: Owner) -> bytes | None:
    try:
        return storage.read_bytes(_beat(output, owner.run_id))
    except FileNotFoundError:
        return None


def _name(owner: Owner) -> str:
    return f"process {owner.pid} on {owner.host}"


def _lease(output: str) -> str:
    return storage.join(output, layout.RUN, "lease.json")


def _beat(output: str, run_id: str) -> str:
    return storage.join(output, layout.RUN, f"alive-{run_id}")


def _staged(output: str) -> str:
    return storage.join(output, layout.RUN, "staged")
