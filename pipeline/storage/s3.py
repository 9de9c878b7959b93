"""S3 by addresses `s3://bucket/key`: single objects and listings.

Through botocore, because Arrow's client lists everything before it returns anything, asks twice to read once, and
leaves marker objects behind when it deletes. Arrow's is for reading Parquet in parts (`s3_client.arrow_filesystem`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.storage.base import LISTING_SCHEMA
from pipeline.storage.retrying import TransientError
from pipeline.storage.s3_client import BUSY, arrow_filesystem, call

__all__ = ["arrow_filesystem", "copy", "is_folder", "listing", "read", "remove", "remove_below", "size", "write"]

_LISTING_THREADS = 16
_SPLIT_LEVELS = 3


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def read(uri: str) -> bytes:
    """Return an object's content, whole."""
    bucket, key = _split(uri)

    def get(client: Any) -> bytes:
        answer = client.get_object(Bucket=bucket, Key=key)
        with closing(answer["Body"]) as body:
            data = bytes(body.read())
        if len(data) != answer["ContentLength"]:
            raise TransientError(f"{uri}: {len(data)} of {answer['ContentLength']} bytes arrived")
        return data

    return call(uri, get)


def write(uri: str, data: bytes) -> None:
    """Write an object; a PUT is whole or not at all."""
    bucket, key = _split(uri)
    call(uri, lambda client: client.put_object(Bucket=bucket, Key=key, Body=data))


def copy(source_uri: str, target_uri: str) -> None:
    """Copy an object inside the store; without a source there is no target."""
    source_bucket, source_key = _split(source_uri)
    bucket, key = _split(target_uri)
    source = {"Bucket": source_bucket, "Key": source_key}
    call(source_uri, lambda client: client.copy_object(Bucket=bucket, Key=key, CopySource=source))


def remove(uri: str) -> None:
    """Remove an object; does nothing where there is none."""
    bucket, key = _split(uri)
    try:
        call(uri, lambda client: client.delete_object(Bucket=bucket, Key=key))
    except FileNotFoundError:
        return


def size(uri: str) -> int | None:
    """Return an object's size in bytes; None where there is no object."""
    bucket, key = _split(uri)
    if not key:
        return None
    try:
        return int(call(uri, lambda client: client.head_object(Bucket=bucket, Key=key)["ContentLength"]))
    except FileNotFoundError:
        return None


def is_folder(uri: str) -> bool:
    """Say whether any key lies below `uri`, or whether there is such a bucket."""
    bucket, key = _split(uri)
    try:
        page = _page(bucket, f"{key}/" if key else "", keys=1)
    except FileNotFoundError:
        return False
    return not key or bool(page.sizes)


class _Page(NamedTuple):
    sizes: dict[str, int]
    folders: list[str]
    token: str | None


def _page(bucket: str, prefix: str, *, delimiter: str = "", token: str | None = None, keys: int = 1000) -> _Page:
    options = {"Bucket": bucket, "Prefix": prefix, "Delimiter": delimiter, "MaxKeys": keys}
    options |= {"ContinuationToken": token} if token else {}
    answer = call(f"s3://{bucket}/{prefix}", lambda client: client.list_objects_v2(**options))
    return _Page(
        {entry["Key"]: entry["Size"] for entry in answer.get("Contents", [])},
        [entry["Prefix"] for entry in answer.get("CommonPrefixes", [])],
        answer.get("NextContinuationToken") if answer["IsTruncated"] else None,
    )


def _pages(bucket: str, prefix: str) -> Iterator[dict[str, int]]:
    page = _page(bucket, prefix)
    yield page.sizes
    while page.token:
        page = _page(bucket, prefix, token=page.token)
        yield page.sizes


def _split_prefix(bucket: str, prefix: str) -> tuple[dict[str, int], list[str]]:
    """Find prefixes below `prefix` to list side by side, and the objects that lie above all of them."""
    sizes: dict[str, int] = {}
    whole: list[str] = []
    splittable = [prefix]
    for _ in range(_SPLIT_LEVELS):
        if len(whole) + len(splittable) >= _LISTING_THREADS:
            break
        deeper: list[str] = []
        for above in splittable:
            page = _page(bucket, above, delimiter="/")
            if page.token:  # so many entries that one request for each could cost more than it gains
                whole.append(above)
            else:
                sizes |= page.sizes
                deeper += page.folders
        splittable = deeper
    return sizes, whole + splittable


def listing(bucket: str, prefix: str, wanted: Callable[[str], bool]) -> Iterator[pa.RecordBatch]:
    """List the objects whose keys begin with `prefix`, page by page, several sub-prefixes at once; in no order.

    Args:
        bucket: where.
        prefix: beginning of the keys, not necessarily a whole folder name.
        wanted: is given each address and says whether to list it.
    """

    def batch(sizes: dict[str, int]) -> pa.RecordBatch:
        found = {f"s3://{bucket}/{key}": size for key, size in sizes.items() if not key.endswith("/")}
        kept = [uri for uri in found if wanted(uri)]
        return pa.record_batch([kept, [found[uri] for uri in kept]], schema=LISTING_SCHEMA)

    sizes, prefixes = _split_prefix(bucket, prefix)
    yield batch(sizes)
    pool = ThreadPoolExecutor(_LISTING_THREADS)
    try:
        for batches in pool.map(lambda below: [batch(page) for page in _pages(bucket, below)], prefixes):
            yield from batches
    finally:
        pool.shutdown(cancel_futures=True)


def remove_below(uri: str) -> None:
    """Remove every object whose key lies below the folder `uri`.

    Raises:
        OSError: some could not be removed.
    """
    bucket, key = _split(uri)
    for page in _pages(bucket, f"{key}/" if key else ""):
        if page:
            _remove_keys(bucket, list(page))


def _remove_keys(bucket: str, keys: list[str]) -> None:
    body = {"Objects": [{"Key": key} for key in keys], "Quiet": True}

    def delete(client: Any) -> None:
        failed = client.delete_objects(Bucket=bucket, Delete=body).get("Errors", [])
        if failed:
            code, key = failed[0].get("Code", ""), failed[0].get("Key", "")
            message = f"s3://{bucket}/{key}: {code}, and {len(failed) - 1} more could not be removed"
            raise TransientError(message) if code in BUSY else OSError(message)

    call(f"s3://{bucket}", delete)
