"""Manifests in common formats: CSV, TSV, JSON Lines and Parquet, one file or a folder of parts."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import ManifestError
from pipeline.imaging.images import SUPPORTED
from pipeline.storage import listing

ENDINGS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
_ROWS_A_CHUNK = 100_000
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Entries(NamedTuple):
    """Some rows of a manifest."""

    where: str
    """The file that they are in."""
    first: int
    """Number of the first of them in the file, from 1."""
    uris: list[str | None]
    image_ids: list[str | None] | None
    """None if the file has no such column."""


def read_entries(uri: str) -> Iterator[Entries]:
    """Yield the rows of a manifest, some thousands at a time.

    Args:
        uri: a file with one of `ENDINGS`, or a folder of such files, as Spark and Ray write them. It has one column
            `uri` and at most one `image_id`.

    Raises:
        ManifestError: the format is not what the extension says, or a column is missing.
        OSError: the file cannot be read.
        pa.ArrowException: the Parquet data are damaged.
    """
    for part in _parts(uri):
        data = storage.read_bytes(part)
        suffix = part.lower().rpartition(".")[2]
        if suffix == "parquet":
            yield from _parquet(part, data)
        elif suffix in ("jsonl", "ndjson"):
            yield from _chunks(part, _json_rows(part, _text(part, data)))
        else:
            yield from _chunks(part, _csv_rows(part, _text(part, data), suffix))


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
    return ["uri", "image_id"] if "image_id" in names else ["uri"]


def _chunks(where: str, rows: Iterator[list[str | None]]) -> Iterator[Entries]:
    first, chunk = 1, list[list[str | None]]()
    for row in rows:
        chunk.append(row)
        if len(chunk) == _ROWS_A_CHUNK:
            yield _entries(where, first, chunk)
            first, chunk = first + len(chunk), []
    if chunk:
        yield _entries(where, first, chunk)


def _entries(where: str, first: int, rows: list[list[str | None]]) -> Entries:
    return Entries(where, first, [row[0] for row in rows], [row[1] for row in rows] if len(rows[0]) > 1 else None)


def _csv_rows(uri: str, text: str, suffix: str) -> Iterator[list[str | None]]:
    text = re.sub(r"^\s*\n", "", text)  # blank lines above the header
    header = text.partition("\n")[0]
    separator = "\t" if suffix == "tsv" else max(",;\t", key=header.count)
    blanks = f"{separator} " in header  # a header with spaces after the separators means that all rows have them
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=blanks)
    number = 0
    try:
        names = [name.strip() for name in next(reader, [])]
        columns = [names.index(name) for name in _chosen(uri, names)]
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
            yield [row[column] for column in columns]
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


def _json_rows(uri: str, text: str) -> Iterator[list[str | None]]:
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
        yield [_as_text(f"{where}: the {name}", row.get(name)) for name in columns]


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


def _parquet(uri: str, data: bytes) -> Iterator[Entries]:
    file = pq.ParquetFile(pa.BufferReader(data))
    wanted = _chosen(uri, file.schema_arrow.names)
    first = 1
    for batch in file.iter_batches(columns=wanted, batch_size=_ROWS_A_CHUNK, use_threads=False):
        columns = {name: batch[name].cast(pa.string()).to_pylist() for name in wanted}
        yield Entries(uri, first, columns["uri"], columns.get("image_id"))
        first += batch.num_rows
