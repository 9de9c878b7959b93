"""The output contract: what a run writes (`outputs.writing`), and how it is read.

    OUTPUT/results/part-*.parquet   one row for each segmented image (`RESULTS_SCHEMA`), its mask included
    OUTPUT/errors/part-*.parquet    one row for each image that failed (`ERRORS_SCHEMA`), with the reason
    OUTPUT/skipped/part-*.parquet   one row for each image that the settings leave out (`SKIPPED_SCHEMA`), and why
    OUTPUT/masks/<image_id>.png     the same masks as files (`layout.mask_path`)

Class names are in the metadata of every Parquet file. Files appear whole or not at all, and writing the same images
again gives the same names. If an image is in the results, an older failure in the errors no longer counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config.shards import WHOLE, Shard
from pipeline.errors import FolderError, ResultsError
from pipeline.outputs import layout
from pipeline.outputs.schema import CLASS_NAMES, ERRORS_SCHEMA, RESULTS_SCHEMA, SCHEMAS, SKIPPED_SCHEMA
from pipeline.storage import listing
from pipeline.storage.retrying import TransientError, retrying_arrow

T = TypeVar("T")

_READERS = 16


def finished_ids(output_uri: str) -> pa.ChunkedArray:
    """Return the ids of all images that are done: in results, errors or skipped; none if nothing was written yet.

    Raises:
        ResultsError: a file is damaged or foreign.
    """
    return joined(*(ids_in(output_uri, folder) for folder in SCHEMAS))


def forget_errors(output_uri: str, shard: Shard = WHOLE) -> None:
    """Remove the error rows of all images, or of those of a shard: these images are then not done yet.

    Raises:
        FolderError: a file holds images of this shard and of others.
        ResultsError: a file is damaged or foreign.
    """
    if shard == WHOLE:
        return storage.remove_folder(storage.join(output_uri, layout.ERRORS))
    own = []
    for uri, table in scan_parts(output_uri, layout.ERRORS, ["image_id"]):
        here = len(shard.share_of(table))
        if 0 < here < len(table):
            raise FolderError(
                f"{uri} holds failed images of shard {shard} and of others, since it was not written by a shard of "
                f"{shard.of}; to try them again, give --retry-failed without --shard when no shard is at work"
            )
        own += [uri] if here else []
    for uri in own:
        storage.remove(uri)
    return None


def read_results(output_uri: str, columns: list[str] | None = None) -> pa.Table:
    """Read all results, or some columns of them; an empty table if nothing was written yet.

    Raises:
        ResultsError: a file is damaged or foreign.
    """
    wanted = RESULTS_SCHEMA if columns is None else pa.schema([RESULTS_SCHEMA.field(name) for name in columns])
    return pa.Table.from_batches(_scan(output_uri, layout.RESULTS, wanted.names), wanted)


def scan_results(output_uri: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Yield results row by row, for tables with masks that are larger than memory.

    Raises:
        ResultsError: a file is damaged or foreign.
    """
    for batch in _scan(output_uri, layout.RESULTS, columns):
        yield from batch.to_pylist()


def read_errors(output_uri: str) -> pa.Table:
    """Read the errors that still count: those of images that no later attempt segmented.

    Raises:
        ResultsError: a file is damaged or foreign.
    """
    errors = pa.Table.from_batches(_scan(output_uri, layout.ERRORS, ERRORS_SCHEMA.names), ERRORS_SCHEMA)
    return errors.filter(pc.invert(pc.is_in(errors["image_id"], value_set=ids_in(output_uri, layout.RESULTS))))


def read_skipped(output_uri: str) -> pa.Table:
    """Read which images the settings left out, and why.

    Raises:
        ResultsError: a file is damaged or foreign.
    """
    return pa.Table.from_batches(_scan(output_uri, layout.SKIPPED, SKIPPED_SCHEMA.names), SKIPPED_SCHEMA)


def read_manifest(output_uri: str, columns: Sequence[str] = ("image_id", "uri")) -> pa.Table:
    """Read which images a run has.

    Args:
        output_uri: the output folder.
        columns: those to read.

    Raises:
        ResultsError: the file is missing or damaged.
    """
    uri = storage.join(output_uri, layout.MANIFEST)
    return _read_parquet(uri, lambda file: file.read(columns=list(columns), use_threads=False))


def read_class_names(output_uri: str) -> tuple[str, ...]:
    """Return the class names that the results were written with, background first.

    Raises:
        ResultsError: nothing was written, or the files hold no class names.
    """
    files = [file for folder in SCHEMAS for file in _parts(output_uri, folder)]
    if not files:
        raise ResultsError(f"{output_uri} holds no results; give the output folder of a run")
    metadata = _read_parquet(files[0], lambda file: file.schema_arrow.metadata) or {}
    if CLASS_NAMES not in metadata:
        raise ResultsError(f"{files[0]} holds no class names; it was not written by this pipeline")
    return tuple(json.loads(metadata[CLASS_NAMES]))


def images_per_class(output_uri: str) -> dict[str, int]:
    """Number of images in which each class has at least one pixel, by class name, background first.

    Raises:
        ResultsError: there are no results, or a file is damaged or foreign.
    """
    names = read_class_names(output_uri)
    found = np.zeros(len(names), np.int64)
    for batch in _scan(output_uri, layout.RESULTS, ["pixel_counts"]):
        counts = pc.list_flatten(batch["pixel_counts"]).to_numpy(zero_copy_only=False).reshape(-1, len(names))
        found += (counts > 0).sum(0)
    return dict(zip(names, found.tolist(), strict=True))


def joined(*ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids, one after the other."""
    return pa.chunked_array([chunk for one in ids for chunk in one.chunks], pa.string())


def scan_parts(output_uri: str, folder: str, columns: list[str]) -> Iterator[tuple[str, pa.Table]]:
    """Yield address and some columns of each file of results, errors or skipped images; few are in memory at once.

    A file that is removed meanwhile has no rows: a shard may forget its errors while another one reads.

    Args:
        output_uri: the output folder.
        folder: one of `SCHEMAS`.
        columns: names in its schema.

    Raises:
        ResultsError: a file is damaged or foreign.
    """
    files = _parts(output_uri, folder)
    wanted = pa.schema([SCHEMAS[folder].field(name) for name in columns])
    # Threads, because on S3 a scan mostly waits for files; few of them, because masks may be larger than memory.
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(files), _READERS):
            some = files[start : start + _READERS]
            yield from zip(some, pool.map(partial(_read_if_there, wanted=wanted), some), strict=True)


def read_masks(part: str, image_ids: Collection[str]) -> dict[str, bytes]:
    """The masks of some images, as PNG files by image id, from the file of results that holds them.

    Args:
        part: a file's address, as `scan_parts` yields it.
        image_ids: images of that file; others are ignored.

    Raises:
        ResultsError: the file is damaged or foreign.
    """
    table = _read_part(part, pa.schema([RESULTS_SCHEMA.field(name) for name in ("image_id", "mask")]))
    wanted = table.filter(pc.is_in(table["image_id"], value_set=pa.array(list(image_ids), pa.string())))
    return dict(zip(wanted["image_id"].to_pylist(), wanted["mask"].to_pylist(), strict=True))


def _parts(output_uri: str, folder: str) -> list[str]:
    uri = storage.join(output_uri, folder)
    try:
        return [file.uri for file in listing.list_files(uri, (".parquet",))]
    except FileNotFoundError:  # nothing was written yet
        return []


def ids_in(output_uri: str, folder: str) -> pa.ChunkedArray:
    """The ids in one of the folders of `SCHEMAS`; none if nothing was written yet.

    Raises:
        ResultsError: a file is damaged or foreign.
    """
    return pa.chunked_array([batch["image_id"] for batch in _scan(output_uri, folder, ["image_id"])], pa.string())


def _scan(output_uri: str, folder: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    for _, table in scan_parts(output_uri, folder, columns):
        yield from table.to_batches()


def _read_parquet(uri: str, read: Callable[[pq.ParquetFile], T]) -> T:
    filesystem, path = storage.resolve(uri)

    def opened() -> T:
        with filesystem.open_input_file(path) as stream:
            return read(pq.ParquetFile(stream, pre_buffer=False))  # reading ahead would start a thread of Arrow's

    try:
        return retrying_arrow(opened)
    except TransientError:  # says nothing about the file
        raise
    except (pa.ArrowException, OSError) as error:
        raise ResultsError(f"{uri} cannot be read: {error}") from error


def _read_if_there(uri: str, wanted: pa.Schema) -> pa.Table:
    try:
        return _read_part(uri, wanted)
    except ResultsError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return wanted.empty_table()
        raise


def _read_part(uri: str, wanted: pa.Schema) -> pa.Table:
    def read(file: pq.ParquetFile) -> pa.Table:
        names = [name for name in wanted.names if name in file.schema_arrow.names]
        return file.read(columns=names, use_threads=False)  # `_scan` has threads; Arrow's outlive the process

    table = _read_parquet(uri, read)
    ids = table["image_id"] if "image_id" in table.column_names else None
    if "image_id" in wanted.names and (ids is None or ids.null_count):
        raise ResultsError(f"{uri} holds rows without image_id; it was not written by this pipeline")
    columns = [table[f.name] if f.name in table.column_names else pa.nulls(len(table), f.type) for f in wanted]
    return pa.table(columns, schema=wanted)
