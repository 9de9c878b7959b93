"""Images in Parquet files: a column of bytes, or a struct with a field `bytes`, as Hugging Face writes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from threading import BoundedSemaphore
from typing import NamedTuple
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ManifestError
from pipeline.storage.range_file import RangeFile

ENDING = ".parquet"
USUAL = "image"
"""The column that is meant where several hold bytes."""

MARK = "#column="
"""In the address of every image in a Parquet file, and hardly of others."""

_BYTES = "bytes"  # of the struct
_ADDRESS = re.compile(r"(.+\.parquet)#column=([^#&]+)&group=(\d+)&row=(\d+)", re.IGNORECASE | re.DOTALL)
_ROWS_A_BATCH = 16  # that are held at a time
_reading = BoundedSemaphore(2)  # a row group's images are in memory while some are picked


class ImageColumn(NamedTuple):
    """A column that holds images."""

    name: str
    path: str
    """Of the leaf with the bytes: `photo`, or `image.bytes`."""
    beside: tuple[pa.Field, ...]
    """The struct's other fields."""


class Group(NamedTuple):
    """A row group of a Parquet file, and the column that holds its images."""

    file: str
    column: str
    """`ImageColumn.path`."""
    number: int


class Place(NamedTuple):
    """Where an image lies in a Parquet file."""

    group: Group
    row: int
    """In the row group."""


def place_of(uri: str) -> Place | None:
    """The place that an address of `addresses` names; None for any other address."""
    found = _ADDRESS.fullmatch(uri)
    return Place(Group(found[1], unquote(found[2]), int(found[3])), int(found[4])) if found else None


def addresses(group: Group, rows: range) -> list[str]:
    """The addresses of the images in some rows of a row group."""
    beginning = f"{group.file}{MARK}{quote(group.column, safe='')}&group={group.number}&row="
    return [f"{beginning}{row}" for row in rows]


def open_file(uri: str) -> pq.ParquetFile:
    """A Parquet file of which only those parts are read that are asked for; for one thread.

    Raises:
        OSError: it cannot be read.
        pa.ArrowException: it is damaged, or no Parquet file.
    """
    return pq.ParquetFile(RangeFile(uri))


def image_column(uri: str, schema: pa.Schema) -> ImageColumn | None:
    """The column that holds images; None if no column holds bytes.

    Args:
        uri: the file, for messages.
        schema: its schema.

    Raises:
        ManifestError: several columns hold bytes, and none is called `image`.
    """
    found = {field.name: column for field in schema if (column := _column_of(field)) is not None}
    if len(found) > 1 and USUAL not in found:
        raise ManifestError(f"{uri} has bytes in the columns {', '.join(found)}; call the one with the images {USUAL}")
    return found.get(USUAL, next(iter(found.values()), None))


def _column_of(field: pa.Field) -> ImageColumn | None:
    if _is_bytes(field.type):
        return ImageColumn(field.name, field.name, ())
    if not pa.types.is_struct(field.type):
        return None
    inner = [field.type.field(number) for number in range(field.type.num_fields)]
    if not any(one.name == _BYTES and _is_bytes(one.type) for one in inner):
        return None
    return ImageColumn(field.name, f"{field.name}.{_BYTES}", tuple(one for one in inner if one.name != _BYTES))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def read(group: Group, rows: Sequence[int]) -> list[bytes | None]:
    """The images in some rows of a row group, which is read once, and no other part of the file but its end.

    Returns:
        Bytes for each row, in the order of `rows`; None where the row has none.

    Raises:
        OSError: the file cannot be read, is damaged, or has changed since its images were listed.
    """
    try:
        with _reading:
            found = _picked(group, set(rows))
        return [found[row] for row in rows]
    except (pa.ArrowException, OSError, IndexError, KeyError) as error:
        if group.file in str(error):  # a store's, unlike Arrow's
            raise
        raise OSError(f"{group.file}: row group {group.number} is damaged, or the file was changed meanwhile "
                      f"({error})") from error  # fmt: skip


def _picked(group: Group, rows: set[int]) -> dict[int, bytes | None]:
    file = open_file(group.file)
    if group.number >= file.metadata.num_row_groups:
        raise IndexError("it is not there")
    found: dict[int, bytes | None] = {}
    first = 0
    batches = file.iter_batches(_ROWS_A_BATCH, row_groups=[group.number], columns=[group.column], use_threads=False)
    for batch in batches:
        column = batch.column(0)
        for row in rows.intersection(range(first, first + batch.num_rows)):
            value = column[row - first].as_py()
            found[row] = value.get(_BYTES) if isinstance(value, dict) else value
        first += batch.num_rows
        if len(found) == len(rows):
            break
    return found
