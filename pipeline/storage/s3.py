"""S3 by addresses `s3://bucket/key`: single objects and listings.

botocore does the work, because Arrow's client lists everything before it returns anything, sends two requests for one
read, and leaves marker objects behind when it deletes. Arrow's client only reads Parquet in parts
(`s3_client.arrow_filesystem`).

A store has to support PUT, GET, HEAD, LIST and DELETE of one object. Copies inside the store and deletes of many
objects at once are used if the store accepts them; several S3-compatible stores refuse them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import pyarrow.fs as pafs

from pipeline.errors import StorageError
from pipeline.storage.base import Page, Selection
from pipeline.storage.environment import redact
from pipeline.storage.keys import choose
from pipeline.storage.retrying import CredentialsError, TransientError
from pipeline.storage.s3_client import BUSY, arrow_filesystem, call
from pipeline.storage.s3_environment import set_defaults

_S3 = "s3://"
_THREADS = 16
_SPLIT_LEVELS = 3

_log = logging.getLogger(__name__)


class S3Store:
    """Objects on S3 and S3-compatible stores (a `Store`)."""

    def __init__(self) -> None:
        set_defaults()

    def absolute(self, uri: str) -> str:
        """Return `s3://bucket/key` without trailing slashes."""
        bucket = uri.removeprefix(_S3).partition("/")[0]
        if bucket.startswith("arn:"):
            raise StorageError(f"{uri}: an ARN is no address here; write s3://ALIAS/key with the access point's alias, "
                               "which ends in -s3alias (its page in the console shows it)")  # fmt: skip
        if "@" in bucket or ":" in bucket:
            raise StorageError(
                f"{redact(uri)}: credentials and ports do not belong in an address; set "
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL instead"
            )
        if not bucket:
            raise StorageError(f"{uri}: no bucket; write s3://bucket/key")
        return uri.rstrip("/")

    def read(self, address: str) -> bytes:
        """Return an object's content, whole."""
        return _get(address)

    def read_range(self, address: str, start: int, size: int) -> bytes:
        """Return a part of an object."""
        data = _get(address, Range=f"bytes={start}-{start + size - 1}")
        if len(data) > size:
            raise OSError(f"{address}: the store answers a request for {size} bytes with {len(data)}")
        return data

    def write(self, address: str, data: bytes) -> None:
        """Write an object; a PUT writes it whole or not at all."""
        bucket, key = _split(address)
        call(address, lambda client: client.put_object(Bucket=bucket, Key=key, Body=data))

    def move(self, source: str, target: str) -> None:
        """Copy, then delete. If the store refuses to copy, the object is read and written here."""
        if source == target:
            return
        bucket, key = _split(target)
        copied = dict(zip(("Bucket", "Key"), _split(source), strict=True))
        try:
            call(source, lambda client: client.copy_object(Bucket=bucket, Key=key, CopySource=copied))
        except (FileNotFoundError, TransientError, CredentialsError):
            raise
        except OSError as error:
            _log.info("copied through this machine, because the store refused: %s", error)
            self.write(target, self.read(source))
        self.remove(source)

    def remove(self, address: str) -> None:
        """Remove an object; does nothing if there is none."""
        bucket, key = _split(address)
        try:
            call(address, lambda client: client.delete_object(Bucket=bucket, Key=key))
        except FileNotFoundError:
            return

    def remove_folder(self, address: str) -> None:
        """Remove every object whose key lies below `address`, one by one if the store refuses to remove many."""
        bucket, key = _split(address)
        at_once = True
        with ThreadPoolExecutor(_THREADS) as pool:
            for sizes in _pages(bucket, f"{key}/" if key else ""):
                try:
                    at_once = at_once and _removed_at_once(bucket, list(sizes))
                except CredentialsError:
                    raise
                except OSError as error:  # if there is another reason, deleting single objects fails too
                    _log.info("objects are removed one by one, because the store refused: %s", error)
                    at_once = False
                if not at_once:
                    list(pool.map(self.remove, [f"{_S3}{bucket}/{name}" for name in sizes]))

    def size(self, address: str) -> int | None:
        """Return an object's size in bytes (0 if the store does not say it); None if there is no object."""
        bucket, key = _split(address)
        if not key:
            return None
        try:
            return int(call(address, lambda client: client.head_object(Bucket=bucket, Key=key).get("ContentLength", 0)))
        except FileNotFoundError:
            return None

    def is_folder(self, address: str) -> bool:
        """Say whether any key lies below `address`, or whether there is such a bucket."""
        bucket, key = _split(address)
        try:
            page = _page(bucket, f"{key}/" if key else "", keys=1)
        except FileNotFoundError:
            return False
        return not key or bool(page.sizes)

    def make_parents(self, address: str) -> None:
        """Do nothing: S3 has no folders."""

    def arrow(self, address: str) -> tuple[pafs.FileSystem, str]:
        """Return Arrow's client for a bucket, and bucket and key in the form that it needs."""
        bucket, _ = _split(address)
        return arrow_filesystem(bucket), address.removeprefix(_S3)

    def files(self, selection: Selection, beginning: str) -> Iterator[Page]:
        """List the objects whose addresses begin with `beginning`, page by page, several sub-prefixes at once."""
        bucket, prefix = _split(beginning)
        chosen = partial(choose, f"{_S3}{bucket}/", selection, {})
        sizes, prefixes = _split_prefix(bucket, prefix)
        yield chosen(sizes)
        pool = ThreadPoolExecutor(_THREADS)
        try:
            for pages in pool.map(lambda below: [chosen(sizes) for sizes in _pages(bucket, below)], prefixes):
                yield from pages
        finally:
            pool.shutdown(cancel_futures=True)


def _get(address: str, **options: str) -> bytes:
    """The body of an answer to GET, whole."""
    bucket, key = _split(address)

    def get(client: Any) -> bytes:
        answer = client.get_object(Bucket=bucket, Key=key, **options)
        expected = answer.get("ContentLength")
        with closing(answer["Body"]) as body:
            data = bytes(body.read())
        if expected not in (None, len(data)):
            raise TransientError(f"{address}: {len(data)} of {expected} bytes arrived")
        return data

    return call(address, get)


def _split(address: str) -> tuple[str, str]:
    bucket, _, key = address.removeprefix(_S3).partition("/")
    return bucket, key


class _Keys(NamedTuple):
    """A page of the store's listing."""

    sizes: dict[str, int]
    folders: list[str]
    token: str | None


def _page(bucket: str, prefix: str, *, delimiter: str = "", token: str | None = None, keys: int = 1000) -> _Keys:
    options = {"Bucket": bucket, "Prefix": prefix, "Delimiter": delimiter, "MaxKeys": keys}
    options |= {"ContinuationToken": token} if token else {}
    address = f"{_S3}{bucket}/{prefix}"

    def get(client: Any) -> _Keys:
        answer = client.list_objects_v2(**options)
        try:
            cut_off = answer["IsTruncated"]
            sizes = {entry["Key"]: entry["Size"] for entry in answer.get("Contents", [])}
            folders = [entry["Prefix"] for entry in answer.get("CommonPrefixes", [])]
        except KeyError as error:  # an incomplete answer from a proxy does not mean an empty folder
            raise TransientError(f"{address}: the store's listing says no {error}") from None
        after = answer.get("NextContinuationToken")
        if cut_off and after in (None, token):
            raise OSError(f"{address}: the store cut its listing off and does not say where to go on")
        return _Keys(sizes, folders, after if cut_off else None)

    return call(address, get)


def _pages(bucket: str, prefix: str) -> Iterator[dict[str, int]]:
    page = _page(bucket, prefix)
    yield page.sizes
    while page.token:
        page = _page(bucket, prefix, token=page.token)
        yield page.sizes


def _split_prefix(bucket: str, prefix: str) -> tuple[dict[str, int], list[str]]:
    """Find prefixes below `prefix` to list in parallel, and the objects that lie above all of them."""
    sizes: dict[str, int] = {}
    whole: list[str] = []
    splittable = [prefix]
    for _ in range(_SPLIT_LEVELS):
        if len(whole) + len(splittable) >= _THREADS:
            break
        deeper: list[str] = []
        for above in splittable:
            page = _page(bucket, above, delimiter="/")
            if page.token:  # with so many entries, one request for each could cost more than it saves
                whole.append(above)
            else:
                sizes |= page.sizes
                deeper += page.folders
        splittable = deeper
    return sizes, whole + splittable


def _removed_at_once(bucket: str, keys: list[str]) -> bool:
    """Remove many objects with one request; False if the store did not remove all of them."""
    body = {"Objects": [{"Key": key} for key in keys], "Quiet": True}

    def delete(client: Any) -> bool:
        failed = client.delete_objects(Bucket=bucket, Delete=body).get("Errors", [])
        busy = [entry for entry in failed if entry.get("Code", "") in BUSY]
        if busy:
            raise TransientError(f"{_S3}{bucket}/{busy[0].get('Key', '')}: {busy[0]['Code']}")
        return not failed

    return not keys or call(f"{_S3}{bucket}", delete)
