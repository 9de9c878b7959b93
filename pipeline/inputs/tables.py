"""Manifests in common formats: CSV, TSV, JSON Lines and Parquet (`parquet_tables`), one file or a folder of parts."""

from __future__ import annotations

import codecs
import csv
import io
import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pipeline import storage
from pipeline.errors import ManifestError
from pipeline.imaging.images import SUPPORTED
from pipeline.inputs import parquet_tables
from pipeline.inputs.carried import as_json
from pipeline.inputs.entries import OURS, Entries, chosen
from pipeline.storage import listing

ENDINGS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
_ROWS_A_CHUNK = 100_000
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

Rows = Iterator[tuple[list[str | None], str | None]]
"""The uri and, if there is one, the image_id of each row, and its other columns as JSON."""


def read_entries(uri: str, lost: Counter[str]) -> Iterator[Entries]:
    """Yield the rows of a manifest, some thousands at a time.

    Args:
        uri: a file with one of `ENDINGS`, a folder of such files, as Spark and Ray write them, or a pattern for
            Parquet. It has one column `uri`, or, in Parquet, one with the images themselves, and at most one
            `image_id`. Of other columns with the same name, the first counts; those without a name are ignored.
        lost: counts values of other columns that are not carried, by column; existing counts are added to.

    Raises:
        ManifestError: the format is not what the extension says, or a column is missing.
        OSError: the file cannot be read.
        pa.ArrowException: the Parquet data are damaged.
    """
    for part in _parts(uri):
        suffix = part.lower().rpartition(".")[2]
        if suffix == "parquet":
            yield from parquet_tables.read_entries(part, _name_of(part, uri), lost)
            continue
        data = storage.read_bytes(part)
        if suffix in ("jsonl", "ndjson"):
            yield from _chunks(part, _json_rows(part, _text(part, data), lost))
        else:
            yield from _chunks(part, _csv_rows(part, _text(part, data), suffix, lost))


def _parts(uri: str) -> list[str]:
    if not listing.is_glob(uri) and not storage.is_folder(uri):
        return [uri]
    endings = tuple(ending for ending in ENDINGS if uri.rstrip("/").lower().endswith(ending)) or (".parquet",)
    parts = [file.uri for file in listing.list_files(uri, endings, hidden=(".", "_"))]
    if not parts:
        raise ManifestError(f"manifest {uri} is a folder without files ending in {endings[0]}")
    return parts


def _name_of(part: str, uri: str) -> str:
    """The path of a part below the folder or pattern that it is of; of a single file its name."""
    part, root = storage.absolute(part), listing.glob_root(uri).rstrip("/")
    return posixpath.basename(part) if part == root else part.removeprefix(f"{root}/")


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
        columns = [names.index(name) for name in chosen(uri, names)]
        others = {name: names.index(name) for name in names if name and name not in OURS}
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
        columns = columns or chosen(uri, list(row))
        where, named = f"manifest {uri}, row {number}", "image_id" in row
        if named != ("image_id" in columns):
            raise ManifestError(
                f"{where} has {'an' if named else 'no'} image_id, unlike the first; give all one, or none"
            )
        others = {name: value for name, value in row.items() if name and name not in OURS}
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
