"""Training windows to arrays (paper section 6): each box resized to 250x250, with its labels.

A window is cut straight from the full image at the sampling points of `geometry`, so the network sees the same in
training as at inference: bilinear, no smoothing before shrinking, black outside the image. Labels are those of the
pixel under each sampling point. Outside the image they are void (255), since there are no labels there and inference
discards the scores. The random 224x224 crop and the flip come later, in `training.loop.steps`, from a seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.config import DecodeConfig
from pipeline.config.training import TrainingStage
from pipeline.datasets.masks import check_sizes, load_mask, load_pair
from pipeline.imaging.classes import VOID
from pipeline.imaging.geometry import RESIZED
from pipeline.training.windows.examples import stage1_labels

FloatArray = NDArray[np.floating]
UInt8Array = NDArray[np.uint8]


class Decoded(NamedTuple):
    """An image and its masks."""

    image_HW3: UInt8Array
    label_HW: UInt8Array
    object_HW: UInt8Array | None
    """Object number of each pixel, if the stage's labels depend on it."""


MIXED_BYTES = 256 * 2**20
"""Bytes of decoded images that a task holds at once: about 340 of VOC's images, or 5 of 12 megapixels."""


class Window(NamedTuple):
    """A training window."""

    image_HW3: UInt8Array
    """RGB, `[250, 250, 3]`."""
    label_HW: UInt8Array
    """`[250, 250]`; 255 is void."""
    repeats: int
    """How often an epoch shows it, for class balance."""


def cut_window(image_HW3: UInt8Array, label_HW: UInt8Array, box_4: FloatArray) -> tuple[UInt8Array, UInt8Array]:
    """A box resized to 250x250 and its labels, uint8 `[250, 250, 3]` and `[250, 250]`.

    Pixel j of the window samples the image at `x0 + (j + 0.5) * w / 250`.

    Args:
        image_HW3: the full image, RGB.
        label_HW: its labels, 255 for void.
        box_4: the extended box, in pixels of the image; it may leave the image.
    """
    x0, y0, x1, y1 = np.asarray(box_4, dtype=np.float64)
    step_x, step_y = (x1 - x0) / RESIZED, (y1 - y0) / RESIZED
    # OpenCV's pixel centres lie at whole coordinates, ours at halves.
    window_to_image = np.array([[step_x, 0, x0 + 0.5 * step_x - 0.5], [0, step_y, y0 + 0.5 * step_y - 0.5]])
    window = cv2.warpAffine(
        image_HW3, window_to_image, (RESIZED, RESIZED), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT, borderValue=0,
    )  # fmt: skip
    return window, cut_labels(label_HW, box_4)


def cut_labels(label_HW: UInt8Array, box_4: FloatArray) -> UInt8Array:
    """The label under each sampling point of a window, uint8 `[250, 250]`; 255 outside the image."""
    x0, y0, x1, y1 = np.asarray(box_4, dtype=np.float64)
    centres = np.arange(RESIZED) + 0.5
    rows, columns = y0 + centres * ((y1 - y0) / RESIZED), x0 + centres * ((x1 - x0) / RESIZED)
    return _labels_at(label_HW, np.floor(rows), np.floor(columns))


def _labels_at(label_HW: UInt8Array, rows: FloatArray, columns: FloatArray) -> UInt8Array:
    height, width = label_HW.shape
    # One axis after the other: np.ix_ with both takes five times as long.
    picked = label_HW[rows.clip(0, height - 1).astype(np.intp)][:, columns.clip(0, width - 1).astype(np.intp)]
    picked = np.ascontiguousarray(picked)
    picked[(rows < 0) | (rows >= height)] = VOID
    picked[:, (columns < 0) | (columns >= width)] = VOID
    return picked


def windows_of_row(row: Mapping[str, Any], stage: TrainingStage) -> Iterator[Window]:
    """All windows of one image of an index (`training.windows.index`), one after the other; it is decoded once.

    Args:
        row: a row of the index.
        stage: its label rule applies: stage 1 keeps only the class of the centred object, stage 2 keeps all.
    """
    decoded = _load(row)
    for number in range(len(row["repeats"])):
        yield _window(row, decoded, number, stage)


def windows_of_rows(rows: Iterable[Mapping[str, Any]], stage: TrainingStage) -> Iterator[Window]:
    """All windows of some images, in an order that mixes the images; each image is decoded once.

    A batch with windows from few images would be a poor sample. As many images are mixed as fit into `MIXED_BYTES`.

    Args:
        rows: rows of the index.
        stage: as for `windows_of_row`.
    """
    decoded: list[tuple[Mapping[str, Any], Decoded]] = []
    for row in rows:
        decoded.append((row, _load(row)))
        if sum(array.nbytes for _, arrays in decoded for array in arrays if array is not None) >= MIXED_BYTES:
            yield from _mixed(decoded, stage)
            decoded = []
    yield from _mixed(decoded, stage)


def _mixed(decoded: Sequence[tuple[Mapping[str, Any], Decoded]], stage: TrainingStage) -> Iterator[Window]:
    numbers = [(place, number) for place, (row, _) in enumerate(decoded) for number in range(len(row["repeats"]))]
    for place, number in np.random.default_rng(0).permutation(np.reshape(numbers, (-1, 2))).tolist():
        row, arrays = decoded[place]
        yield _window(row, arrays, number, stage)


def _load(row: Mapping[str, Any]) -> Decoded:
    cv2.setNumThreads(1)  # a process of the pool has one CPU
    image_HW3, label_HW = load_pair(row["image_uri"], row["class_mask_uri"], DecodeConfig().max_megapixels)
    object_HW = None
    if row.get("object_mask_uri") is not None:
        object_HW = load_mask(row["object_mask_uri"])
        check_sizes(image_HW3, object_HW, row["object_mask_uri"])
    return Decoded(image_HW3, label_HW, object_HW)


def _window(row: Mapping[str, Any], decoded: Decoded, number: int, stage: TrainingStage) -> Window:
    box_4 = np.asarray(row["boxes"][4 * number : 4 * number + 4], dtype=np.float32)
    window, label = cut_window(decoded.image_HW3, decoded.label_HW, box_4)
    if stage == 1:
        of_object = None
        if decoded.object_HW is not None:
            of_object = cut_labels(decoded.object_HW, box_4) == row["object_ids"][number]
        label = stage1_labels(label, row["class_ids"][number], of_object)
    return Window(window, label, row["repeats"][number])
