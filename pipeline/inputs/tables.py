"""Manifests in common formats: CSV, TSV, JSON Lines and Parquet, one file or a folder of parts."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import ManifestError
from pipeline.imaging.images import SUPPORTED
from pipeline.inputs.carried import as_json, count_lost
from pipeline.storage import listing

ENDINGS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
_ROWS_A_CHUNK = 100_000
_ROWS_A_BATCH = 10_000  # of Parquet, whose columns may be large
_OURS = ("uri", "image_id")
_OF_A_RUN = ["image_id", "uri", "manifest"]
"""Columns of a run's own manifest: the last holds others already."""
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UNSAYABLE = (
    pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary,
    pa.types.is_duration, pa.types.is_interval,
)  # fmt: skip


class Entries(NamedTuple):
    """Some rows of a manifest."""

    where: str
    """The file that they are in."""
    first: int
    """Number of the first of them in the file, from 1."""
    uris: list[str | None]
    image_ids: list[str | None] | None
    """None if the file has no such column."""
    others: list[str | None]
    """The other columns of each row as a JSON object (`carried.as_json`); None if there are none."""


Rows = Iterator[tuple[list[str | None], str | None]]
"""The uri and, if there is one, the image_id of each row, and its other columns as JSON."""


def read_entries(uri: str, lost: Counter[str]) -> Iterator[Entries]:
    """Yield the rows of a manifest, some thousands at a time.

    Args:
        uri: a file with one of `ENDINGS`, or a folder of such files, as Spark and Ray write them. It has one column
            `uri` and at most one `image_id`. Of other columns with the same name, the first counts; those without a
            name are ignored.
        lost: counts values of other columns that are not carried, by column; existing counts are added to.

    Raises:
        ManifestError: the format is not what the extension says, or a column is missing.
        OSError: the file cannot be read.
        pa.ArrowException: the Parquet data are damaged.
    """
    for part in _parts(uri):
        data = storage.read_bytes(part)
        suffix = part.lower().rpartition(".")[2]
        if suffix == "parquet":
            yield from _parquet(part, data, lost)
        elif suffix in ("jsonl", "ndjson"):
            yield from _chunks(part, _json_rows(part, _text(part, data), lost))
        else:
            yield from _chunks(part, _csv_rows(part, _text(part, data), suffix, lost))


def _parts(uri: str) -> list[str]:
    if not storage.is_folder(uri):
        return [uri]
    endings = tuple(ending for ending in ENDINGS if uri.rstrip("/").lower().endswith(ending)) or (".parquet",)
    parts = [file.uri for file in listing.list_files(uri, endings, hidden=(".", "_"))]
    if not parts:
        raise ManifestError(f"manifest {uri} is a folder without files ending in {endings[0]}")
    return parts


def _text(uri: str, data: bytes) -> str:
    encoding = "UTF-16" if data.startswith(_UTF16) else "UTF-8"
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n")
        raise ManifestError(f"manifest {uri}, row {max(row, 1)}: no {encoding} text ({error.reason}); "
                         "save it as UTF-8") from None  # fmt: skip
    if "\0" in text:
        raise ManifestError(f"manifest {uri} is no text, or UTF-16 without a byte order mark; save it as UTF-8")
    return text


def _chosen(uri: str, names: list[str]) -> list[str]:
    if not any(names):
        raise ManifestError(f"manifest {uri} is empty; it needs a column uri")
    if names.count("uri") != 1 or names.count("image_id") > 1:
        raise ManifestError(f"manifest {uri} needs one column uri and at most one image_id; its columns are "
                         f"{', '.join(names)}")  # fmt: skip
    return list(_OURS) if "image_id" in names else ["uri"]


def _chunks(where: str, rows: Rows) -> Iterator[Entries]:
    first, chunk = 1, list[tuple[list[str | None], str | None]]()
    for row in rows:
        chunk.append(row)
        if len(chunk) == _ROWS_A_CHUNK:
            yield _entries(where, first, chunk)
            first, chunk = first + len(chunk), []
    if chunk:
        yield _entries(where, first, chunk)


def _entries(where: str, first: int, rows: list[tuple[list[str | None], str | None]]) -> Entries:
    uris, *ids = zip(*(chosen for chosen, _ in rows), strict=True)
    return Entries(where, first, list(uris), list(ids[0]) if ids else None, [others for _, others in rows])


def _csv_rows(uri: str, text: str, suffix: str, lost: Counter[str]) -> Rows:
    text = re.sub(r"^\s*\n", "", text)  # blank lines above the header
    header = text.partition("\n")[0]
    separator = "\t" if suffix == "tsv" else max(",;\t", key=header.count)
    blanks = f"{separator} " in header  # a header with spaces after the separators means that all rows have them
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=blanks)
    number = 0
    try:
        names = [name.strip() for name in next(reader, [])]
        columns = [names.index(name) for name in _chosen(uri, names)]
        others = {name: names.index(name) for name in names if name and name not in _OURS}
        for row in reader:
            if not row or (len(row) == 1 and not row[0].strip()):
                continue
            number += 1
            if len(row) != len(names):
                raise ManifestError(
                    f"manifest {uri}, row {number}: {len(row)} fields, but the first line has {len(names)}"
                )
            if swallowed := _swallowed(row, columns[0], separator):
                raise ManifestError(f"manifest {uri}, row {number}: a quoted field holds what looks like a row "
                                 f"({swallowed}); close the quote")  # fmt: skip
            carried = {name: row[column] or None for name, column in others.items()}  # CSV has no other null
            yield [row[column] for column in columns], as_json(carried, lost)
    except csv.Error as error:
        cause = "a quote is never closed, or there is one too many"
        raise ManifestError(f"manifest {uri}, row {number + 1}: {cause} ({error})") from None


def _swallowed(row: list[str], uri_column: int, separator: str) -> str | None:
    """Find a line in a multi-line field that is itself a row: then a quote was not closed in the row above."""
    for field in row:
        for line in re.split(r"[\r\n]+", field)[1:]:
            cells = line.split(separator)
            if len(cells) == len(row) and cells[uri_column].strip(' "').lower().endswith(SUPPORTED):
                return line
    return None


def _json_rows(uri: str, text: str, lost: Counter[str]) -> Rows:
    columns: list[str] = []
    number = 0
    for line in text.split("\n"):
        if not line.strip():
            continue
        number += 1
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"manifest {uri}, row {number}: no JSON object in one line ({error})") from None
        if not isinstance(row, dict):
            raise ManifestError(f"manifest {uri}, row {number}: no JSON object")
        columns = columns or _chosen(uri, list(row))
        where, named = f"manifest {uri}, row {number}", "image_id" in row
        if named != ("image_id" in columns):
            raise ManifestError(
                f"{where} has {'an' if named else 'no'} image_id, unlike the first; give all one, or none"
            )
        others = {name: value for name, value in row.items() if name and name not in _OURS}
        yield [_as_text(f"{where}: the {name}", row.get(name)) for name in columns], as_json(others, lost)


def _as_text(what: str, value: Any) -> str | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return None if value is None else str(value)
    if not isinstance(value, str):
        raise ManifestError(f"{what} is {value!r}, which is no text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ManifestError(f"{what}, {value!a}, holds half a character, which no file's name does") from None
    return value


def _parquet(uri: str, data: bytes, lost: Counter[str]) -> Iterator[Entries]:
    file = pq.ParquetFile(pa.BufferReader(data))
    schema = file.schema_arrow
    wanted = _chosen(uri, schema.names)
    others = list(dict.fromkeys(field.name for field in schema if field.name and field.name not in _OURS))
    sayable = [name for name in others if _sayable(schema.field(schema.names.index(name)).type)]
    for name in others:
        if name not in sayable and file.metadata.num_rows:
            count_lost(lost, name, file.metadata.num_rows)
    first = 1
    for batch in file.iter_batches(columns=[*wanted, *sayable], batch_size=_ROWS_A_BATCH, use_threads=False):
        columns = {name: batch[name].cast(pa.string()).to_pylist() for name in wanted}
        carried = {name: _values(batch.column(batch.schema.names.index(name)), name, lost) for name in sayable}
        if schema.names == _OF_A_RUN and carried:
            texts = [_carried_before(value, lost) for value in carried["manifest"]]
        else:
            rows = zip(*carried.values(), strict=True) if carried else [()] * batch.num_rows
            texts = [as_json(dict(zip(carried, row, strict=True)), lost) for row in rows]
        yield Entries(uri, first, columns["uri"], columns.get("image_id"), texts)
        first += batch.num_rows


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
