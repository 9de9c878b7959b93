"""The row that travels through the stages: one row is one image, from manifest to mask.

Every stage takes and returns tables of one schema. Arrays are stored as raw bytes next to their shape: so Arrow never
has to infer a type, whatever the shapes and failures in a block, and nothing falls back to pickle. A column that is no
longer needed is set to None, which costs nothing. Arrays are not copied on their way through a stage: a row shows those
of the table that it comes from, and a column that the stage leaves alone is passed on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from operator import is_, itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from pipeline.outputs.schema import ALL_SCHEMAS, FAILED, OK, SKIPPED
from pipeline.storage import StoreAwayError

Row = dict[str, Any]
Work = Callable[[pa.Table], pa.Table]
"""The function of a stage, from a table of rows to one."""

TOGETHER, TOGETHER_BYTES = 8, 2**27
"""Images that are worked on together at most, and bytes of float32 score maps that they have at most. A GPU keeps the
score maps of all their windows, too: 1.7 GB of eight images with 50 windows and 21 classes."""

WORKING_COLUMNS = pa.schema(
    [
        ("image", pa.large_binary()),  # RGB uint8 [work_height, work_width, 3]
        ("work_height", pa.int32()),
        ("work_width", pa.int32()),
        ("boxes", pa.large_binary()),  # float32 [num_proposals, 4], extended
        ("class_ids", pa.large_binary()),  # int64 [K], the classes that can still win
        ("probabilities", pa.large_binary()),  # float16 [K, work_height, work_width]
        ("log_probabilities", pa.large_binary()),  # float32 [K, work_height, work_width], if needed
        ("saved_probabilities", pa.large_binary()),  # a file for tuning the CRF, if asked for
    ]
)

ROW_SCHEMA = pa.unify_schemas([ALL_SCHEMAS, WORKING_COLUMNS]).remove_metadata()
"""All columns of results, errors, skipped images and the stages in between."""


def pack(array: NDArray[Any]) -> bytes:
    """An array's raw bytes, for a binary column."""
    return array.tobytes()


def unpack(data: bytes | memoryview, dtype: DTypeLike, *shape: int) -> NDArray[Any]:
    """The read-only array whose bytes `pack` returned; one dimension of `shape` may be -1."""
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def image_of(row: Row) -> NDArray[np.uint8]:
    """The row's working image, RGB uint8 `[H, W, 3]`."""
    return unpack(row["image"], np.uint8, row["work_height"], row["work_width"], 3)


def boxes_of(row: Row) -> NDArray[np.float32]:
    """The row's proposals, float32 `[N, 4]`, in pixels of the working image."""
    return unpack(row["boxes"], np.float32, -1, 4)


def start_rows(manifest: pa.Table) -> pa.Table:
    """Rows to work on, from a manifest: `image_id`, `uri` and, where there are other columns, `manifest`."""
    columns = {name: pa.nulls(len(manifest), field.type) for name, field in _fields()}
    columns |= {name: manifest[name] for name in manifest.column_names}
    columns |= {"status": pa.array([OK] * len(manifest), pa.string())}
    return pa.table(columns, schema=ROW_SCHEMA)


def run_rows(table: pa.Table, stage: str, work: Callable[[Row], None]) -> pa.Table:
    """Apply `work` to each row that is still `ok`, in place; a row that raises becomes an error row.

    One bad image must not end a run of millions. Only if the store is out of reach, which is not the row's fault, the
    exception is raised. Each row's `seconds_<stage>` is set.

    Args:
        table: the rows.
        stage: the stage's name.
        work: changes one row in place.

    Returns:
        The rows after the stage.

    Raises:
        StoreAwayError: from `work`.
    """
    columns = _columns(table)
    rows = _rows(columns)
    for row in rows:
        if row["status"] == OK:
            timed(row, stage, work)
    return _changed(table, columns, rows)


def run_together(table: pa.Table, stage: str, work: Callable[[list[Row]], list[Row]], num_classes: int) -> pa.Table:
    """Work on many rows that are still `ok` at once; if that raises, one by one, so that only bad ones fail.

    As many go together as `TOGETHER` and `TOGETHER_BYTES` allow, whatever the table's size.

    Args:
        table: the rows; each that succeeds gets its share of the time as `seconds_<stage>`.
        stage: the stage's name.
        work: returns the columns to set in each row, and does not change the rows.
        num_classes: background included.
    """
    columns = _columns(table)
    rows = _rows(columns)
    for good in _that_fit([row for row in rows if row["status"] == OK], num_classes):
        _work_together(good, stage, work)
    return _changed(table, columns, rows)


def _that_fit(rows: list[Row], num_classes: int) -> Iterator[list[Row]]:
    """Rows in groups of at least one, see `run_together`."""
    group: list[Row] = []
    total = 0
    for row in rows:
        size = 4 * num_classes * row["work_height"] * row["work_width"]
        if len(group) == TOGETHER or (group and total + size > TOGETHER_BYTES):
            yield group
            group, total = [], 0
        group.append(row)
        total += size
    if group:
        yield group


def _work_together(good: list[Row], stage: str, work: Callable[[list[Row]], list[Row]]) -> None:
    """Work on rows, which are changed in place, at once or one by one; see `run_together`."""
    started = time.perf_counter()
    try:
        changes = work(good)
    except Exception:
        for row in good:
            timed(row, stage, lambda one: one.update(work([one])[0]))
    else:
        seconds = time.perf_counter() - started
        for row, change in zip(good, changes, strict=True):
            row.update(change)
            row[f"seconds_{stage}"] = seconds / len(good)


def timed(row: Row, stage: str, work: Callable[[Row], None]) -> None:
    """Run one stage's work on one row, set its seconds, and turn an exception into an error row.

    Args:
        row: changed in place.
        stage: the stage's name.
        work: changes the row in place.

    Raises:
        StoreAwayError: from `work`; otherwise many good images would become error rows.
    """
    started = time.perf_counter()
    try:
        work(row)
    except StoreAwayError:
        raise
    except Exception as error:
        fail(row, stage, error)
    row[f"seconds_{stage}"] = time.perf_counter() - started


def fail(row: Row, stage: str, error: Exception) -> None:
    """Turn a row into an error row: it says what failed and where, and holds no arrays any more.

    Args:
        row: changed in place.
        stage: the stage that failed.
        error: its message is cut to 2,000 characters.
    """
    kind = getattr(error, "kind", None)
    row |= dict.fromkeys(WORKING_COLUMNS.names)
    row |= {
        "status": FAILED,
        "mask": None,
        "error_stage": stage,
        "error_type": str(kind) if kind else type(error).__name__,
        "error_message": str(error)[:2000],
    }


def skip(row: Row, stage: str, reason: str) -> None:
    """Leave an image out on purpose: later stages pass its row on, and it counts neither as segmented nor as failed.

    Args:
        row: changed in place.
        stage: the stage that leaves it out.
        reason: for people, with the setting that asked for it; cut to 2,000 characters.
    """
    row |= dict.fromkeys(WORKING_COLUMNS.names)
    row |= {"status": SKIPPED, "mask": None, "skip_stage": stage, "skip_reason": reason[:2000]}


def to_table(rows: list[Row]) -> pa.Table:
    """Rows as a table of `ROW_SCHEMA`."""
    return pa.Table.from_pylist(rows, schema=ROW_SCHEMA)


def _columns(table: pa.Table) -> dict[str, Sequence[Any]]:
    """The values of each column; of arrays views into the table."""
    return {name: _values(table[name]) for name in table.column_names}


def _values(column: pa.ChunkedArray) -> Sequence[Any]:
    if column.null_count == len(column):
        return [None] * len(column)
    if pa.types.is_large_binary(column.type):
        return [view for chunk in column.chunks for view in _views(chunk)]
    values: list[Any] = column.to_pylist()
    return values


def _views(binaries: pa.LargeBinaryArray) -> list[memoryview | None]:
    """The values without a copy, which Arrow's own scalars would be."""
    _, places, data = binaries.buffers()
    starts = np.frombuffer(places, np.int64)[binaries.offset : binaries.offset + len(binaries) + 1].tolist()
    whole = memoryview(data if data is not None else b"")
    ends = zip(starts[:-1], starts[1:], binaries.is_valid().to_pylist(), strict=True)
    return [whole[start:end] if valid else None for start, end, valid in ends]


def _rows(columns: dict[str, Sequence[Any]]) -> list[Row]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _changed(table: pa.Table, columns: dict[str, Sequence[Any]], rows: list[Row]) -> pa.Table:
    """A table after its rows were changed in place; the columns whose values are all the same objects are its own."""
    changed = {}
    for name, field in _fields():
        values = list(map(itemgetter(name), rows))
        same = all(map(is_, values, columns[name]))
        changed[name] = table[name] if same else pa.array(values, field.type)
    return pa.table(changed, schema=ROW_SCHEMA)


def _fields() -> list[tuple[str, pa.Field]]:
    return [(field.name, field) for field in ROW_SCHEMA]
