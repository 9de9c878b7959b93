"""Training sets on disk: the index of windows, and the images and masks that it names.

An index holds no pixels: crops are cut anew, at random, every time they are shown.

    OUT/stage1/train.parquet, OUT/stage1/val.parquet    centred objects (easy)
    OUT/stage2/train.parquet, OUT/stage2/val.parquet    proposals (hard)
    OUT/training_set.json, OUT/training_set.png         class names, settings, counts, distributions
    OUT/masks/                                          class masks drawn from COCO's annotations
    OUT/settings.json                                   what a later call must agree with
    OUT/parts/                                          what each block of images gave (`training.build`)
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import storage
from pipeline.images import ImageError, decode_image, decode_mask
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

UInt8Array = NDArray[np.uint8]


def load_pair(image_uri: str, class_mask_uri: str, max_megapixels: float) -> tuple[UInt8Array, UInt8Array]:
    """Read an image, uint8 RGB `[H, W, 3]`, and its class mask, uint8 `[H, W]`, at full size.

    Raises:
        OSError: a file cannot be read.
        ImageError: a file is no image or no mask; the message names it.
        ValueError: image and mask differ in size.
    """
    image_HW3, class_mask_HW = load_image(image_uri, max_megapixels), load_mask(class_mask_uri)
    check_sizes(image_HW3, class_mask_HW, class_mask_uri)
    return image_HW3, class_mask_HW


def check_sizes(image_HW3: UInt8Array, mask_HW: UInt8Array, mask_uri: str) -> None:
    """Check that a mask fits its image.

    Raises:
        ValueError: they differ in size; the message names the mask.
    """
    if mask_HW.shape != image_HW3.shape[:2]:
        raise ValueError(
            f"{mask_uri} is {mask_HW.shape[1]}x{mask_HW.shape[0]} pixels, its image "
            f"{image_HW3.shape[1]}x{image_HW3.shape[0]}; a mask has the size of its image"
        )


def load_image(uri: str, max_megapixels: float) -> UInt8Array:
    """Read an image, uint8 RGB `[H, W, 3]`, at full size.

    Raises:
        OSError: the file cannot be read.
        ImageError: it is no image; the message names it.
    """
    with _naming(uri):
        return decode_image(storage.read_bytes(uri), max_megapixels)


def load_mask(uri: str) -> UInt8Array:
    """Read a mask, a PNG or one of SBD's `.mat` files, uint8 `[H, W]`.

    Raises:
        OSError: the file cannot be read.
        ImageError: it is no mask; the message names it.
    """
    with _naming(uri):
        data = storage.read_bytes(uri)
        return _decode_sbd(data) if uri.endswith(".mat") else decode_mask(data)


def _decode_sbd(data: bytes) -> UInt8Array:
    """The `Segmentation` of SBD's struct `GTcls` or `GTinst`; loadmat unpickles nothing."""
    from scipy.io import loadmat  # noqa: PLC0415  (takes half a second; only SBD's readers need it)

    try:
        content = loadmat(io.BytesIO(data), squeeze_me=True, struct_as_record=False)
        mask_HW = content["GTcls" if "GTcls" in content else "GTinst"].Segmentation
    except Exception as error:  # damaged files make it raise nearly anything
        raise ImageError("unreadable", f"no GTcls or GTinst of SBD ({type(error).__name__}: {error})") from error
    if not isinstance(mask_HW, np.ndarray) or mask_HW.ndim != 2 or mask_HW.dtype != np.uint8:
        raise ImageError("unsupported", "its Segmentation is no matrix of 8-bit labels")
    return mask_HW


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
    table = images.append_column("repeats", column).select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA)
    storage.write_parquet(uri, table.combine_chunks())  # how it came in pieces does not show in the file


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
    try:
        info: dict[str, Any] = json.loads(storage.read_bytes(info_uri(training_set)))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{training_set} holds no finished training set (training_set.json); jobs/build_training_set.py makes one, "
            "and finishes one that was stopped"
        ) from error
    return info
