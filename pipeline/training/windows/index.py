"""Training sets on disk: the index of windows, and the images and masks that it names.

An index holds no pixels: random crops are cut from the images every time that a window is shown.

    OUT/stage1/train.parquet, OUT/stage1/val.parquet    centred objects (easy)
    OUT/stage2/train.parquet, OUT/stage2/val.parquet    proposals (hard)
    OUT/training_set.json, OUT/training_set.png         class names, settings, counts, distributions
    OUT/masks/, OUT/object_masks/                       masks drawn from COCO's annotations
    OUT/settings.json                                   settings, with which a later call must agree
    OUT/parts/                                          results of each block of images (`training.windows.build`)
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import storage
from pipeline.config.training import TrainingStage
from pipeline.errors import DatasetError

INDEX_SCHEMA = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("class_mask_uri", pa.string(), nullable=False),
        pa.field("boxes", pa.list_(pa.float32()), nullable=False),
        pa.field("class_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("overlaps", pa.list_(pa.float32()), nullable=False),
        pa.field("repeats", pa.list_(pa.int32()), nullable=False),
        pa.field("object_mask_uri", pa.string()),
        pa.field("object_ids", pa.list_(pa.int32())),
    ]
)
"""One row is one image with at least one window; the list columns are parallel, with one entry per window.

boxes: x0, y0, x1, y1 of each window in turn, extended, half-open, in pixels of the full image.
class_ids: class of the object the window is for. overlaps: IoU of the unextended box with that object's tight box.
repeats: how often the window is shown in an epoch, for class balance; 1 in validation.
object_mask_uri, object_ids: the window's object has this value in this mask; null in stage 2, without an object mask,
and in indexes of earlier versions.
"""

UInt8Array = NDArray[np.uint8]


def index_uri(training_set: str, stage: TrainingStage, split: str) -> str:
    """Address of one index of a training set.

    Args:
        training_set: its folder.
        stage: 1 or 2.
        split: `train` or `val`.
    """
    return storage.join(training_set, f"stage{stage}", f"{split}.parquet")


def info_uri(training_set: str) -> str:
    """Address of a training set's description."""
    return storage.join(training_set, "training_set.json")


def write_index(uri: str, images: pa.Table, repeats: NDArray[np.integer]) -> None:
    """Write an index, whole or not at all.

    Args:
        uri: the Parquet file.
        images: the columns of `INDEX_SCHEMA` except `repeats`; columns that may be null may be missing.
        repeats: repeats of all windows of all rows, concatenated.
    """
    lengths = pc.list_value_length(images["class_ids"]).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    column = pa.ListArray.from_arrays(offsets, pa.array(repeats, pa.int32()))
    table = _complete(images.append_column("repeats", column))
    storage.write_parquet(uri, table.combine_chunks())  # so that the file does not depend on the table's chunks


def read_index(uri: str) -> pa.Table:
    """Read an index (`INDEX_SCHEMA`).

    Raises:
        FileNotFoundError: there is no such file.
        DatasetError: it is not an index of windows.
    """
    try:
        table = pq.ParquetFile(pa.BufferReader(storage.read_bytes(uri))).read(use_threads=False)
        return _complete(table)
    except (pa.ArrowInvalid, KeyError) as error:
        raise DatasetError(f"{uri} is no index of training windows; make one with build-training-set") from error


def _complete(table: pa.Table) -> pa.Table:
    """The table with nulls for missing columns that may be null."""
    for field in INDEX_SCHEMA:
        if field.nullable and field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    return table.select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA)


def load_info(training_set: str) -> dict[str, Any]:
    """Read the description of a training set: `class_names`, `config`, `images`, `windows`, `errors`.

    Raises:
        FileNotFoundError: the folder has none.
    """
    try:
        info: dict[str, Any] = json.loads(storage.read_bytes(info_uri(training_set)))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{training_set} holds no finished training set (training_set.json); jobs/build_training_set.py makes one, "
            "and finishes one that was stopped"
        ) from error
    return info
