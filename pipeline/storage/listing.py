"""Listing what lies in a folder or fits a pattern, locally and on S3, for millions of files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa

from pipeline.errors import StorageError
from pipeline.storage import files as storage
from pipeline.storage.base import LISTING_SCHEMA, StoredFile

_BATCH = 1000


def read_names(uri: str) -> list[str]:
    """The names in a UTF-8 text file, one a line; they may hold spaces.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no UTF-8 text; the message names it.
    """
    try:
        lines = storage.read_bytes(uri).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{uri} is no list of names: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def is_glob(uri: str) -> bool:
    """Say whether `uri` is a pattern: `*` and `?` stay in one folder, `**` crosses folders."""
    return "*" in uri or "?" in uri


def glob_root(uri: str) -> str:
    """Return the absolute address of the deepest folder above every match of a pattern; of `uri` if it is none."""
    address = storage.absolute(uri)
    return address if not is_glob(uri) else storage.parent(re.split(r"[*?]", address, maxsplit=1)[0] + "x")


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


def list_batches(uri: str, suffixes: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    """List the files of a folder and all its subfolders, or those that match a pattern, in no order.

    Made for millions of files: they come in batches, and nothing but the batches holds memory.

    Args:
        uri: a folder, a pattern (`is_glob`), or one file. Links are followed, but not in circles.
        suffixes: endings of the names wanted, in lower case; names may be in any case.

    Yields:
        Batches of `LISTING_SCHEMA`.

    Raises:
        FileNotFoundError: there is no such folder or file, or no folder for the pattern to start from.
        StorageError: a file's name is not UTF-8, or as `storage.absolute`.
    """
    pattern = _glob_regex(storage.absolute(uri)) if is_glob(uri) else None

    def wanted(file: str) -> bool:
        return file.lower().endswith(suffixes) and (pattern is None or pattern.fullmatch(file) is not None)

    return (_list_s3 if storage.is_s3(uri) else _list_local)(uri, wanted)


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
    beginning = re.split(r"[*?]", storage.absolute(uri), maxsplit=1)[0] if is_glob(uri) else f"{root}/"
    bucket, _, prefix = beginning.removeprefix("s3://").partition("/")
    if storage.is_folder(root):
        yield from storage.s3_store().listing(bucket, prefix, wanted)
    elif (size := storage.s3_store().size(root)) is None:
        raise FileNotFoundError(f"{root} does not exist")
    elif wanted(root):
        yield pa.record_batch([[root], [size]], schema=LISTING_SCHEMA)


def list_files(uri: str, suffixes: tuple[str, ...]) -> list[StoredFile]:
    """List files as `list_batches` does, sorted by address; for folders of some thousand files.

    Raises:
        FileNotFoundError: as `list_batches`.
        StorageError: as `list_batches`.
    """
    batches = list_batches(uri, suffixes)
    return sorted(
        StoredFile(file, size)
        for batch in batches
        for file, size in zip(batch["uri"].to_pylist(), batch["size"].to_pylist(), strict=True)
    )
