"""What is to be done: one row an image, with an id that is also the safe, stable name of its outputs.

The id depends on an image's key alone, never on what else is in the input:

- a folder: the path below it; a pattern: the path below its deepest folder without a wildcard; one file: its name;
- a manifest: its `image_id` column where it has one; else the `uri` as written if that is relative, and the absolute
  path or `bucket/key`, without scheme, if not.

Each segment of that path is then made safe (`safe_id`), which keeps different paths different.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.images import SUPPORTED

MANIFEST_SCHEMA = pa.schema([("image_id", pa.string()), ("uri", pa.string())])

_MANIFESTS = (".parquet", ".csv")
_HIDDEN = re.compile(r"(?:^|/)[._]")
_MAX_SEGMENT_BYTES = 180
# Letters of any script are safe. A leading dot is not: it hides files and makes `..`.
_UNSAFE = re.compile(r"^\.|[^\w.~+=,@()-]")


class ManifestError(ValueError):
    """An input that gives no usable manifest; the message says what was looked for and what to do."""


def build_manifest(input_uri: str, limit: int | None) -> pa.Table:
    """List the images of an input.

    Args:
        input_uri: a folder (with all its subfolders), a pattern with `*`, `**` or `?`, one image, or a `.parquet` or
            `.csv` manifest with a column `uri` and, if wanted, `image_id`. Relative uris of a manifest start from its
            folder. Below a folder or pattern, names that begin with `.` or `_` are skipped, folders included.
        limit: keep this many images, the first by id; None keeps all.

    Returns:
        Table of `MANIFEST_SCHEMA`, at least one row, sorted by `image_id`, every id once, every uri absolute.

    Raises:
        ManifestError: there is no such input, it holds no image, it cannot be read, or two images share an id.
    """
    if limit is not None and limit < 1:
        raise ManifestError(f"limit is {limit}; it must be at least 1")
    from_table = input_uri.lower().endswith(_MANIFESTS) and not storage.is_glob(input_uri)
    try:
        rows = sorted(_rows_of_manifest(input_uri) if from_table else _rows_of_files(input_uri))
    except FileNotFoundError as error:
        raise ManifestError(f"input {storage.redact(input_uri)}: {error}") from error
    except (storage.StorageError, OSError, pa.ArrowException) as error:
        raise ManifestError(f"input {storage.redact(input_uri)} cannot be read: {error}") from error
    if not rows:
        looked_for = "rows" if from_table else f"files ending in {', '.join(SUPPORTED)} (hidden ones are skipped)"
        raise ManifestError(f"input {input_uri} holds no image; looked for {looked_for}")
    for (image_id, uri), (other_id, other_uri) in pairwise(rows):
        if image_id == other_id:
            raise ManifestError(f"image id {image_id!r} belongs to both {uri} and {other_uri}; every image needs an "
                                "id of its own (a manifest may say it in a column image_id)")  # fmt: skip
    ids, uris = zip(*rows[:limit], strict=True)
    return pa.table([ids, uris], schema=MANIFEST_SCHEMA)


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


def _rows_of_files(uri: str) -> Iterator[tuple[str, str]]:
    if not storage.is_glob(uri) and not storage.is_folder(uri):
        if storage.exists(uri) and not uri.lower().endswith(SUPPORTED):
            raise ManifestError(f"input {uri} is neither a folder, nor an image ({', '.join(SUPPORTED)}), nor a "
                                f"manifest ({', '.join(_MANIFESTS)})")  # fmt: skip
        for file in storage.list_files(uri, SUPPORTED):
            yield safe_id(posixpath.basename(file.uri)), file.uri
        return
    root = storage.glob_root(uri).rstrip("/") + "/"
    for file in storage.list_files(uri, SUPPORTED):
        key = file.uri.removeprefix(root)
        if not _HIDDEN.search(key):
            yield safe_id(key), file.uri


def _read_manifest(uri: str) -> pa.Table:
    filesystem, path = storage.resolve(uri)
    with filesystem.open_input_file(path) as stream:
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


def _rows_of_manifest(uri: str) -> Iterator[tuple[str, str]]:
    table = _read_manifest(uri)
    if table.column_names.count("uri") != 1 or table.column_names.count("image_id") > 1:
        raise ManifestError(f"manifest {uri} needs one column uri and at most one image_id; its columns are "
                            f"{', '.join(table.column_names)}")  # fmt: skip
    uris = table["uri"].cast(pa.string()).to_pylist()
    has_ids = "image_id" in table.column_names
    ids = table["image_id"].cast(pa.string()).to_pylist() if has_ids else [None] * len(uris)
    folder = storage.parent(uri)
    for number, (row_uri, row_id) in enumerate(zip(uris, ids, strict=True), start=1):
        if not row_uri or (has_ids and not row_id):
            raise ManifestError(f"manifest {uri}, row {number}: the {'image_id' if row_uri else 'uri'} is empty")
        relative = "://" not in row_uri and not row_uri.startswith("/")
        address = _below(folder, row_uri) if relative else storage.absolute(row_uri)
        key = posixpath.normpath(row_uri) if relative else address.removeprefix("s3://").removeprefix("/")
        yield safe_id(row_id or key), address


def _below(folder: str, path: str) -> str:
    scheme, separator, root = folder.rpartition("://")
    return scheme + separator + posixpath.normpath(f"{root}/{path}")
