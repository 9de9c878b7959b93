"""An image's bytes from its address in a manifest: a file, a member of a tar file, a row of a Parquet file.

Nothing of what is read is executed: tar and Parquet files are data, and nothing in them is unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.errors import ImageError
from pipeline.inputs import parquet_images, tar_images

AT_ONCE = 16
"""Requests to a store at the same time in one process, and images that wait in memory to be decoded."""

_ROWS_A_CHUNK = 100_000

Read = Callable[[], bytes]


def in_container(uri: str) -> bool:
    """Whether an address names an image inside of a tar or Parquet file, and no file of its own."""
    return file_of(uri) != uri


def file_of(uri: str) -> str:
    """The address of the file that holds an image: its own, or that of a tar or Parquet file."""
    if (member := tar_images.place_of(uri)) is not None:
        return member.archive
    row = parquet_images.place_of(uri)
    return uri if row is None else row.group.file


def in_reading_order(manifest: pa.Table) -> pa.Table:
    """The same images, those of one row group of a Parquet file one after the other, whatever their ids.

    So a block of images reads few row groups. Without such images nothing changes.
    """
    if not pc.any(pc.match_substring(manifest["uri"], parquet_images.MARK)).as_py():
        return manifest
    # Large strings: all addresses may take more than the 2 GB of a plain string array.
    large = manifest.cast(pa.schema([(name, pa.large_string()) for name in manifest.column_names]))
    batches = large.take(pc.sort_indices(large["uri"])).to_batches(max_chunksize=_ROWS_A_CHUNK)
    return pa.Table.from_batches([batch.cast(manifest.schema) for batch in batches], manifest.schema)


def read_image(uri: str) -> bytes:
    """The bytes of an image.

    Args:
        uri: of a manifest: a file's address, or one that `tar_images` or `parquet_images` made.

    Raises:
        StoreAwayError: the store gives no answer at all, or does not accept the credentials.
        ImageError: a row of a Parquet file has no bytes.
        OSError: they cannot be read.
    """
    return _there(_read([uri])[0])


def read_ahead(uris: Sequence[str]) -> Generator[Read]:
    """Read images in threads, some before they are asked for; those of one row group of a Parquet file together.

    Threads wait for a store better than they decode: so the caller decodes, in one thread, while others wait.

    Args:
        uris: as for `read_image`.

    Yields:
        For each image, in order, a function to be called once: it waits for the bytes and returns them, or raises as
        `read_image`.
    """
    units = _units(uris)
    unit_of = {position: number for number, unit in enumerate(units) for position in unit}
    reads: dict[int, Future[dict[int, bytes | None]]] = {}

    def read(unit: list[int]) -> dict[int, bytes | None]:
        return dict(zip(unit, _read([uris[position] for position in unit]), strict=True))

    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        for position in range(len(uris)):
            for ahead in range(position, min(position + AT_ONCE, len(uris))):
                if (number := unit_of[ahead]) not in reads:
                    reads[number] = pool.submit(read, units[number])
            yield partial(_take, reads[unit_of[position]], position)
    finally:
        pool.shutdown(cancel_futures=True)


def _take(read: Future[dict[int, bytes | None]], position: int) -> bytes:
    return _there(read.result().pop(position))


def _there(data: bytes | None) -> bytes:
    if data is None:
        raise ImageError("empty", "the row of the Parquet file has no bytes")
    return data


def _units(uris: Sequence[str]) -> list[list[int]]:
    """Positions of the images that are read together."""
    groups: dict[object, list[int]] = {}
    for position, uri in enumerate(uris):
        place = parquet_images.place_of(uri)
        groups.setdefault(position if place is None else place.group, []).append(position)
    return list(groups.values())


def _read(uris: Sequence[str]) -> list[bytes | None]:
    """The bytes of an image, or of several in one row group."""
    rows = [place for uri in uris if (place := parquet_images.place_of(uri)) is not None]
    if rows:
        group = rows[0].group
        return storage.told_apart(group.file, partial(parquet_images.read, group, [place.row for place in rows]))
    member = tar_images.place_of(uris[0])
    if member is not None:
        return [storage.told_apart(member.archive, partial(tar_images.read, member))]
    return [storage.read_image(uris[0])]
