"""One small set of functions over addresses, for all stores.

An address (`uri`) is a local path as typed, a percent-encoded `file://` URI, or `s3://bucket/key`, `gs://bucket/key`
or `az://container/key` with the key taken literally. Credentials, region and endpoint come from the environment, never
from an address: addresses are written into manifests, results and logs.
"""

from __future__ import annotations

import errno
import io
import os
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipeline.errors import StorageError
from pipeline.storage import environment, retrying
from pipeline.storage.stores import scheme_of, store_of

T = TypeVar("T")

redact = environment.redact
worker_environment = environment.worker_environment
retries = retrying.retries
StoreAwayError = retrying.StoreAwayError


def absolute(uri: str) -> str:
    """Return the address under which any process finds `uri`: an absolute local path or `s3://bucket/key`.

    Raises:
        StorageError: the address is empty, holds credentials, or has another scheme.
    """
    return store_of(uri).absolute(uri)


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return the Arrow file system of `uri` and the path in it.

    Raises:
        StorageError: as `absolute`.
    """
    return store_of(uri).arrow(absolute(uri))


def join(uri: str, *parts: str) -> str:
    """Return the absolute address of `parts`, taken literally, below the folder `uri`."""
    return "/".join([absolute(uri).rstrip("/"), *parts])


def parent(uri: str) -> str:
    """Return the absolute address of the folder that holds `uri`; of a bucket, the bucket itself."""
    address = absolute(uri)
    above = address.rpartition("/")[0] or "/"
    return address if above.endswith(":/") else above


def is_local(uri: str) -> bool:
    """Say whether an address is a path of this machine's file systems, shared folders included."""
    return scheme_of(uri) in {"", "file"}


def check_writable(uri: str) -> None:
    """Make sure that a file or folder can be made; a store only has to answer.

    Raises:
        PermissionError: the nearest folder that there is, on this machine, may not be written to.
        OSError: the store gives no answer.
    """
    if not is_local(uri):
        exists(uri)
        return
    folder = Path(absolute(uri))
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, "this folder may not be written to", str(folder))


def exists(uri: str) -> bool:
    """Say whether `uri` is a file or a folder (in a store: whether any key lies below it).

    Raises:
        OSError: the store does not say.
    """
    return store_of(uri).size(absolute(uri)) is not None or is_folder(uri)


def is_folder(uri: str) -> bool:
    """Say whether `uri` is a folder (in a store: whether any key lies below it).

    Raises:
        OSError: the store does not say.
    """
    return store_of(uri).is_folder(absolute(uri))


def read_bytes(uri: str) -> bytes:
    """Return a file's content, whole.

    A name is also found in Unicode's other form: macOS writes an é as two characters (NFD), most lists as one (NFC).

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: it may not be read.
        OSError: it cannot be read.
    """
    store, address = store_of(uri), absolute(uri)
    try:
        return store.read(address)
    except FileNotFoundError:
        for spelling in _other_spellings(address):
            with suppress(FileNotFoundError):
                return store.read(spelling)
        raise


def read_range(uri: str, start: int, size: int) -> bytes:
    """Return `size` bytes of a file, at least 1, from `start` on, which lies in the file; fewer where it ends.

    Raises:
        OSError: as `read_bytes`.
    """
    return store_of(uri).read_range(absolute(uri), start, size)


def size(uri: str) -> int:
    """Return a file's size in bytes.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the store does not say.
    """
    found = store_of(uri).size(absolute(uri))
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), absolute(uri))
    return found


def _other_spellings(address: str) -> Iterator[str]:
    """Yield the address with its last names, one, two, up to all of them, in Unicode's composed and decomposed form."""
    if address.isascii():
        return
    names = address.split("/")
    tried = {address}
    for first in reversed(range(len(names))):
        for form in ("NFC", "NFD"):
            spelling = "/".join([*names[:first], *(unicodedata.normalize(form, name) for name in names[first:])])
            if spelling not in tried:
                tried.add(spelling)
                yield spelling


def read_image(uri: str) -> bytes:
    """Like `read_bytes`, but tells a file that cannot be read from a store that is out of reach.

    Raises:
        StoreAwayError: the store gives no answer at all, or does not accept the credentials.
        OSError: as `read_bytes`.
    """
    return told_apart(uri, partial(read_bytes, uri))


def told_apart(uri: str, read: Callable[[], T]) -> T:
    """Return what `read` returns, which reads `uri`; tells a file that cannot be read from a store out of reach.

    Raises:
        StoreAwayError: the store gives no answer at all, or does not accept the credentials.
        Exception: any other error of `read`.
    """
    try:
        return read()
    except (FileNotFoundError, PermissionError):
        raise
    except OSError:
        _wait_for_answer(parent(uri))
        return read()  # the store may have been out of reach until now


def _wait_for_answer(uri: str) -> None:
    try:
        is_folder(uri)
    except PermissionError:  # also an answer: listing may be forbidden
        return
    except OSError as error:  # also from a network drive: a stale handle, no connection
        raise StoreAwayError(str(error)) from None


def make_parents(uri: str) -> None:
    """Create the folders above `uri`, if the store has real folders."""
    store_of(uri).make_parents(absolute(uri))


def write_atomic(uri: str, data: bytes) -> None:
    """Write a file that readers see whole or not at all, replacing one of that name; makes its folders.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    store_of(uri).write(absolute(uri), data)


def write_parquet(uri: str, table: pa.Table) -> None:
    """Write a table to one Parquet file, whole or not at all.

    Raises:
        OSError: as `write_atomic`.
    """
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_atomic(uri, buffer.getvalue())


def remove_folder(uri: str) -> None:
    """Remove a folder and everything in it; does nothing if there is none.

    Raises:
        OSError: something in it cannot be removed.
    """
    store_of(uri).remove_folder(absolute(uri))


def remove(uri: str) -> None:
    """Remove one file; does nothing if there is none.

    Raises:
        OSError: it cannot be removed.
    """
    store_of(uri).remove(absolute(uri))


def move(source_uri: str, target_uri: str) -> None:
    """Move a file to another address in the same store, replacing a file there; makes its folders.

    A missing source never creates a target. Local: one atomic rename. Elsewhere: a copy, then a delete. So
    readers may see both for a moment, and two processes that move the same source at once may both succeed.

    Raises:
        FileNotFoundError: there is no such source.
        StorageError: the addresses have different schemes.
        OSError: it cannot be moved.
    """
    source, target = absolute(source_uri), absolute(target_uri)
    if scheme_of(source) != scheme_of(target):
        raise StorageError(f"{source_uri} cannot be moved to {target_uri}: they are in different stores")
    store_of(source).move(source, target)
