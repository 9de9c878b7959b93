"""Where files live: one small set of functions over addresses, for local paths, `file://` and `s3://`.

An address (`uri`) is a local path as typed, a percent-encoded `file://` URI, or `s3://bucket/key` with the key taken
literally. S3 credentials, region and endpoint come from the environment (`AWS_*`), never from an address: addresses
are written into manifests, results and logs. What S3 does by accident is tried again (`pipeline/retrying.py`); what
remains is a FileNotFoundError, a PermissionError or another OSError.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from urllib.parse import unquote
from uuid import uuid4

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline import retrying, s3_environment

redact = s3_environment.redact
worker_environment = s3_environment.worker_environment
retries = retrying.retries

LISTING_SCHEMA = pa.schema([("uri", pa.string()), ("size", pa.int64())])
_BATCH = 1000
_S3 = "s3://"
_FILE = "file://"


class StorageError(ValueError):
    """An address that cannot be used; the message says why, without credentials."""


class StoredFile(NamedTuple):
    """One listed file: its address, as absolute as it can be, and its size in bytes."""

    uri: str
    size: int


def absolute(uri: str) -> str:
    """Return the one spelling under which any process finds `uri`: an absolute local path or `s3://bucket/key`.

    Raises:
        StorageError: the address is empty, holds credentials, or has another scheme.
    """
    if uri.startswith(_S3):
        bucket = uri.removeprefix(_S3).partition("/")[0]
        if "@" in bucket or ":" in bucket:
            raise StorageError(
                f"{redact(uri)}: credentials and ports do not belong in an address; set "
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL instead"
            )
        if not bucket:
            raise StorageError(f"{uri}: no bucket; write s3://bucket/key")
        return uri.rstrip("/")
    if uri.startswith(_FILE):
        path = unquote(uri.removeprefix(_FILE).removeprefix("localhost"))
        if not path.startswith("/"):
            raise StorageError(f"{redact(uri)}: a file address has three slashes and an absolute path, file:///folder")
        return str(Path(path))
    if re.match(r"[A-Za-z][\w+.-]*://", uri):
        raise StorageError(f"{redact(uri)}: use a local path, file:// or s3://")
    if not uri:
        raise StorageError("an address is empty; use a local path, file:// or s3://")
    return str(Path(uri).absolute())


def _s3() -> ModuleType:
    from pipeline import s3  # noqa: PLC0415  (its imports take half a second that local runs need not spend)

    return s3


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return the Arrow file system of `uri` and the path in it.

    Raises:
        StorageError: as `absolute`.
    """
    address = absolute(uri)
    if address.startswith(_S3):
        path = address.removeprefix(_S3)
        return _s3().arrow_filesystem(path.partition("/")[0]), path
    return pafs.LocalFileSystem(), address


def join(uri: str, *parts: str) -> str:
    """Return the absolute address of `parts`, taken literally, below the folder `uri`."""
    return "/".join([absolute(uri).rstrip("/"), *parts])


def parent(uri: str) -> str:
    """Return the absolute address of the folder that holds `uri`."""
    return absolute(uri).rpartition("/")[0] or "/"


def _is_s3(uri: str) -> bool:
    return uri.startswith(_S3)


def exists(uri: str) -> bool:
    """Say whether `uri` is a file or a folder (on S3: whether any key lies below it).

    Raises:
        OSError: the store does not say.
    """
    address = absolute(uri)
    if _is_s3(address):
        return _s3().size(address) is not None or is_folder(address)
    return Path(address).exists()


def is_folder(uri: str) -> bool:
    """Say whether `uri` is a folder (on S3: whether any key lies below it).

    Raises:
        OSError: the store does not say.
    """
    address = absolute(uri)
    return bool(_s3().is_folder(address)) if _is_s3(address) else Path(address).is_dir()


def read_bytes(uri: str) -> bytes:
    """Return a file's content, whole.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: it may not be read.
        OSError: it cannot be read.
    """
    address = absolute(uri)
    return bytes(_s3().read(address)) if _is_s3(address) else Path(address).read_bytes()


def make_parents(uri: str) -> None:
    """Create the folders above `uri` where the file system has real folders."""
    if not uri.startswith(_S3):
        Path(parent(uri)).mkdir(parents=True, exist_ok=True)


def write_atomic(uri: str, data: bytes) -> None:
    """Write a file that readers see whole or not at all, replacing one of that name; makes its folders.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    path = absolute(uri)
    if _is_s3(path):
        _s3().write(path, data)
        return
    make_parents(uri)
    aside = Path(path).with_name(f".{uuid4().hex}.tmp")
    try:
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut can leave the new name on an empty file
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def remove_folder(uri: str) -> None:
    """Remove a folder and everything in it; does nothing where there is none."""
    address = absolute(uri)
    if _is_s3(address):
        _s3().remove_below(address)
    elif Path(address).is_dir():
        shutil.rmtree(address)


def remove(uri: str) -> None:
    """Remove one file; does nothing where there is none.

    Raises:
        OSError: it cannot be removed.
    """
    address = absolute(uri)
    if _is_s3(address):
        _s3().remove(address)
    else:
        Path(address).unlink(missing_ok=True)


def move(source_uri: str, target_uri: str) -> None:
    """Give a file another address in the same store, replacing one that is there; makes its folders.

    A missing source never makes a target. Local: one atomic rename. S3: a copy inside the store, then a delete, so
    that readers may see both for a moment, and two processes that move the same source at once may both succeed.

    Raises:
        FileNotFoundError: there is no such source.
        StorageError: one address is local and the other is not.
        OSError: it cannot be moved.
    """
    source, target = absolute(source_uri), absolute(target_uri)
    if _is_s3(source) != _is_s3(target):
        raise StorageError(f"{source_uri} cannot be moved to {target_uri}: they are in different stores")
    if not _is_s3(source):
        make_parents(target_uri)
        Path(source).replace(target)
    elif source != target:
        _s3().copy(source, target)
        _s3().remove(source)


def is_glob(uri: str) -> bool:
    """Say whether `uri` is a pattern: `*` and `?` stay in one folder, `**` crosses folders."""
    return "*" in uri or "?" in uri


def glob_root(uri: str) -> str:
    """Return the absolute address of the deepest folder above every match of a pattern; of `uri` if it is none."""
    address = absolute(uri)
    return address if not is_glob(uri) else parent(re.split(r"[*?]", address, maxsplit=1)[0] + "x")


def _glob_regex(pattern: str) -> re.Pattern[str]:
    words = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return re.compile("".join(words.get(piece, re.escape(piece)) for piece in pieces), re.DOTALL)


def _walk_local(root: str) -> Iterator[StoredFile]:
    # Arrow's own listing follows links in circles and stops at names that are not UTF-8.
    for folder, subfolders, names in os.walk(root, followlinks=True):
        here = f"{Path(folder).resolve()}/"
        subfolders[:] = [name for name in subfolders if not here.startswith(f"{Path(folder, name).resolve()}/")]
        for name in names:
            path = Path(folder, name)
            if path.is_file():
                yield StoredFile(str(path), path.stat().st_size)


def listing(uri: str, suffixes: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    """List the files of a folder and all its subfolders, or those that match a pattern, in no order.

    Made for millions of files: they come in batches, and nothing but the batches holds memory.

    Args:
        uri: a folder, a pattern (`is_glob`), or one file. Links are followed, but not in circles.
        suffixes: endings of the names wanted, in lower case; names may be in any case.

    Yields:
        Batches of `LISTING_SCHEMA`.

    Raises:
        FileNotFoundError: there is no such folder or file, or no folder for the pattern to start from.
        StorageError: a file's name is not UTF-8, or as `absolute`.
    """
    pattern = _glob_regex(absolute(uri)) if is_glob(uri) else None

    def wanted(file: str) -> bool:
        return file.lower().endswith(suffixes) and (pattern is None or pattern.fullmatch(file) is not None)

    return (_list_s3 if _is_s3(uri) else _list_local)(uri, wanted)


def _list_local(uri: str, wanted: Callable[[str], bool]) -> Iterator[pa.RecordBatch]:
    root = Path(glob_root(uri))
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist")
    files = _walk_local(str(root)) if root.is_dir() else iter([StoredFile(str(root), root.stat().st_size)])
    chosen = (file for file in files if wanted(file.uri))
    while batch := list(islice(chosen, _BATCH)):
        uris, sizes = zip(*batch, strict=True)
        try:
            yield pa.record_batch([uris, sizes], schema=LISTING_SCHEMA)
        except UnicodeEncodeError as error:
            raise StorageError(f"the file name {error.object!a} is not UTF-8; rename it") from error


def _list_s3(uri: str, wanted: Callable[[str], bool]) -> Iterator[pa.RecordBatch]:
    root = glob_root(uri)
    # Whatever stands before the first wildcard narrows what the store has to list.
    beginning = re.split(r"[*?]", absolute(uri), maxsplit=1)[0] if is_glob(uri) else f"{root}/"
    bucket, _, prefix = beginning.removeprefix(_S3).partition("/")
    if is_folder(root):
        yield from _s3().listing(bucket, prefix, wanted)
    elif (size := _s3().size(root)) is None:
        raise FileNotFoundError(f"{root} does not exist")
    elif wanted(root):
        yield pa.record_batch([[root], [size]], schema=LISTING_SCHEMA)


def list_files(uri: str, suffixes: tuple[str, ...]) -> list[StoredFile]:
    """List files as `listing` does, sorted by address; for folders of some thousand files.

    Raises:
        FileNotFoundError: as `listing`.
        StorageError: as `listing`.
    """
    batches = listing(uri, suffixes)
    return sorted(
        StoredFile(file, size)
        for batch in batches
        for file, size in zip(batch["uri"].to_pylist(), batch["size"].to_pylist(), strict=True)
    )
