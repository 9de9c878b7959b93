"""How a run's rows and masks are written; `outputs.results` names the files and reads them.

Files appear whole or not at all, and writing the same images again gives the same names.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.outputs import layout
from pipeline.outputs.schema import ALL_SCHEMAS, CLASS_NAMES, FAILED, FOLDER_OF, OK, SCHEMAS, SKIPPED

_SAMPLE = 5


class Written(NamedTuple):
    """The outcome of `write_table`: numbers of rows by status, and the files' paths below the output folder."""

    ok: int
    failed: int
    skipped: int
    parts: tuple[str, ...]


def write_rows(output_uri: str, rows: Sequence[dict[str, Any]], class_names: Sequence[str]) -> Written:
    """`write_table` of rows with the fields of its schemas; missing ones become null, others are ignored."""
    columns = [pa.array([row.get(field.name) for row in rows], field.type, from_pandas=True) for field in ALL_SCHEMAS]
    return write_table(output_uri, pa.table(columns, schema=ALL_SCHEMAS), class_names)


def write_table(output_uri: str, table: pa.Table, class_names: Sequence[str]) -> Written:
    """Write rows to one file of results, one of errors and one of skipped images; a file without rows is not written.

    Args:
        output_uri: the output folder.
        table: one row for each image, with the columns of `ALL_SCHEMAS`; others are ignored. NaN is written as null.
        class_names: background first.

    Raises:
        ValueError: an image id is missing or occurs twice, a status is unknown, or an ok row's per-class lists do not
            fit the classes.
        OSError: a file cannot be written.
    """
    ids = table["image_id"].to_pylist()
    if len(set(ids)) != len(ids) or None in ids:
        twice = [str(image_id) for image_id, count in Counter(ids).items() if count > 1 or image_id is None]
        raise ValueError(f"image ids {', '.join(twice[:_SAMPLE])} are missing or occur twice in one batch of rows")
    statuses = table["status"].unique().to_pylist()
    if unknown := {str(status) for status in statuses} - FOLDER_OF.keys():
        raise ValueError(f"rows have the status {', '.join(sorted(unknown))}; there is {', '.join(FOLDER_OF)}")
    by_status = {status: _with_status(table, status, statuses) for status in FOLDER_OF}
    _check_lists(by_status[OK], len(class_names))
    # One name for the whole batch, so that a retry in which other images fail replaces the files of the first attempt.
    name = f"part-{hashlib.sha256(chr(10).join(sorted(ids)).encode()).hexdigest()[:32]}.parquet"
    metadata = {CLASS_NAMES: json.dumps(list(class_names)).encode()}
    parts = []
    for status, part in by_status.items():
        if len(part):
            folder = FOLDER_OF[status]
            columns = [_without_nan(part[field.name]) for field in SCHEMAS[folder]]
            of_folder = pa.table(columns, schema=SCHEMAS[folder].with_metadata(metadata))
            storage.write_parquet(storage.join(output_uri, folder, name), of_folder)
            parts.append(f"{folder}/{name}")
    return Written(len(by_status[OK]), len(by_status[FAILED]), len(by_status[SKIPPED]), tuple(parts))


def _with_status(table: pa.Table, status: str, statuses: Sequence[str]) -> pa.Table:
    """The rows with a status; `statuses` are those of all rows, usually one, and then nothing is copied."""
    if status not in statuses:
        return table.slice(0, 0)
    return table if len(statuses) == 1 else table.filter(pc.equal(table["status"], status))


def _check_lists(good: pa.Table, classes: int) -> None:
    """See `write_table`; `good` are the ok rows."""
    for column in ("pixel_counts", "mean_probability"):
        fits = pc.fill_null(pc.equal(pc.list_value_length(good[column]), classes), False)
        if not pc.all(fits, min_count=0).as_py():
            first = good["image_id"].filter(pc.invert(fits))[0].as_py()
            raise ValueError(f"{first}: pixel_counts and mean_probability need {classes} values")


def _without_nan(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    values = pc.list_flatten(column) if pa.types.is_list(column.type) else column
    if pa.types.is_floating(values.type) and pc.any(pc.is_nan(values)).as_py():
        return pa.array(column.to_pylist(), column.type, from_pandas=True)
    return column


def write_mask(output_uri: str, image_id: str, png: bytes) -> None:
    """Write an image's mask file, see `layout.mask_path`.

    Args:
        output_uri: the output folder.
        image_id: from a manifest.
        png: the file's bytes.

    Raises:
        OSError: it cannot be written.
    """
    storage.write_atomic(storage.join(output_uri, layout.mask_path(image_id)), png)
