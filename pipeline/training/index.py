"""Training sets on disk: folders in VOC layout going in, the index of windows coming out.

An index names images and windows and holds no pixels: crops are cut anew, at random, every time they are shown.

    OUT/stage1/train.parquet, OUT/stage1/val.parquet    centred objects (easy)
    OUT/stage2/train.parquet, OUT/stage2/val.parquet    proposals (hard)
    OUT/training_set.json                               class names, settings, counts
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import listing, storage
from pipeline.images import SUPPORTED, ImageError, decode_image, decode_mask
from pipeline.training.examples import Stage

INDEX_SCHEMA = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("class_mask_uri", pa.string(), nullable=False),
        pa.field("boxes", pa.list_(pa.float32()), nullable=False),
        pa.field("class_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("overlaps", pa.list_(pa.float32()), nullable=False),
        pa.field("repeats", pa.list_(pa.int32()), nullable=False),
    ]
)
"""One row is one image with at least one window; the list columns run in parallel, one entry a window.

boxes: x0, y0, x1, y1 of each window in turn, extended, half-open, in pixels of the full image.
class_ids: class of the object the window is for. overlaps: IoU of the unextended box with that object's tight box.
repeats: how often the window is shown in an epoch, for class balance; 1 in validation.
"""

MASK_SUFFIXES = (".png",)

UInt8Array = NDArray[np.uint8]


class Pair(NamedTuple):
    """An image and its masks, as absolute addresses."""

    image_uri: str
    class_mask_uri: str
    object_mask_uri: str | None
    """None where nobody drew an object mask."""


def voc_pairs(root: str, split: str, *, all_if_unlisted: bool) -> list[Pair]:
    """Image and masks of one split of a folder in VOC layout, in the order of its list.

    A listed image or class mask that is not there is still returned, so that reading it reports the loss by name.

    Args:
        root: folder with JPEGImages, SegmentationClass and maybe SegmentationObject and ImageSets/Segmentation.
        split: name of a list in ImageSets/Segmentation, such as `train`.
        all_if_unlisted: without an ImageSets folder, return every image that has a class mask; else none.

    Raises:
        FileNotFoundError: there is an ImageSets folder but no such list in it, or a needed folder is missing.
    """
    has_lists = storage.is_folder(storage.join(root, "ImageSets"))
    if not has_lists and not all_if_unlisted:
        return []
    images = _files_by_name(storage.join(root, "JPEGImages"), SUPPORTED)
    class_masks = _files_by_name(storage.join(root, "SegmentationClass"), MASK_SUFFIXES)
    object_folder = storage.join(root, "SegmentationObject")
    object_masks = _files_by_name(object_folder, MASK_SUFFIXES) if storage.is_folder(object_folder) else {}
    names = _listed_names(root, split) if has_lists else list(class_masks)
    return [
        Pair(
            images.get(name, storage.join(root, "JPEGImages", f"{name}.jpg")),
            class_masks.get(name, storage.join(root, "SegmentationClass", f"{name}.png")),
            object_masks.get(name),
        )
        for name in names
    ]


def _files_by_name(folder: str, suffixes: tuple[str, ...]) -> dict[str, str]:
    uris = [file.uri for file in listing.list_files(folder, suffixes)]
    return {uri.removeprefix(f"{folder}/").rpartition(".")[0]: uri for uri in uris}


def _listed_names(root: str, split: str) -> list[str]:
    uri = storage.join(root, "ImageSets", "Segmentation", f"{split}.txt")
    try:
        lines = storage.read_bytes(uri).decode().splitlines()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{uri} does not exist: name another list by train-split or val-split, write this one "
            f"(an image name a line; may be empty), or remove {root}/ImageSets to train on every "
            "mask"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def load_pair(image_uri: str, class_mask_uri: str, max_megapixels: float) -> tuple[UInt8Array, UInt8Array]:
    """Read an image, uint8 RGB `[H, W, 3]`, and its class mask, uint8 `[H, W]`, at full size.

    Raises:
        OSError: a file cannot be read.
        ImageError: a file is no image or no mask; the message names it.
        ValueError: image and mask differ in size.
    """
    with _naming(image_uri):
        image_HW3 = decode_image(storage.read_bytes(image_uri), max_megapixels)
    class_mask_HW = load_mask(class_mask_uri)
    if class_mask_HW.shape != image_HW3.shape[:2]:
        raise ValueError(
            f"{class_mask_uri} is {class_mask_HW.shape[1]}x{class_mask_HW.shape[0]} pixels, its image "
            f"{image_HW3.shape[1]}x{image_HW3.shape[0]}; a mask has the size of its image"
        )
    return image_HW3, class_mask_HW


def load_mask(uri: str) -> UInt8Array:
    """Read a mask, uint8 `[H, W]`.

    Raises:
        OSError: the file cannot be read.
        ImageError: it is no mask; the message names it.
    """
    with _naming(uri):
        return decode_mask(storage.read_bytes(uri))


@contextmanager
def _naming(uri: str) -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        raise ImageError(error.kind, f"{uri}: {error}") from error


def index_uri(training_set: str, stage: Stage, split: str) -> str:
    """Address of one index of a training set; `split` is `train` or `val`."""
    return storage.join(training_set, f"stage{stage}", f"{split}.parquet")


def info_uri(training_set: str) -> str:
    """Address of a training set's description."""
    return storage.join(training_set, "training_set.json")


def write_index(uri: str, images: pa.Table, repeats: NDArray[np.integer]) -> None:
    """Write an index, whole or not at all.

    Args:
        uri: the Parquet file.
        images: the columns of `INDEX_SCHEMA` except `repeats`.
        repeats: repeats of all windows of all rows, one after another.
    """
    lengths = pc.list_value_length(images["class_ids"]).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    column = pa.ListArray.from_arrays(offsets, pa.array(repeats, pa.int32()))
    storage.write_parquet(uri, images.append_column("repeats", column).select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA))


def read_index(uri: str) -> pa.Table:
    """Read an index (`INDEX_SCHEMA`).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no index of windows.
    """
    try:
        table = pq.read_table(io.BytesIO(storage.read_bytes(uri)))
        return table.select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA)
    except (pa.ArrowInvalid, KeyError) as error:
        raise ValueError(f"{uri} is no index of training windows; make one with jobs/build_training_set.py") from error


def load_info(training_set: str) -> dict[str, Any]:
    """Read the description of a training set: `class_names`, `config`, `images`, `windows`, `errors`.

    Raises:
        FileNotFoundError: the folder has none.
    """
    info: dict[str, Any] = json.loads(storage.read_bytes(info_uri(training_set)))
    return info
