"""The write stage: refined rows to mask files, and to staged files of results and errors.

Masks are written by the process that makes them. Rows go to the run's one sink, which gathers them: a file of results
holds many images, and no image waits for long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.config.stages import STAGES
from pipeline.outputs.lease import Lease
from pipeline.outputs.probabilities import probabilities_uri
from pipeline.outputs.schema import FAILED, OK
from pipeline.outputs.writing import write_mask, write_table
from pipeline.stages.rows import WORKING_COLUMNS

LONGEST_WAIT = 60.0
"""Longest time in seconds that a finished image waits for others to share its file of results."""
FIRST_FILES = 16
"""A run fills at least this many files, if it has enough images, so that the first results are in place early."""
FILE_BYTES = 16 * 2**20
"""A file of results has fewer rows than it may have where their masks are large, since readers hold several files."""
SHOWN_FAILURES = 3
FILES_AT_ONCE = 16  # on S3, writing a file is mostly waiting

Counts = dict[str, Any]
"""Description of staged rows: `parts` to commit, `ok`, `failed`, `skipped`, `requests_repeated`, `failures` (the last
images that failed, and why), and for each stage `rows_<stage>` and `seconds_<stage>`: the rows that entered it and the
time they took."""


def rows_in_a_file(images: int, rows_per_file: int) -> int:
    """How many images go into one file of results, in a run of `images` images."""
    return max(1, min(rows_per_file, images // FIRST_FILES))


def write_files(table: pa.Table, lease: Lease, *, masks: bool) -> None:
    """Write the good rows' masks as PNG files, if asked for, and the probabilities to be saved, in place.

    The rows follow later, so every image in the results has its files.

    Args:
        table: rows after the refine stage.
        lease: the right to the output.
        masks: whether to write masks.

    Raises:
        LeaseError: another run took the output over; it may be making other masks.
        OSError: the output cannot be written, which is not an image's fault.
    """
    good = table.select(["image_id", "mask", "saved_probabilities"]).filter(pc.equal(table["status"], OK)).to_pylist()
    work = [partial(write_mask, lease.output, row["image_id"], row["mask"]) for row in good if masks]
    for row in good:
        if row["saved_probabilities"] is not None:
            uri = probabilities_uri(lease.output, row["image_id"])
            work.append(partial(storage.write_atomic, uri, row["saved_probabilities"]))
    if not work:
        return
    lease.check()
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        list(pool.map(lambda write: write(), work))


def keep_results(table: pa.Table, lease: Lease, add: Callable[[pa.Table], None], *, masks: bool) -> None:
    """The end of the stages for some images: write their masks, then hand their rows to the sink.

    Args:
        table: rows after the refine stage.
        lease: the right to the output.
        add: `Sink.add`, here or in another process.
        masks: whether to write masks.
    """
    write_files(table, lease, masks=masks)
    add(table.drop_columns(WORKING_COLUMNS.names))


class Sink:
    """Gathers rows and stages them as files; several threads may call it.

    When Ray repeats the work of a lost process, the same rows come twice; the first ones count.

    Args:
        lease: its staging folder gets the files; they are in place only when the driver has committed them.
        class_names: background first.
        rows_per_file: a file is staged when this many rows wait, or fewer that fill `FILE_BYTES`.
        longest_wait: seconds after which a file is staged with fewer rows.
    """

    def __init__(
        self, lease: Lease, class_names: tuple[str, ...], rows_per_file: int, longest_wait: float = LONGEST_WAIT
    ) -> None:
        self._lease, self._class_names = lease, class_names
        self._rows_per_file, self._longest_wait = rows_per_file, longest_wait
        self._lock = threading.Lock()
        self._known: set[int] = set()
        self._waiting: list[pa.Table] = []
        self._rows = self._bytes = 0  # of them
        self._oldest = 0.0  # when the first of the waiting rows came
        self._staged: list[Counts] = []

    def add(self, table: pa.Table) -> None:
        """Take rows; returns when they are held here, or, if they fill a file, when that is staged.

        Args:
            table: with the columns of `ALL_SCHEMAS`.

        Raises:
            OSError: the output cannot be written.
        """
        with self._lock:
            if not self._rows:
                self._oldest = time.monotonic()
            fresh = [self._is_new(image_id) for image_id in table["image_id"].to_pylist()]
            self._hold(table if all(fresh) else table.filter(pa.array(fresh, pa.bool_())))
        self._stage()

    def collect(self, *, flush: bool = False) -> list[Counts]:
        """Return what was staged since the last call, after staging rows that waited too long, or, with `flush`, all.

        Raises:
            OSError: the output cannot be written.
        """
        with self._lock:
            late = self._rows > 0 and time.monotonic() - self._oldest >= self._longest_wait
        self._stage(flush=flush or late)
        with self._lock:
            staged, self._staged = self._staged, []
        return staged

    def _stage(self, *, flush: bool = False) -> None:
        """Stage files while enough rows for one wait, or, with `flush`, any; other threads may add rows meanwhile."""
        while True:
            with self._lock:
                enough = max(1, min(self._rows_per_file, FILE_BYTES * self._rows // max(self._bytes, 1)))
                if self._rows < (1 if flush else enough):
                    return
                waiting = pa.concat_tables(self._waiting)
                part = waiting.slice(0, enough)
                self._waiting, self._rows, self._bytes = [], 0, 0
                self._hold(waiting.slice(enough))
            try:
                counts = stage_rows(part, self._lease, self._class_names)
            except BaseException:
                with self._lock:
                    self._hold(part, first=True)
                raise
            with self._lock:
                self._staged.append(counts)

    def _is_new(self, image_id: str) -> bool:
        key = hash(image_id)
        known = key in self._known
        self._known.add(key)
        return not known

    def _hold(self, table: pa.Table, *, first: bool = False) -> None:
        if len(table):
            self._waiting.insert(0 if first else len(self._waiting), table)
            self._rows += len(table)
            self._bytes += table.nbytes


def stage_rows(table: pa.Table, lease: Lease, class_names: tuple[str, ...]) -> Counts:
    """Stage rows as one file per status.

    Args:
        table: one row for each image, with the columns of `ALL_SCHEMAS`.
        lease: its staging folder gets the files.
        class_names: background first.

    Returns:
        The description of the files.

    Raises:
        OSError: they cannot be written.
    """
    written = write_table(lease.staged, table, class_names)
    counts: Counts = written._asdict() | {"requests_repeated": storage.retries(reset=True)}
    for stage in (stage.name for stage in STAGES):
        seconds = table[f"seconds_{stage}"]
        total = pc.sum(seconds, min_count=0).as_py()
        counts |= {f"rows_{stage}": len(seconds) - seconds.null_count, f"seconds_{stage}": total}
    failed = table.filter(pc.equal(table["status"], FAILED))
    last = failed.slice(max(0, len(failed) - SHOWN_FAILURES)).to_pylist()
    return counts | {"failures": [f"{row['image_id']}, {row['error_stage']}: {row['error_message']}" for row in last]}
