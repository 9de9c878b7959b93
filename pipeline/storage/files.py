"""Where files live: one small set of functions over addresses, for local paths, `file://` and `s3://`.

An address (`uri`) is a local path as typed, a percent-encoded `file://` URI, or `s3://bucket/key` with the key taken
literally. S3 credentials, region and endpoint come from the environment (`AWS_*`), never from an address: addresses
are written into manifests, results and logs. What S3 does by accident is tried again (`storage.retrying`); what
remains is a FileNotFoundError, a PermissionError or another OSError.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote
from uuid import uuid4

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipeline.errors import StorageError
from pipeline.storage import retrying, s3_environment

redact = s3_environment.redact
worker_environment = s3_environment.worker_environment
retries = retrying.retries
StoreAwayError = retrying.StoreAwayError

_S3 = "s3://"
_FILE = "file://"


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


def s3_store() -> ModuleType:
    """The module for addresses on S3."""
    from pipeline.storage import s3

    return s3


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return the Arrow file system of `uri` and the path in it.

    Raises:
        StorageError: as `absolute`.
    """
    address = absolute(uri)
    if is_s3(address):
        path = address.removeprefix(_S3)
        return s3_store().arrow_filesystem(path.partition("/")[0]), path
    return pafs.LocalFileSystem(), address


def join(uri: str, *parts: str) -> str:
    """Return the absolute address of `parts`, taken literally, below the folder `uri`."""
    return "/".join([absolute(uri).rstrip("/"), *parts])


def parent(uri: str) -> str:
    """Return the absolute address of the folder that holds `uri`."""
    return absolute(uri).rpartition("/")[0] or "/"


def is_s3(uri: str) -> bool:
    """Say whether `uri` is an address on S3."""
    return uri.startswith(_S3)


def exists(uri: str) -> bool:
    """Say whether `uri` is a file or a folder (on S3: whether any key lies below it).

    Raises:
        OSError: the store does not say.
    """
    address = absolute(uri)
    if is_s3(address):
        return s3_store().size(address) is not None or is_folder(address)
    return Path(address).exists()


def is_folder(uri: str) -> bool:
    """Say whether `uri` is a folder (on S3: whether any key lies below it).

    Raises:
        OSError: the store does not say.
    """
    address = absolute(uri)
    return bool(s3_store().is_folder(address)) if is_s3(address) else Path(address).is_dir()


def read_bytes(uri: str) -> bytes:
    """Return a file's content, whole.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: it may not be read.
        OSError: it cannot be read.
    """
    address = absolute(uri)
    return bytes(s3_store().read(address)) if is_s3(address) else Path(address).read_bytes()


def read_image(uri: str) -> bytes:
    """`read_bytes`, for where a file that cannot be read counts as bad: tells a bad file from a store that is away.

    Raises:
        StoreAwayError: the store does not answer anything, or does not know the credentials.
        OSError: as `read_bytes`.
    """
    try:
        return read_bytes(uri)
    except (FileNotFoundError, PermissionError):
        raise
    except OSError:
        _wait_for_answer(parent(uri))
        return read_bytes(uri)  # also where the store was away until a moment ago


def _wait_for_answer(uri: str) -> None:
    try:
        is_folder(uri)
    except PermissionError:  # an answer, too: listing may be forbidden
        return
    except OSError as error:  # also of a network drive: a stale handle, no connection
        raise StoreAwayError(str(error)) from None


def make_parents(uri: str) -> None:
    """Create the folders above `uri` where the file system has real folders."""
    if not is_s3(uri):
        Path(parent(uri)).mkdir(parents=True, exist_ok=True)


def write_atomic(uri: str, data: bytes) -> None:
    """Write a file that readers see whole or not at all, replacing one of that name; makes its folders.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    path = absolute(uri)
    if is_s3(path):
        s3_store().write(path, data)
        return
    make_parents(uri)
    aside = Path(path).with_name(f".{uuid4().hex}.tmp")
    try:
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut can leave the new name on an empty file
        aside.replace(path)
    except OSError as error:  # of a full disk it names no file
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        with suppress(OSError):  # it is not there, or the disk cannot be written any more
            aside.unlink()


def write_parquet(uri: str, table: pa.Table) -> None:
    """Write a table to one Parquet file, whole or not at all.

    Raises:
        OSError: as `write_atomic`.
    """
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_atomic(uri, buffer.getvalue())


def remove_folder(uri: str) -> None:
    """Remove a folder and everything in it; does nothing where there is none."""
    address = absolute(uri)
    if is_s3(address):
        s3_store().remove_below(address)
    elif Path(address).is_dir():
        shutil.rmtree(address)


def remove(uri: str) -> None:
    """Remove one file; does nothing where there is none.

    Raises:
        OSError: it cannot be removed.
    """
    address = absolute(uri)
    if is_s3(address):
        s3_store().remove(address)
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
    if is_s3(source) != is_s3(target):
        raise StorageError(f"{source_uri} cannot be moved to {target_uri}: they are in different stores")
    if not is_s3(source):
        make_parents(target_uri)
        Path(source).replace(target)
    elif source != target:
        s3_store().copy(source, target)
        s3_store().remove(source)
