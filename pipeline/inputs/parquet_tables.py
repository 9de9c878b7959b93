"""Manifests in Parquet: rows that name images, and rows that hold them (`parquet_images`), whose bytes are not read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.inputs import parquet_images
from pipeline.inputs.carried import as_json, count_lost
from pipeline.inputs.entries import OURS, Entries, chosen

_ROWS_A_BATCH = 10_000  # columns may be large
_OF_A_RUN = ["image_id", "uri", "manifest"]
"""Columns of a run's own manifest: the last holds others already."""
_UNSAYABLE = (
    pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary,
    pa.types.is_duration, pa.types.is_interval,
)  # fmt: skip


def read_entries(uri: str, name: str, lost: Counter[str]) -> Iterator[Entries]:
    """Yield the rows of a file, some thousands at a time.

    Args:
        uri: the file. If it has no column `uri` but one with bytes, its rows are images.
        name: of the file in the input. Images in rows that have no `image_id` are called `NAME/ROW`, counted from 0.
        lost: counts values of other columns that are not carried, by column; existing counts are added to.

    Raises:
        ManifestError: a column is missing, or it is unclear which one holds the images.
        OSError: it cannot be read.
        pa.ArrowException: it is damaged.
    """
    file = parquet_images.open_file(uri)
    names = file.schema_arrow.names
    column = None if "uri" in names else parquet_images.image_column(uri, file.schema_arrow)
    if column is not None and names.count("image_id") <= 1:
        yield from _rows_with_images(file, uri, name, column, lost)
    else:
        yield from _rows_with_addresses(uri, lost)


def _rows_with_addresses(uri: str, lost: Counter[str]) -> Iterator[Entries]:
    file = pq.ParquetFile(pa.BufferReader(storage.read_bytes(uri)))
    names = file.schema_arrow.names
    wanted = chosen(uri, names)
    others = _carried_columns(file, OURS, lost)
    of_a_run = names == _OF_A_RUN and bool(others)
    first = 1
    for batch in file.iter_batches(columns=[*wanted, *others], batch_size=_ROWS_A_BATCH, use_threads=False):
        columns = {name: batch[name].cast(pa.string()).to_pylist() for name in wanted}
        if of_a_run:
            texts = [_carried_before(value, lost) for value in batch["manifest"].to_pylist()]
        else:
            texts = _texts(batch, others, lost)
        yield Entries(uri, first, columns["uri"], columns.get("image_id"), texts)
        first += batch.num_rows


def _rows_with_images(
    file: pq.ParquetFile, uri: str, name: str, column: parquet_images.ImageColumn, lost: Counter[str]
) -> Iterator[Entries]:
    named = "image_id" in file.schema_arrow.names
    others = _carried_columns(file, ("image_id", column.name), lost)
    beside = [f"{column.name}.{field.name}" for field in column.beside if _sayable(field.type)]
    wanted = [*(["image_id"] if named else []), *others, *beside]
    carried = [*others, *([column.name] if beside else [])]
    first = 0
    for number in range(file.metadata.num_row_groups):
        group, start = parquet_images.Group(storage.absolute(uri), column.path, number), first
        for batch in file.iter_batches(_ROWS_A_BATCH, row_groups=[number], columns=wanted, use_threads=False):
            rows = range(first, first + batch.num_rows)
            ids = batch["image_id"].cast(pa.string()).to_pylist() if named else [f"{name}/{row:08}" for row in rows]
            addresses = parquet_images.addresses(group, range(rows.start - start, rows.stop - start))
            yield Entries(uri, first + 1, addresses, ids, _texts(batch, carried, lost))
            first = rows.stop


def _carried_columns(file: pq.ParquetFile, besides: Collection[str], lost: Counter[str]) -> list[str]:
    """The other columns whose values JSON can say; of several with one name the first."""
    schema = file.schema_arrow
    others = list(dict.fromkeys(field.name for field in schema if field.name and field.name not in besides))
    sayable = [name for name in others if _sayable(schema.field(schema.names.index(name)).type)]
    for name in others:
        if name not in sayable and file.metadata.num_rows:
            count_lost(lost, name, file.metadata.num_rows)
    return sayable


def _texts(batch: pa.RecordBatch, names: Sequence[str], lost: Counter[str]) -> list[str | None]:
    """The values of some columns as one JSON object a row."""
    carried = {name: _values(batch.column(batch.schema.names.index(name)), name, lost) for name in names}
    rows = zip(*carried.values(), strict=True) if carried else [()] * batch.num_rows
    return [as_json(dict(zip(carried, row, strict=True)), lost) for row in rows]


def _carried_before(value: Any, lost: Counter[str]) -> str | None:
    """What an image of a run's own manifest carries, so that a run of the same images carries the same."""
    if value is None:
        return None
    try:
        values = json.loads(value)
    except (TypeError, ValueError, RecursionError):
        values = None
    return as_json(values if isinstance(values, dict) else {"manifest": value}, lost)


def _sayable(kind: pa.DataType) -> bool:
    """Whether JSON can say values of this type: all but bytes and spans of time, also inside of lists and the like."""
    if kind.num_fields:
        return all(_sayable(kind.field(number).type) for number in range(kind.num_fields))
    return not any(is_one(kind) for is_one in _UNSAYABLE)


def _values(column: pa.Array, name: str, lost: Counter[str]) -> list[Any]:
    """The values of a column; times to the microsecond, which is all that Python's have."""
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_time64(kind):
        exact = pa.timestamp("us", kind.tz) if pa.types.is_timestamp(kind) else pa.time64("us")
        column = column.cast(exact, safe=False)
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):  # beyond Python's years
        count_lost(lost, name, len(column) - column.null_count)
        return [None] * len(column)
    return values
