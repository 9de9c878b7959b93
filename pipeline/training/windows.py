"""Training windows to arrays (paper section 6): each box resized to 250x250, with its labels.

A window is cut straight from the full image at the sampling points that `geometry.fed_rectangles` defines, so what
the network sees in training is what it sees at inference: bilinear, no smoothing before shrinking, black outside the
image. Labels are those of the pixel under each sampling point; outside the image they are void (255), since nobody
labelled what is there and inference throws scores there away. The random 224x224 crop and the flip come later, in
`training.steps`, where a seed makes them repeat.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.classes import VOID
from pipeline.config import DecodeConfig
from pipeline.geometry import RESIZED
from pipeline.training.examples import Stage, stage1_labels
from pipeline.training.index import load_pair

FloatArray = NDArray[np.floating]
UInt8Array = NDArray[np.uint8]

BATCH = 64
"""Windows handed over at once: 16 MB."""
POOL = 512
"""Windows among which a task mixes: 128 MB."""


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
    # OpenCV's coordinates have pixel centres at whole numbers, ours at halves.
    window_to_image = np.array([[step_x, 0, x0 + 0.5 * step_x - 0.5], [0, step_y, y0 + 0.5 * step_y - 0.5]])
    window = cv2.warpAffine(
        image_HW3, window_to_image, (RESIZED, RESIZED), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT, borderValue=0,
    )  # fmt: skip
    centres = np.arange(RESIZED) + 0.5
    return window, _labels_at(label_HW, np.floor(y0 + centres * step_y), np.floor(x0 + centres * step_x))


def _labels_at(label_HW: UInt8Array, rows: FloatArray, columns: FloatArray) -> UInt8Array:
    height, width = label_HW.shape
    # One after the other: both at once, by np.ix_, takes five times as long.
    picked = label_HW[rows.clip(0, height - 1).astype(np.intp)][:, columns.clip(0, width - 1).astype(np.intp)]
    picked = np.ascontiguousarray(picked)
    picked[(rows < 0) | (rows >= height)] = VOID
    picked[:, (columns < 0) | (columns >= width)] = VOID
    return picked


def windows_of_row(row: Mapping[str, Any], stage: Stage, *, training: bool) -> Iterator[dict[str, UInt8Array]]:
    """All windows of one image of an index (`training.index`), decoded once, one after the other.

    Args:
        row: a row of the index.
        stage: whose label rule applies: stage 1 keeps only the class of the centred object, stage 2 keeps all.
        training: show each window as often as the class balance says; else once.

    Yields:
        `window`, uint8 `[250, 250, 3]`, and `label`, uint8 `[250, 250]`.
    """
    cv2.setNumThreads(1)  # a process of the pool has one CPU
    image_HW3, label_HW = load_pair(row["image_uri"], row["class_mask_uri"], DecodeConfig().max_megapixels)
    boxes_N4 = np.asarray(row["boxes"], dtype=np.float32).reshape(-1, 4)
    for box_4, class_id, repeats in zip(boxes_N4, row["class_ids"], row["repeats"], strict=True):
        window, label = cut_window(image_HW3, label_HW, box_4)
        if stage == 1:
            label = stage1_labels(label, int(class_id))
        for _ in range(repeats if training else 1):
            yield {"window": window, "label": label}


def batches_of_rows(rows: pa.Table, stage: Stage, *, training: bool) -> Iterator[dict[str, UInt8Array]]:
    """All windows of some images, in batches: what Ray Data costs, it costs for each item that a task hands over.

    For training, the examples of every `POOL` windows are mixed, repeats among them, which costs no copy more than
    putting batches together does. The order depends on the rows alone.

    Args:
        rows: rows of the index (`training.index`).
        stage: as for `windows_of_row`.
        training: as for `windows_of_row`.

    Yields:
        `window`, uint8 `[N, 250, 250, 3]`, and `label`, uint8 `[N, 250, 250]`; N is `BATCH`, or less where a pool ends.
    """
    cut = (
        window
        for row in rows.to_pylist()
        for window in zip(windows_of_row(row, stage, training=False), row["repeats"], strict=True)
    )
    generator = np.random.default_rng(zlib.crc32("".join(rows["image_uri"].to_pylist()).encode()))
    while pool := list(islice(cut, POOL)):
        order = np.arange(len(pool))
        if training:
            order = generator.permutation(np.repeat(order, [repeats for _, repeats in pool]))
        for start in range(0, len(order), BATCH):
            picked = [pool[i][0] for i in order[start : start + BATCH]]
            yield {name: np.stack([example[name] for example in picked]) for name in ("window", "label")}
