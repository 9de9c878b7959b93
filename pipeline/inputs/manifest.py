"""What is to be done: one row an image, with an id that is also the safe, stable name of its outputs.

The id depends on an image's key alone, never on what else is in the input:

- a folder: the path below it; a pattern: the path below its deepest folder without a wildcard; one file: its name;
- a manifest: its `image_id` column where it has one; else the `uri` as written if that is relative, and the absolute
  path or `bucket/key`, without scheme, if not;
- an S3 Inventory: the key, as if its bucket were the folder.

Each segment of that path is then made safe (`safe_id`), which keeps different paths different.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import InventoryError, ManifestError
from pipeline.imaging.images import SUPPORTED
from pipeline.inputs.inventory import is_inventory, read_inventory
from pipeline.storage import listing

MANIFEST_SCHEMA = pa.schema([("image_id", pa.string()), ("uri", pa.string())])

_LARGE = pa.schema([(name, pa.large_string()) for name in MANIFEST_SCHEMA.names])
_ROWS_A_CHUNK = 100_000
_MANIFESTS = (".parquet", ".csv")
_HIDDEN = re.compile(r"(?:^|/)[._]")
_MAX_SEGMENT_BYTES = 180
# Letters of any script are safe. A leading dot is not: it hides files and makes `..`.
_UNSAFE = re.compile(r"^\.|[^\w.~+=,@()-]")


def build_manifest(input_uri: str, limit: int | None) -> pa.Table:
    """List the images of an input.

    Args:
        input_uri: a folder (with all its subfolders), a pattern with `*`, `**` or `?`, one image, the `manifest.json`
            of an S3 Inventory, or a `.parquet` or `.csv` manifest with a column `uri` and, if wanted, `image_id`.
            Relative uris of a manifest start from its folder. Below a folder or pattern and in an inventory, names
            that begin with `.` or `_` are skipped, folders included.
        limit: keep this many images, the first by id; None keeps all.

    Returns:
        Table of `MANIFEST_SCHEMA`, at least one row, sorted by `image_id`, every id once, every uri absolute.

    Raises:
        ManifestError: there is no such input, it holds no image, it cannot be read, or two images share an id.
    """
    if limit is not None and limit < 1:
        raise ManifestError(f"limit is {limit}; it must be at least 1")
    from_table = input_uri.lower().endswith(_MANIFESTS) and not listing.is_glob(input_uri)
    try:
        rows = pa.Table.from_batches(_batches(input_uri, from_table), schema=MANIFEST_SCHEMA)
    except FileNotFoundError as error:
        raise ManifestError(f"input {storage.redact(input_uri)}: {error}") from error
    except (storage.StorageError, InventoryError, OSError, pa.ArrowException) as error:
        raise ManifestError(f"input {storage.redact(input_uri)} cannot be read: {error}") from error
    if not rows.num_rows:
        looked_for = "rows" if from_table else f"files ending in {', '.join(SUPPORTED)} (hidden ones are skipped)"
        raise ManifestError(f"input {input_uri} holds no image; looked for {looked_for}")
    return _sorted_and_unique(rows, limit)


def _batches(uri: str, from_table: bool) -> Iterator[pa.RecordBatch]:
    if from_table:
        return _batches_of_manifest(uri)
    return _batches_of_inventory(uri) if is_inventory(uri) else _batches_of_files(uri)


def _sorted_and_unique(rows: pa.Table, limit: int | None) -> pa.Table:
    # Large strings: the ids of twenty million images are more than the 2 GB that a plain string array can hold.
    order = pc.sort_indices(rows, [("image_id", "ascending"), ("uri", "ascending")])
    rows = rows.cast(_LARGE).take(order)
    ids = rows["image_id"]
    same = pc.index(pc.equal(ids[1:], ids[:-1]), True).as_py()
    if same >= 0:
        (image_id, other_id), (uri, other_uri) = (column.to_pylist() for column in rows[same : same + 2].columns)
        assert image_id == other_id
        if uri == other_uri:
            raise ManifestError(f"{uri} is listed twice; remove one of the two rows")
        raise ManifestError(f"image id {image_id!r} belongs to both {uri} and {other_uri}; every image needs an "
                            "id of its own (a manifest may say it in a column image_id)")  # fmt: skip
    kept = rows if limit is None else rows[:limit]
    return pa.Table.from_batches(
        [batch.cast(MANIFEST_SCHEMA) for batch in kept.to_batches(max_chunksize=_ROWS_A_CHUNK)], schema=MANIFEST_SCHEMA
    )


def safe_id(path: str) -> str:
    """Make a path a name that is safe below any folder, different for different paths.

    In each segment a leading dot and every character but letters, digits and `_.~+=,@()-` is percent-encoded, an
    empty segment becomes `%2F`, and one of more than 180 bytes is cut and ends in `~`, a hash and its extension.
    """
    return "/".join(_safe_segment(segment) for segment in path.split("/"))


def _safe_segment(segment: str) -> str:
    if not segment:
        return "%2F"
    safe = _UNSAFE.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), segment)
    if len(safe.encode()) <= _MAX_SEGMENT_BYTES:
        return safe
    extension = PurePosixPath(safe).suffix
    tail = f"~{hashlib.sha256(segment.encode()).hexdigest()[:16]}{extension if len(extension) < 16 else ''}"
    return safe.encode()[: _MAX_SEGMENT_BYTES - len(tail.encode())].decode(errors="ignore") + tail


def _batch(keys: Iterable[str], uris: Iterable[str]) -> pa.RecordBatch:
    return pa.record_batch([[safe_id(key) for key in keys], list(uris)], schema=MANIFEST_SCHEMA)


def _batches_of_files(uri: str) -> Iterator[pa.RecordBatch]:
    if not listing.is_glob(uri) and not storage.is_folder(uri):
        if storage.exists(uri) and not uri.lower().endswith(SUPPORTED):
            raise ManifestError(f"input {uri} is neither a folder, nor an image ({', '.join(SUPPORTED)}), nor a "
                                f"manifest ({', '.join(_MANIFESTS)}, manifest.json)")  # fmt: skip
        for batch in listing.list_batches(uri, SUPPORTED):
            uris = batch["uri"].to_pylist()
            yield _batch(map(posixpath.basename, uris), uris)
        return
    root = listing.glob_root(uri).rstrip("/") + "/"
    for batch in listing.list_batches(uri, SUPPORTED):
        shown = [file for file in batch["uri"].to_pylist() if not _HIDDEN.search(file.removeprefix(root))]
        yield _batch((file.removeprefix(root) for file in shown), shown)


def _batches_of_inventory(uri: str) -> Iterator[pa.RecordBatch]:
    for objects in read_inventory(uri):
        images = [(f"s3://{bucket}/{key}", key) for bucket, key in objects
                  if key.lower().endswith(SUPPORTED) and not _HIDDEN.search(key)]  # fmt: skip
        yield _batch((key for _, key in images), (address for address, _ in images))


def _read_manifest(uri: str) -> pa.Table:
    stream = pa.BufferReader(storage.read_bytes(uri))
    if uri.lower().endswith(".csv"):
        text = dict.fromkeys(MANIFEST_SCHEMA.names, pa.string())  # an id such as 007 is no number
        return pyarrow.csv.read_csv(
            stream,
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(column_types=text),
        )
    file = pq.ParquetFile(stream)
    wanted = [name for name in file.schema_arrow.names if name in MANIFEST_SCHEMA.names]
    return file.read(columns=wanted) if "uri" in wanted else file.schema_arrow.empty_table()


def _batches_of_manifest(uri: str) -> Iterator[pa.RecordBatch]:
    table = _read_manifest(uri)
    if table.column_names.count("uri") != 1 or table.column_names.count("image_id") > 1:
        raise ManifestError(f"manifest {uri} needs one column uri and at most one image_id; its columns are "
                            f"{', '.join(table.column_names)}")  # fmt: skip
    has_ids = "image_id" in table.column_names
    folder = storage.parent(uri)
    number = 0
    wanted = ["uri", "image_id"] if has_ids else ["uri"]
    for batch in table.select(wanted).to_batches(max_chunksize=_ROWS_A_CHUNK):
        texts = [column.cast(pa.string()).to_pylist() for column in batch.columns]
        keys, addresses = [], []
        for row_uri, row_id in zip(texts[0], texts[1] if has_ids else texts[0], strict=True):
            number += 1
            if not row_uri or not row_id:
                raise ManifestError(f"manifest {uri}, row {number}: the {'image_id' if row_uri else 'uri'} is empty")
            key, address = _key_and_address(folder, row_uri)
            keys.append(row_id if has_ids else key)
            addresses.append(address)
        yield _batch(keys, addresses)


def _key_and_address(folder: str, uri: str) -> tuple[str, str]:
    if "://" not in uri and not uri.startswith("/"):
        return posixpath.normpath(uri), _below(folder, uri)
    address = storage.absolute(uri)
    return address.removeprefix("s3://").removeprefix("/"), address


def _below(folder: str, path: str) -> str:
    scheme, separator, root = folder.rpartition("://")
    return scheme + separator + posixpath.normpath(f"{root}/{path}")
