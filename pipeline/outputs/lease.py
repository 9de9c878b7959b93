"""One driver at a time owns an output folder, or a shard of it; no other process adds to its results.

Each process of the job has a run id. Workers only *stage* files, under OUTPUT/run/staged/<shard>/<run id>. The driver
moves them into place, one by one, and only while its lease names its own run id: OUTPUT/run/lease.json, or that of its
shard, OUTPUT/run/leases/<shard>.json. A driver that takes a lease over first writes the lease, then removes all files
that were staged under it, then reads which images are done. So a file of another run id is either in place before that
reading, or its source is gone when the other driver tries to move it. No image can get into the results twice, whatever
is still running elsewhere, and no clocks are compared. (On S3 a move is a copy and a delete. The one gap is a copy that
is under way at that moment; it lasts as long as the store takes to copy one file.)

Shards of the same number and of the same settings go together; all other leases are rivals, and one is taken only if no
rival's owner is alive. A driver looks at the leases of its rivals, writes its own and looks again: of two rivals that
start at the same moment, at least one sees the other then, and leaves. If it stays, it removes the leases of rivals
whose owners are dead, and then what they have staged, in the order in which it would take over its own.
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
from pipeline.config.shards import WHOLE, Shard
from pipeline.errors import FolderError, FolderInUseError, LeaseError
from pipeline.outputs import layout
from pipeline.storage import listing

SILENCE_SECONDS = 45.0
"""An owner on another machine counts as dead after this long without a sign of life."""
BEAT_SECONDS = 10.0
"""Seconds between an owner's calls of `Lease.beat`."""
CLOCK_SECONDS = 2.0
"""By how much a corrected clock may change the recorded start time of a process."""

_LEASES = (layout.RUN, "leases")


@dataclass(frozen=True)
class Owner:
    """The holder of a lease, as in its file."""

    run_id: str
    host: str
    boot: float
    pid: int
    started: float
    shard: str = str(WHOLE)
    """As in `--shard`."""
    work: str = ""
    """Shards go together only if they agree in this, see `take_lease`."""

    def goes_with(self, other: Owner) -> bool:
        """Whether both may write at the same time: other shards of the same number, for the same work."""
        mine, theirs = Shard.parse(self.shard), Shard.parse(other.shard)
        return mine.number != theirs.number and (mine.of, self.work) == (theirs.of, other.work)

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
    """The right of one process of the job to put files into an output folder, all of them or those of a shard."""

    output: str
    run_id: str
    shard: Shard = WHOLE

    @property
    def staged(self) -> str:
        """The folder in which workers stage files for this run id."""
        return _staged(self.output, self.shard.name, self.run_id)

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
        owner = _owner(_lease(self.output, self.shard))
        if owner is None:
            raise LeaseError(
                f"{_lease(self.output, self.shard)} is gone: another run took the folder over, somebody removed it, or "
                f" {platform.node()} does not see the folder; this run ends here"
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
        """Release what this process owns, and remove files that were staged but never moved."""
        if self._is_held():
            self._remove_staged()
        self._give_back()

    def _is_held(self) -> bool:
        owner = _owner(_lease(self.output, self.shard))
        return owner is not None and owner.run_id == self.run_id

    def _give_back(self) -> None:
        if self._is_held():
            storage.remove(_lease(self.output, self.shard))
        storage.remove(_beat(self.output, self.run_id))

    def _remove_staged(self) -> None:
        """Remove what was ever staged under this lease; for all images, what was staged at all: nobody else may."""
        storage.remove_folder(_staged(self.output, *([] if self.shard == WHOLE else [self.shard.name])))


def take_lease(
    output: str,
    log: Callable[[str], None] = print,
    silence: float = SILENCE_SECONDS,
    shard: Shard = WHOLE,
    work: str = "",
) -> Lease:
    """Become the owner of an output folder, or of a shard of it.

    If owners of rival leases may be alive elsewhere, this waits for their signs of life.

    Args:
        output: the output folder.
        log: prints a line when there is something to wait for.
        silence: seconds without a sign of life after which an owner elsewhere counts as dead.
        shard: what this process does.
        work: what decides on the results; shards are rivals if they differ in it.

    Raises:
        FolderInUseError: the owner of a rival lease is alive; the message says what to do.
        LeaseError: another process took the same lease at the same moment.
        OSError: the store cannot be read or written.
    """
    mine = Owner(uuid4().hex, *_this_machine(), psutil.Process().pid, psutil.Process().create_time(), str(shard), work)
    dead = _rivals(output, mine)
    _refuse_if_one_lives(output, mine, dead, log, silence)
    lease = Lease(storage.absolute(output), mine.run_id, shard)
    storage.write_atomic(_lease(output, shard), json.dumps(asdict(mine)).encode())
    known = {owner.run_id for owner in dead}
    if others := [owner for owner in _rivals(output, mine) if owner.run_id not in known]:
        lease._give_back()
        raise FolderInUseError(_refusal(output, mine, others[0]))
    lease.check()
    for owner in dead:
        Lease(output, owner.run_id, Shard.parse(owner.shard))._give_back()
        storage.remove_folder(_staged(output, Shard.parse(owner.shard).name))
    lease._remove_staged()
    return lease


def _rivals(output: str, mine: Owner) -> list[Owner]:
    """Owners of all leases that may not be held beside this one."""
    try:
        leases = [file.uri for file in listing.list_files(storage.join(output, *_LEASES), (".json",))]
    except FileNotFoundError:  # there are none
        leases = []
    owners = [_owner(uri) for uri in (_lease(output, WHOLE), *leases)]
    return [owner for owner in owners if owner and owner.run_id != mine.run_id and not owner.goes_with(mine)]


def _refuse_if_one_lives(
    output: str, mine: Owner, rivals: list[Owner], log: Callable[[str], None], silence: float
) -> None:
    gone = [owner.is_gone() for owner in rivals]
    if False in gone:
        raise FolderInUseError(_refusal(output, mine, rivals[gone.index(False)]))
    signs = {owner: _sign(output, owner) for owner, is_gone in zip(rivals, gone, strict=True) if is_gone is None}
    if not signs:
        return
    elsewhere = ", ".join(map(_name, signs))
    log(f"{output} was left by a run elsewhere ({elsewhere}); waiting {silence:.0f} s for a sign of life from it")
    deadline = time.monotonic() + silence
    while signs and time.monotonic() < deadline:
        time.sleep(min(2.0, silence / 4))
        for owner, sign in list(signs.items()):
            if _owner(_lease(output, Shard.parse(owner.shard))) != owner:
                del signs[owner]
            elif _sign(output, owner) != sign:
                raise FolderInUseError(_refusal(output, mine, owner))


def _refusal(output: str, mine: Owner, rival: Owner) -> str:
    """Why there is no lease for a call as long as that rival is alive, and what to do."""
    my_shard, shard = Shard.parse(mine.shard), Shard.parse(rival.shard)
    if shard == my_shard:
        what = f"shard {shard} of {output}" if shard != WHOLE else output
        return f"{what} belongs to a run that is at work: {_name(rival)}; wait for it, or stop it"
    if shard == WHOLE:
        return f"{output} belongs to a run without --shard that is at work: {_name(rival)}; wait for it, or stop it"
    if shard.of == my_shard.of:
        return (
            f"shard {shard} of {output} is at work with other settings: {_name(rival)}; give the same settings, or "
            "wait for it, or stop it"
        )
    return (
        f"{output} is being filled in {shard.of} shards, and {shard} is at work: {_name(rival)}; do one that is not, "
        f"--shard I/{shard.of}, or wait for all of them, or stop them"
    )


def _this_machine() -> tuple[str, float]:
    return platform.node(), round(psutil.boot_time())


def _owner(lease: str) -> Owner | None:
    """The owner that a lease's file names; None if there is no such file."""
    try:
        fields = json.loads(storage.read_bytes(lease))
        if "call" in fields:  # the name of `run_id` in versions before 0.2
            fields["run_id"] = fields.pop("call")
        owner = Owner(**fields)
        Shard.parse(owner.shard)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise FolderError(f"{lease} is damaged ({error}); remove it if no run is at work there") from error
    return owner


def _sign(output: str, owner: Owner) -> bytes | None:
    try:
        return storage.read_bytes(_beat(output, owner.run_id))
    except FileNotFoundError:
        return None


def _name(owner: Owner) -> str:
    return f"process {owner.pid} on {owner.host}"


def _lease(output: str, shard: Shard) -> str:
    if shard == WHOLE:
        return storage.join(output, layout.RUN, "lease.json")
    return storage.join(output, *_LEASES, f"{shard.name}.json")


def _beat(output: str, run_id: str) -> str:
    return storage.join(output, layout.RUN, f"alive-{run_id}")


def _staged(output: str, *below: str) -> str:
    return storage.join(output, layout.RUN, "staged", *below)
