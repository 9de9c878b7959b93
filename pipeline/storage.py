"""Where files live: one small set of functions over addresses, for local paths, `file://` and `s3://`.

An address (`uri`) is a local path as typed, a percent-encoded `file://` URI, or `s3://bucket/key` with the key taken
literally. S3 credentials, region and endpoint come from the environment (`AWS_*`), never from an address: addresses
are written into manifests, results and logs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote
from uuid import uuid4

import pyarrow.fs as pafs

_S3 = "s3://"
_FILE = "file://"


class StorageError(ValueError):
    """An address that cannot be used; the message says why, without credentials."""


class StoredFile(NamedTuple):
    """One listed file: its address, as absolute as it can be, and its size in bytes."""

    uri: str
    size: int


def redact(text: str) -> str:
    """Remove `user:password@` from every address in `text`."""
    return re.sub(r"://(?:[^/:@\s]*:[^@\s]*|[^/@\s]*)@", "://", text)


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


@cache
def _s3(bucket: str) -> pafs.FileSystem:
    # from_uri honours AWS_ENDPOINT_URL, S3FileSystem() does not. A delayed open makes a small file one PUT.
    return pafs.FileSystem.from_uri(f"{_S3}{bucket}?allow_delayed_open=true")[0]


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return the Arrow file system of `uri` and the path in it.

    Raises:
        StorageError: as `absolute`.
    """
    address = absolute(uri)
    if address.startswith(_S3):
        path = address.removeprefix(_S3)
        return _s3(path.partition("/")[0]), path
    return pafs.LocalFileSystem(), address


def join(uri: str, *parts: str) -> str:
    """Return the absolute address of `parts`, taken literally, below the folder `uri`."""
    return "/".join([absolute(uri).rstrip("/"), *parts])


def parent(uri: str) -> str:
    """Return the absolute address of the folder that holds `uri`."""
    return absolute(uri).rpartition("/")[0] or "/"


def exists(uri: str) -> bool:
    """Say whether `uri` is a file or a folder (on S3: whether any key lies below it)."""
    filesystem, path = resolve(uri)
    return bool(filesystem.get_file_info(path).type != pafs.FileType.NotFound)


def is_folder(uri: str) -> bool:
    """Say whether `uri` is a folder (on S3: whether any key lies below it)."""
    filesystem, path = resolve(uri)
    return bool(filesystem.get_file_info(path).type == pafs.FileType.Directory)


def read_bytes(uri: str) -> bytes:
    """Return a file's content.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
    """
    filesystem, path = resolve(uri)
    with filesystem.open_input_file(path) as stream:
        return bytes(stream.read())


def make_parents(uri: str) -> None:
    """Create the folders above `uri` where the file system has real folders."""
    if not uri.startswith(_S3):
        Path(parent(uri)).mkdir(parents=True, exist_ok=True)


def write_atomic(uri: str, data: bytes) -> None:
    """Write a file that readers see whole or not at all, replacing one of that name; makes its folders.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    filesystem, path = resolve(uri)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        stream = filesystem.open_output_stream(path)
        stream.write(data)  # no `with`: closing after a failed write would publish the part that arrived
        stream.close()
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
    filesystem, path = resolve(uri)
    if filesystem.get_file_info(path).type == pafs.FileType.Directory:
        filesystem.delete_dir(path)


def remove(uri: str) -> None:
    """Remove one file; does nothing where there is none.

    Raises:
        OSError: it cannot be removed.
    """
    filesystem, path = resolve(uri)
    with suppress(FileNotFoundError):
        filesystem.delete_file(path)


def move(source_uri: str, target_uri: str) -> None:
    """Give a file another address in the same store, replacing one that is there; makes its folders.

    A missing source never makes a target. Local: one atomic rename. S3: a copy inside the store, then a delete, so
    that readers may see both for a moment, and two processes that move the same source at once may both succeed.

    Raises:
        FileNotFoundError: there is no such source.
        StorageError: one address is local and the other is not.
        OSError: it cannot be moved.
    """
    (filesystem, source), (other, target) = resolve(source_uri), resolve(target_uri)
    if isinstance(filesystem, pafs.LocalFileSystem) != isinstance(other, pafs.LocalFileSystem):
        raise StorageError(f"{source_uri} cannot be moved to {target_uri}: they are in different stores")
    if isinstance(filesystem, pafs.LocalFileSystem):
        make_parents(target_uri)
        Path(source).replace(target)
        return
    filesystem.copy_file(source, target)
    remove(source_uri)


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


def _walk(root: str) -> Iterator[StoredFile]:
    filesystem, path = resolve(root)
    info = filesystem.get_file_info(path)
    if info.type == pafs.FileType.NotFound:
        raise FileNotFoundError(f"{root} does not exist")
    if info.type == pafs.FileType.File:
        return iter([StoredFile(root, info.size)])
    if isinstance(filesystem, pafs.LocalFileSystem):
        return _walk_local(path)
    entries = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
    return (StoredFile(f"{_S3}{entry.path}", entry.size) for entry in entries if entry.type == pafs.FileType.File)


def list_files(uri: str, suffixes: tuple[str, ...]) -> list[StoredFile]:
    """List the files of a folder and all its subfolders, or those that match a pattern, sorted by address.

    Args:
        uri: a folder, a pattern (`is_glob`), or one file. Links are followed, but not in circles.
        suffixes: endings of the names wanted, in lower case; names may be in any case.

    Raises:
        FileNotFoundError: there is no such folder or file, or no folder for the pattern to start from.
        StorageError: a file's name is not UTF-8, or as `absolute`.
    """
    pattern = _glob_regex(absolute(uri)) if is_glob(uri) else None
    found = [
        file
        for file in _walk(glob_root(uri))
        if file.uri.lower().endswith(suffixes) and (pattern is None or pattern.fullmatch(file.uri))
    ]
    for file in found:
        try:
            file.uri.encode()
        except UnicodeEncodeError as error:
            raise StorageError(f"the file name {file.uri!a} is not UTF-8; rename it") from error
    return sorted(found)
