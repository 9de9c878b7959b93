"""Limits how often an image that kills its process is tried, and counts how far the run is.

Ray repeats the work of a lost process without limit. So every attempt is entered in an attempt log, outside the
process, before it begins, and removed when it ends. If a table's entry was never removed, its images are tried again
one by one; an image with too many entries that were not removed becomes an error row.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from pipeline import storage
from pipeline.outputs.schema import OK
from pipeline.stages import rows as r
from pipeline.stages.rows import Work

Keep = Callable[[pa.Table], None]
"""Stores the rows of a stage, so that losing the process no longer loses them."""


def drop(_rows: pa.Table) -> None:
    """Keep nothing: the end of a stage that is not the last."""


class WorkerDied(RuntimeError):  # noqa: N818  (the name is the error type users read)
    """The process that worked on an image ended without an exception."""


@dataclass(frozen=True)
class RunProgress:
    """The state of an attempt log.

    Attributes:
        done: images that left each stage, by the stage's name.
        lost: attempts whose process died.
        repeated: requests to a store that had to be sent again.
        idle_seconds: seconds since the last attempt ended.
    """

    done: dict[str, int]
    lost: int
    repeated: int
    idle_seconds: float


class AttemptLog:
    """Attempts that began and have not ended; it has a process to itself."""

    def __init__(self) -> None:
        self._begun: Counter[tuple[str, str]] = Counter()
        self._done: Counter[str] = Counter()
        self._lost = 0
        self._repeated = 0
        self._last = time.monotonic()

    def enter(self, stage: str, key: str) -> int:
        """Note that an attempt begins; returns how many began before and never ended."""
        before = self._begun[stage, key]
        self._begun[stage, key] += 1
        self._lost += before > 0
        return before

    def leave(self, stage: str, key: str, images: int, repeated: int) -> None:
        """Remove the attempts at a key, because one of them ended.

        Args:
            stage: the stage's name.
            key: as for `enter`.
            images: how many images it finished.
            repeated: how many requests to a store it had to send again.
        """
        self._repeated += repeated
        self._begun.pop((stage, key), None)
        self._done[stage] += images
        self._last = time.monotonic()

    def progress(self) -> RunProgress:
        """How far the run is."""
        return RunProgress(dict(self._done), self._lost, self._repeated, time.monotonic() - self._last)


class Attempts(Protocol):
    """An attempt log as a stage sees it, in this process or in another."""

    def enter(self, stage: str, key: str) -> int:
        """See `AttemptLog.enter`."""

    def leave(self, stage: str, key: str, images: int, repeated: int) -> None:
        """See `AttemptLog.leave`."""


def with_attempt_limit(
    table: pa.Table, stage: str, work: Work, attempts: Attempts, max_attempts: int, keep: Keep = drop
) -> pa.Table:
    """Do a stage's work on a table of images; one by one if a process died over this table before.

    An image fails with error type `WorkerDied` when a process has died `max_attempts` times while it worked on this
    image alone. When a process dies over a whole table, no image is blamed for it.

    Args:
        table: the rows.
        stage: the stage's name.
        work: the stage's function.
        attempts: the run's attempt log.
        max_attempts: at least 1.
        keep: gets the result before the attempt counts as ended.

    Returns:
        The rows after the stage.
    """
    key = hashlib.sha256("\n".join(table["image_id"].to_pylist()).encode()).hexdigest()
    if attempts.enter(stage, key) == 0:
        result = work(table)
    else:
        alone = [table.slice(i, 1) for i in range(len(table))]
        result = pa.concat_tables([_alone(one, stage, work, attempts, max_attempts) for one in alone])
    keep(result)
    attempts.leave(stage, key, len(table), storage.retries(reset=True))
    return result


def _alone(one: pa.Table, stage: str, work: Work, attempts: Attempts, max_attempts: int) -> pa.Table:
    (row,) = one.select(["image_id", "status"]).to_pylist()
    if row["status"] != OK:
        return one
    if attempts.enter(stage, row["image_id"]) >= max_attempts:
        (whole,) = one.to_pylist()
        died = WorkerDied(f"the process working on this image alone died {max_attempts} times (a crash, or no memory)")
        r.fail(whole, stage, died)
        result = r.to_table([whole])
    else:
        result = work(one)
    attempts.leave(stage, row["image_id"], 0, 0)
    return result
