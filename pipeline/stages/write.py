"""The write stage: rows to staged files of results and errors, and masks."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.outputs.lease import Lease
from pipeline.outputs.probabilities import probabilities_uri
from pipeline.outputs.results import OK, write_mask, write_rows
from pipeline.stages import rows as r


def write_stage(table: pa.Table, lease: Lease, class_names: tuple[str, ...], *, masks: bool) -> pa.Table:
    """Stage the rows as files of results and errors, write masks as PNG files if asked; return one row of counts.

    The files are in their place only when the driver has committed them (`Lease.commit`). An output that cannot be
    written is no fault of an image: the exception ends the run, which can be resumed.

    Returns:
        `parts` to commit, `ok`, `failed`, `requests_repeated`, and for each stage `rows_<stage>` and
        `seconds_<stage>`: rows that entered it, time they took.

    Raises:
        LeaseError: another run took the output over; it may be making other masks.
    """
    rows = table.to_pylist()
    good = [row for row in rows if row["status"] == OK]
    saved = [row for row in good if row["saved_probabilities"] is not None]
    if masks or saved:  # before the rows: an image in the results has its files
        lease.check()
    for row in good if masks else []:
        write_mask(lease.output, row["image_id"], row["mask"])
    for row in saved:
        storage.write_atomic(probabilities_uri(lease.output, row["image_id"]), row["saved_probabilities"])
    written = write_rows(lease.staged, rows, class_names)
    counts: dict[str, Any] = written._asdict() | {"requests_repeated": storage.retries(reset=True)}
    for stage in r.STAGES:
        seconds = table[f"seconds_{stage}"]
        counts[f"rows_{stage}"] = len(seconds) - seconds.null_count
        counts[f"seconds_{stage}"] = pc.sum(seconds).as_py() or 0.0
    return pa.Table.from_pylist([counts])
