"""The manifest: one row per image, with an id that is also the safe, stable name of its outputs.

The id depends only on an image's key, never on what else is in the input:

- a folder: the path below it; a pattern: the path below its deepest folder without a wildcard; one file: its name;
- a manifest: its `image_id` column if it has one; otherwise the `uri` as written if that is relative, and the absolute
  path or `bucket/key`, without scheme, if it is not;
- an S3 Inventory: the key, as if its bucket were the folder;
- an image in a tar file or in a row of a Parquet file: the id that the file would have, `/`, and its name in the
  archive or the number of its row (unless the Parquet file has a column `image_id`).

`safe_id` then makes each segment of that path safe; different paths stay different.

The other columns of a manifest are kept as one, `manifest`, a JSON object for each image (`inputs.carried`).
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.errors import InventoryError, ManifestError
from pipeline.imaging.images import SUPPORTED
from pipeline.inputs import parquet_images, tar_images
from pipeline.inputs.advice import advice_for, advice_for_files
from pipeline.inputs.inventory import is_inventory, read_inventory
from pipeline.inputs.tables import ENDINGS, read_entries
from pipeline.outputs.layout import FOLDERS, RECORD, is_output
from pipeline.storage import listing
from pipeline.storage.base import HIDDEN, NO_ENDING, OUTPUT, ending

MANIFEST_SCHEMA = pa.schema([("image_id", pa.string()), ("uri", pa.string()), ("manifest", pa.string())])

_LARGE = pa.schema([(name, pa.large_string()) for name in MANIFEST_SCHEMA.names])
_ROWS_A_CHUNK = 100_000
_HIDDEN_NAMES = (".", "_")
_ARCHIVES_AT_ONCE = 16  # whose headers are read
_SHOWN = 8  # extensions listed in a message
_HIDDEN = re.compile(r"(?:^|/)[._]")
_MAX_SEGMENT_BYTES = 180
_MAX_BYTES = 800  # S3's keys may have 1024, including the output's folder
# Letters of any script are safe. A leading dot is not: it hides files, and `..` leaves the folder.
_UNSAFE = re.compile(r"^\.|[^\w.~+=,@()-]")


def build_manifest(input_uri: str, limit: int | None, left_aside: Counter[str] | None = None) -> pa.Table:
    """List the images of an input.

    Args:
        input_uri: a folder (with all its subfolders), a pattern with `*`, `**` or `?`, one image, the `manifest.json`
            of an S3 Inventory, or a manifest (`inputs.tables`): a file, or a folder of parts whose name ends like one
            or that holds only Parquet. Relative uris in a manifest start from its folder. A Parquet file may also hold
            the images, and so may tar files: one, a pattern that ends in `.tar`, or a folder that holds nothing else.
            Below a folder or pattern, in an archive and in an inventory, files and folders whose names begin with `.`
            or `_` are skipped, and so are the outputs of this job.
        limit: keep this many images, the first by id; None keeps all.
        left_aside: counts, by extension or other reason, the files of a folder, a pattern or an inventory that are not
            images, and values of a manifest that are not kept; existing counts are added to.

    Returns:
        Table of `MANIFEST_SCHEMA` with at least one row, sorted by `image_id`; each id occurs once, all uris are
        absolute.

    Raises:
        ManifestError: the input does not exist or holds no image, it or one of its folders cannot be read, or two
            images share an id.
    """
    if limit is not None and limit < 1:
        raise ManifestError(f"limit is {limit}; it must be at least 1")
    counts: Counter[str] = Counter()
    try:
        rows = pa.Table.from_batches(_batches(input_uri, counts), schema=MANIFEST_SCHEMA)
        if not rows.num_rows and (of_containers := _only_containers(input_uri, counts)) is not None:
            counts.clear()
            rows = pa.Table.from_batches(of_containers(input_uri, counts), schema=MANIFEST_SCHEMA)
    except FileNotFoundError as error:
        raise ManifestError(f"input {storage.redact(input_uri)}: {error}") from error
    except storage.StoreAwayError as error:
        raise ManifestError(f"input {storage.redact(input_uri)} cannot be read: {error}") from error
    except PermissionError as error:
        raise ManifestError(f"input {storage.redact(input_uri)} cannot be read: {error}; make it readable, or leave it "
                            "out by a pattern or a manifest") from error  # fmt: skip
    except (storage.StorageError, InventoryError, OSError, pa.ArrowException) as error:
        raise ManifestError(f"input {storage.redact(input_uri)} cannot be read: {error}") from error
    if not rows.num_rows:
        raise ManifestError(_why_empty(input_uri, counts))
    if left_aside is not None:
        left_aside.update(counts)
    return _sorted_and_unique(rows, limit)


def _why_empty(uri: str, counts: Counter[str]) -> str:
    """Say what was looked for in an input without images, what is there instead, and what to do."""
    looked_for = "rows" if _is_table(uri) else f"files ending in {', '.join(SUPPORTED)}"
    unfit = listing.is_glob(uri) and not set(counts) - {HIDDEN}
    found = "no name fits the pattern" if unfit else describe(counts)
    if _is_table(uri) and not listing.is_glob(uri):
        found = "it has none"
    endings = [ending for ending in _CONTAINERS if ending in counts]
    containers = f"for the images in {endings[0]} files give {_pattern(uri, endings[0])}" if endings else None
    hints = "".join(f"; {hint}" for hint in (containers, advice_for_files(counts)) if hint is not None)
    return f"input {uri} holds no image; looked for {looked_for}; {found}{hints}"


def describe(left_aside: Counter[str]) -> str:
    """Say in one line which files were skipped: `7 files of other endings were left aside (.heic 3, ...)`."""
    endings = Counter({key: count for key, count in left_aside.items() if key[0] == "." or key == NO_ENDING})
    most = sorted(endings.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{key} {count}" for key, count in most[:_SHOWN]] + ["..."] * (len(most) > _SHOWN)
    files = "1 file of another ending was" if endings.total() == 1 else f"{endings.total()} files of other endings were"
    parts = [f"{files} left aside ({', '.join(shown)})"] if endings else []
    others = ", ".join(f"{count} {key}" for key, count in sorted((left_aside - endings).items()))
    parts += [f"left aside{', too' if endings else ''}: {others}"] if others else []
    return "; ".join(parts) or "nothing else is there"


def _pattern(uri: str, ending: str) -> str:
    return f"a pattern that ends in *{ending}" if listing.is_glob(uri) else f"'{storage.join(uri, f'**/*{ending}')}'"


def _is_table(uri: str) -> bool:
    return uri.rstrip("/").lower().endswith(parquet_images.ENDING if listing.is_glob(uri) else ENDINGS)


def _batches(uri: str, left_aside: Counter[str]) -> Iterator[pa.RecordBatch]:
    if _is_table(uri):
        return _batches_of_manifest(uri, left_aside)
    if uri.lower().endswith(tar_images.ENDING) and (listing.is_glob(uri) or not storage.is_folder(uri)):
        return _batches_of_tars(uri, left_aside)
    return _batches_of_inventory(uri, left_aside) if is_inventory(uri) else _batches_of_files(uri, left_aside)


def _only_containers(uri: str, counts: Counter[str]) -> Batches | None:
    """What reads the files of a folder or pattern, if they are all of one kind that holds images."""
    found = [ending for ending in _CONTAINERS if set(counts) - {HIDDEN} == {ending}]
    return _CONTAINERS[found[0]] if found and (listing.is_glob(uri) or storage.is_folder(uri)) else None


def _sorted_and_unique(rows: pa.Table, limit: int | None) -> pa.Table:
    # Large strings: the ids of twenty million images exceed the 2 GB that a plain string array can hold.
    order = pc.sort_indices(rows, [("image_id", "ascending"), ("uri", "ascending")])
    rows = rows.cast(_LARGE).take(order)
    ids = rows["image_id"]
    same = pc.index(pc.equal(ids[1:], ids[:-1]), True).as_py()
    if same >= 0:
        (image_id, other_id), (uri, other_uri), _ = (column.to_pylist() for column in rows[same : same + 2].columns)
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
    """Turn a path into a name that is safe below any folder; different paths give different names.

    In each segment, a leading dot and all characters except letters, digits and `_.~+=,@()-` are percent-encoded. An
    empty segment becomes `%2F`. A segment of more than 180 bytes is cut and ends in `~`, a hash and its extension. If
    the name is still longer than 800 bytes, its first folders become one, `~` and a hash.
    """
    segments = [_safe_segment(segment) for segment in path.split("/")]
    name = "/".join(segments)
    if len(name.encode()) <= _MAX_BYTES:
        return name
    above = f"~{hashlib.sha256(path.encode()).hexdigest()[:16]}"
    while len("/".join([above, *segments]).encode()) > _MAX_BYTES:
        segments.pop(0)
    return "/".join([above, *segments])


def _safe_segment(segment: str) -> str:
    if not segment:
        return "%2F"
    safe = _UNSAFE.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), segment)
    if len(safe.encode()) <= _MAX_SEGMENT_BYTES:
        return safe
    extension = PurePosixPath(safe).suffix
    tail = f"~{hashlib.sha256(segment.encode()).hexdigest()[:16]}{extension if len(extension) < 16 else ''}"
    return safe.encode()[: _MAX_SEGMENT_BYTES - len(tail.encode())].decode(errors="ignore") + tail


def _batch(keys: Iterable[str], uris: Iterable[str], others: list[str | None] | None = None) -> pa.RecordBatch:
    ids = [safe_id(key) for key in keys]
    return pa.record_batch([ids, list(uris), others or [None] * len(ids)], schema=MANIFEST_SCHEMA)


def _batches_of_files(uri: str, left_aside: Counter[str]) -> Iterator[pa.RecordBatch]:
    if not listing.is_glob(uri) and not storage.is_folder(uri):
        if storage.exists(uri) and not uri.lower().endswith(SUPPORTED):
            raise ManifestError(f"input {uri} is neither a folder, nor an image ({', '.join(SUPPORTED)}), nor a "
                                f"manifest ({', '.join(ENDINGS)}, manifest.json), nor a tar file (.tar, not "
                                f"compressed){f'; {advice}' if (advice := advice_for(uri)) else ''}")  # fmt: skip
        for batch in listing.list_batches(uri, SUPPORTED):
            uris = batch["uri"].to_pylist()
            yield _batch(map(posixpath.basename, uris), uris)
        return
    root = listing.glob_root(uri).rstrip("/") + "/"
    for batch in listing.list_batches(uri, SUPPORTED, hidden=_HIDDEN_NAMES, is_output=is_output, left_aside=left_aside):
        uris = batch["uri"].to_pylist()
        yield _batch((file.removeprefix(root) for file in uris), uris)


def _batches_of_tars(uri: str, left_aside: Counter[str]) -> Iterator[pa.RecordBatch]:
    root = listing.glob_root(uri).rstrip("/") + "/"
    of_many = listing.is_glob(uri) or storage.is_folder(uri)
    hidden = _HIDDEN_NAMES if of_many else ()
    batches = listing.list_batches(uri, (tar_images.ENDING,), hidden=hidden, is_output=is_output, left_aside=left_aside)
    archives = [archive for batch in batches for archive in batch["uri"].to_pylist()]

    def read(archive: str) -> tuple[pa.RecordBatch, Counter[str]]:
        others: Counter[str] = Counter()
        name = archive.removeprefix(root) if of_many else posixpath.basename(archive)
        images = tar_images.members(archive, others)
        return _batch((f"{name}/{image.name}" for image in images), (image.address for image in images)), others

    with ThreadPoolExecutor(_ARCHIVES_AT_ONCE) as pool:
        for batch, others in pool.map(read, archives):
            left_aside.update(others)
            yield batch


def _batches_of_inventory(uri: str, left_aside: Counter[str]) -> Iterator[pa.RecordBatch]:
    batches, outputs = list[pa.RecordBatch](), list[str]()
    for objects in read_inventory(uri):
        images = []
        for bucket, key in objects:
            if f"/{key}".endswith(f"/{RECORD}"):  # may follow the objects of the output that it marks
                above = f"s3://{bucket}/{key.removesuffix(RECORD)}"
                outputs += [f"{above}{folder}/" for folder in FOLDERS]
            if (reason := _key_left_aside(key)) is None:
                images.append((f"s3://{bucket}/{key}", key))
            elif reason:
                left_aside[reason] += 1
        batches.append(_batch((key for _, key in images), (address for address, _ in images)))
    written = tuple(outputs)
    for batch in batches:
        kept = [not address.startswith(written) for address in batch["uri"].to_pylist()]
        left_aside.update([OUTPUT] * (len(kept) - sum(kept)))
        yield batch.filter(pa.array(kept, pa.bool_()))


def _key_left_aside(key: str) -> str | None:
    """Why an object of an inventory is not an image, "" for a folder's marker; None if it is an image."""
    if key.endswith("/"):
        return ""
    if _HIDDEN.search(key):
        return HIDDEN
    return None if key.lower().endswith(SUPPORTED) else ending(key.rpartition("/")[2])


def _batches_of_manifest(uri: str, lost: Counter[str]) -> Iterator[pa.RecordBatch]:
    folder = listing.glob_root(uri) if listing.is_glob(uri) else storage.parent(uri)
    for where, first, uris, image_ids, others in read_entries(uri, lost):
        keys, addresses = [], []
        for row, (entry, image_id) in enumerate(zip(uris, image_ids or uris, strict=True), start=first):
            if not entry or not image_id:
                raise ManifestError(f"manifest {where}, row {row}: the {'image_id' if entry else 'uri'} is empty")
            key, address = _key_and_address(folder, entry)
            keys.append(key if image_ids is None else image_id)
            addresses.append(address)
        yield _batch(keys, addresses, others)


Batches = Callable[[str, Counter[str]], Iterator[pa.RecordBatch]]
_CONTAINERS: dict[str, Batches] = {parquet_images.ENDING: _batches_of_manifest, tar_images.ENDING: _batches_of_tars}


def _key_and_address(folder: str, uri: str) -> tuple[str, str]:
    if "://" not in uri and not uri.startswith("/"):
        return posixpath.normpath(uri), _below(folder, uri)
    address = storage.absolute(uri)
    return (address if storage.is_local(address) else address.partition("://")[2]).removeprefix("/"), address


def _below(folder: str, path: str) -> str:
    scheme, separator, root = folder.rpartition("://")
    return scheme + separator + posixpath.normpath(f"{root}/{path}")
