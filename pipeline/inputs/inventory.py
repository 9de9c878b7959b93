"""S3 Inventory: the list of a bucket's objects that S3 itself writes every day or week.

A `manifest.json` names data files, CSV.gz or Parquet, with a column for the bucket and one for the key. For a bucket
with many millions of objects it saves the time and the cost of a listing.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import posixpath
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import Any
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import InventoryError

_NAME = "manifest.json"
_ROWS = 10_000
_LATEST = {"islatest": "true", "isdeletemarker": "false"}


def is_inventory(uri: str) -> bool:
    """Say whether an address has the name of an inventory's manifest."""
    return posixpath.basename(uri) == _NAME


def read_inventory(uri: str) -> Iterator[list[tuple[str, str]]]:
    """Yield the objects of an inventory, `(bucket, key)`, some thousands at a time; only the latest version of each.

    Args:
        uri: its manifest.json, where S3 wrote it, or a copy that has the data files in `../data`, as S3 lays them out.

    Raises:
        InventoryError: it is not an inventory, or not in CSV or Parquet.
        OSError: it or one of its data files cannot be read.
    """
    try:
        content = json.loads(storage.read_bytes(uri))
        form, names = content["fileFormat"], [file["key"] for file in content["files"]]
        columns = [name.strip() for name in content["fileSchema"].split(",")]
    except (ValueError, KeyError, TypeError) as error:
        raise InventoryError(f"{uri} is not the manifest.json of an S3 Inventory: {error!r}") from error
    readers = {"CSV": lambda data: _read_csv(data, columns), "Parquet": _read_parquet}
    if form not in readers:
        raise InventoryError(f"{uri} is an inventory in {form}; CSV and Parquet can be read")
    for name in names:
        for batch in readers[form](storage.read_bytes(_data_file(uri, name))):
            yield _latest(batch, url_encoded=form == "CSV")


def _data_file(uri: str, key: str) -> str:
    address = storage.absolute(uri)
    if address.startswith("s3://"):
        return f"s3://{address.removeprefix('s3://').partition('/')[0]}/{key}"
    return storage.join(storage.parent(storage.parent(address)), "data", posixpath.basename(key))


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _read_csv(data: bytes, columns: list[str]) -> Iterator[pa.RecordBatch]:
    names = [_plain(name) for name in columns]
    wanted = [name for name in names if name in ("bucket", "key", *_LATEST)]
    places = [names.index(name) for name in wanted]
    try:  # with Python's own modules: threads of Arrow's CSV reader still run when the process ends
        with gzip.open(io.BytesIO(data), "rt", encoding="utf-8", newline="") as stream:
            rows = csv.reader(stream, strict=True)
            while chunk := list(islice(rows, _ROWS)):
                cells = [[row[place] for row in chunk] for place in places]
                yield pa.record_batch([pa.array(column, pa.string()) for column in cells], names=wanted)
    except (EOFError, IndexError, ValueError, zlib.error, csv.Error) as error:
        raise InventoryError(f"a data file of the inventory cannot be read: {error}") from error


def _read_parquet(data: bytes) -> Iterator[pa.RecordBatch]:
    file = pq.ParquetFile(pa.BufferReader(data))
    wanted = [name for name in file.schema_arrow.names if _plain(name) in ("bucket", "key", *_LATEST)]
    for batch in file.iter_batches(columns=wanted, batch_size=_ROWS, use_threads=False):
        yield batch.rename_columns([_plain(name) for name in wanted])


def _latest(batch: pa.RecordBatch, *, url_encoded: bool) -> list[tuple[str, str]]:
    missing = {"bucket", "key"} - set(batch.schema.names)
    if missing:
        raise InventoryError(f"the inventory has no column {' or '.join(sorted(missing))}")
    columns: dict[str, list[Any]] = {name: batch[name].cast(pa.string()).to_pylist() for name in batch.schema.names}
    kept = [True] * batch.num_rows
    for name, value in _LATEST.items():
        for row, found in enumerate(columns.get(name, [])):
            kept[row] = kept[row] and found in (value, None, "")
    objects = zip(columns["bucket"], columns["key"], kept, strict=True)
    return [(bucket, unquote_plus(key) if url_encoded else key) for bucket, key, keep in objects if keep]
