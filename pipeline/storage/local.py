"""Files on this machine's file systems, shared folders included."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from heapq import heappop, heappush
from itertools import islice
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote
from uuid import uuid4

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.errors import StorageError
from pipeline.storage.base import (
    AGAIN,
    HIDDEN,
    LISTING_SCHEMA,
    NOWHERE,
    SPECIAL,
    Page,
    Selection,
    StoredFile,
)
from pipeline.storage.environment import redact

_FILE = "file://"
_ONE_SLASH = re.compile(r"(s3|gs|az):/(?=[^/])")
"""An address of a store that lacks a slash; a local folder of that name is written ./gs:/folder."""
_FULL = {
    errno.ENOSPC: "the disk is full, make room there",
    errno.EDQUOT: "the quota on this disk is used up, make room there",
}
_BATCH = 1000
_LEADS_NOWHERE = {errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG}


def _without_dots(path: Path) -> str:
    """An absolute path without `..`, which of a linked folder is where the link leads, as the system takes it."""
    up = [number for number, part in enumerate(path.parts) if part == ".."]
    if not up:
        return str(path)
    folder, rest = path.parts[: up[-1] + 1], path.parts[up[-1] + 1 :]
    return str(Path(os.path.realpath(Path(*folder)), *rest))


class LocalStore:
    """Local paths and percent-encoded `file://` URIs (a `Store`)."""

    def absolute(self, uri: str) -> str:
        """Return an absolute path; `~` and `~user` at the beginning are home folders, as in a shell."""
        if uri.startswith(_FILE):
            path = unquote(uri.removeprefix(_FILE).removeprefix("localhost"))
            if not path.startswith("/"):
                raise StorageError(f"{redact(uri)}: a file address has three slashes and an absolute path, "
                                   "file:///folder")  # fmt: skip
            return _without_dots(Path(path))
        if not uri:
            raise StorageError("an address is empty; use a local path, file://, s3://, gs:// or az://")
        if mistyped := _ONE_SLASH.match(uri):
            raise StorageError(f"{redact(uri)}: did you mean {mistyped[1]}://{redact(uri[mistyped.end() :])}?")
        return _without_dots(Path(os.path.expanduser(uri)).absolute())  # noqa: PTH111  (unknown users stay)

    def read(self, address: str) -> bytes:
        """Return a file's content."""
        with _open_regular(address) as file:
            return file.read()

    def read_range(self, address: str, start: int, size: int) -> bytes:
        """Return a part of a file."""
        with _open_regular(address) as file:
            file.seek(start)
            return file.read(size)

    def write(self, address: str, data: bytes) -> None:
        """Write a temporary file, then rename it."""
        self.make_parents(address)
        aside = Path(address).with_name(f".{uuid4().hex}.tmp")
        try:
            with aside.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # without it, a power cut can leave an empty file under the new name
            aside.replace(address)
        except OSError as error:  # for a full disk it names no file
            raise _with_advice(error, address) from None
        finally:
            with suppress(OSError):  # there is none, or the disk can no longer be written
                aside.unlink()

    def move(self, source: str, target: str) -> None:
        """Rename; if two processes move the same file, only one succeeds."""
        self.make_parents(target)
        Path(source).replace(target)

    def remove(self, address: str) -> None:
        """Remove a file."""
        Path(address).unlink(missing_ok=True)

    def remove_folder(self, address: str) -> None:
        """Remove a folder."""
        if Path(address).is_dir():
            shutil.rmtree(address)

    def size(self, address: str) -> int | None:
        """Return a file's size."""
        path = Path(address)
        return path.stat().st_size if path.exists() and not path.is_dir() else None

    def is_folder(self, address: str) -> bool:
        """Say whether there is a folder."""
        return Path(address).is_dir()

    def make_parents(self, address: str) -> None:
        """Create folders."""
        try:
            Path(address).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _with_advice(error, error.filename) from None

    def arrow(self, address: str) -> tuple[pafs.FileSystem, str]:
        """Return Arrow's local file system."""
        return pafs.LocalFileSystem(), address

    def files(self, selection: Selection, beginning: str) -> Iterator[Page]:  # noqa: ARG002  (of S3 only)
        """List by walking; see `_walk`."""
        walk = _walk(selection)
        while part := list(islice(walk, _BATCH)):
            found = [entry for entry in part if isinstance(entry, StoredFile)]
            left_aside = Counter(entry for entry in part if isinstance(entry, str) and entry)
            try:
                yield Page(_batch(found), left_aside)
            except UnicodeEncodeError as error:
                raise StorageError(f"the file name {error.object!a} is not UTF-8; rename it") from error


def _with_advice(error: OSError, address: str) -> OSError:
    return OSError(error.errno, _FULL.get(error.errno or 0, error.strerror), address)


@contextmanager
def _open_regular(address: str) -> Iterator[BinaryIO]:
    with open(address, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a pipe would never end
            raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, and no file", address)
        yield file


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # opening a pipe waits for its other end otherwise


def _batch(files: list[StoredFile]) -> pa.RecordBatch:
    return pa.record_batch([[file.uri for file in files], [file.size for file in files]], schema=LISTING_SCHEMA)


def _walk(selection: Selection) -> Iterator[StoredFile | str]:
    """Yield the files wanted, and for each other entry the reason (`Selection.file_left_aside`).

    Each real folder is walked once. Folders below the root come first, under their own names; links to other folders
    are followed after that, in the order of their names. A folder that cannot be read ends the listing with its error.
    Arrow's own listing follows links in circles and stops at names that are not UTF-8; `os.walk` hides errors.
    """
    root = os.path.realpath(selection.root)
    links, seen = [(selection.root, root)], set[str]()
    while links:
        folders = [heappop(links)]
        if folders[0][1] in seen:
            yield AGAIN
            continue
        while folders:
            folder, real = folders.pop()
            seen.add(real)
            with os.scandir(folder) as entries:
                for entry in entries:
                    inner = f"{real.rstrip('/')}/{entry.name}"
                    kind = _kind(entry, selection)
                    if kind != "folder":
                        yield _file(entry, selection, kind)
                    elif (reason := selection.folder_left_aside(entry.path)) is not None:
                        yield reason
                    elif entry.is_symlink() and not _lies_below((root, inner), target := os.path.realpath(inner)):
                        heappush(links, (entry.path, target))
                    elif entry.is_symlink() or inner in seen:
                        yield AGAIN
                    else:
                        folders.append((entry.path, inner))


def _lies_below(paths: tuple[str, ...], folder: str) -> bool:
    return any(f"{path}/".startswith(f"{folder.rstrip('/')}/") for path in paths)


def _kind(entry: os.DirEntry[str], selection: Selection) -> str:
    """Return "folder" or "file", links followed; `SPECIAL`; or `NOWHERE` for a broken link."""
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    if entry.is_file(follow_symlinks=False):
        return "file"
    if not entry.is_symlink():
        return SPECIAL
    try:
        mode = entry.stat().st_mode
    except OSError as error:
        if error.errno in _LEADS_NOWHERE or selection.file_left_aside(entry.path) is None:
            return NOWHERE
        raise  # otherwise its target, perhaps a whole folder, would be missing unnoticed
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else SPECIAL


def _file(entry: os.DirEntry[str], selection: Selection, kind: str) -> StoredFile | str:
    reason = selection.file_left_aside(entry.path)
    if reason is not None:
        return NOWHERE if kind == NOWHERE and reason not in ("", HIDDEN) else reason
    if kind == "file":
        with suppress(FileNotFoundError):  # removed a moment ago: reading it will report that
            return StoredFile(entry.path, entry.stat().st_size)
    return SPECIAL if kind == SPECIAL else StoredFile(entry.path, 0)
