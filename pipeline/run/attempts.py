"""What stops an image that kills its process from being tried for ever, and tells how far the run is.

Ray runs the work of a lost process again, as often as it takes. So every attempt is entered in an attempt log, outside
the process, before it begins, and crossed out when it ends. A table of images whose attempt was never crossed out is
tried again image by image; an image that was entered and not crossed out too often becomes an error row.
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
"""What makes rows safe."""


class WorkerDied(RuntimeError):  # noqa: N818  (the name is the error type users read)
    """The process that worked on an image ended without a word."""


@dataclass(frozen=True)
class RunProgress:
    """What an attempt log knows.

    Attributes:
        done: images that left each stage in this call.
        lost: attempts whose process died.
        repeated: requests to a store that had to be sent again.
        idle_seconds: since an attempt ended.
    """

    done: dict[str, int]
    lost: int
    repeated: int
    idle_seconds: float


class AttemptLog:
    """Attempts that began and have not ended; lives in one process of its own."""

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
        """Cross the attempts out: one of them ended, with so many images done and requests repeated."""
        self._repeated += repeated
        self._begun.pop((stage, key), None)
        self._done[stage] += images
        self._last = time.monotonic()

    def progress(self) -> RunProgress:
        """How far the run is."""
        return RunProgress(dict(self._done), self._lost, self._repeated, time.monotonic() - self._last)


class Attempts(Protocol):
    """an attempt log as a stage sees it, wherever it lives."""

    def enter(self, stage: str, key: str) -> int:
        """See `AttemptLog.enter`."""

    def leave(self, stage: str, key: str, images: int, repeated: int) -> None:
        """See `AttemptLog.leave`."""


def with_attempt_limit(
    table: pa.Table, stage: str, work: Work, attempts: Attempts, max_attempts: int, keep: Keep = lambda _: None
) -> pa.Table:
    """Do a stage's work on a table of images, one by one where the process died over them before.

    An image over which the process died `max_attempts` times while it was worked on alone is failed, with error type
    `WorkerDied`; the death of a whole table's process says of no image that it was to blame. `keep` gets what came
    out before the attempt counts as ended.
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
