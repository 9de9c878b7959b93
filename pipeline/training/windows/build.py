"""From an annotated image to its training windows, and from a block of images to a part file of a training set.

A part is a Parquet file of `ROWS`, one row per image. Its name follows from what it was made from (addresses and
annotations). So a job that was stopped finds the parts that exist, and a task that Ray repeats writes the same file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config import DecodeConfig, TrainingSetConfig
from pipeline.datasets.coco import draw_masks
from pipeline.datasets.layouts import SPLITS, Images, Pair
from pipeline.datasets.masks import check_sizes, load_image, load_mask
from pipeline.datasets.objects import IntArray, UInt8Array, find_objects
from pipeline.imaging.classes import VOID, voc_palette
from pipeline.imaging.images import encode_mask
from pipeline.proposals.edgeboxes import keep, raw_boxes, shape_of
from pipeline.storage import listing
from pipeline.training.windows.examples import (
    Windows,
    any_windows,
    join_windows,
    listed_windows,
    stage1_windows,
    stage2_windows,
)

IMAGES_A_PART = 16
"""Takes EdgeBoxes some seconds, while a Ray task starts in a tenth of one; gives 700 files for VOC with SBD."""
READERS = 16

_PAIR = pa.struct([(name, pa.string()) for name in ("split", *Pair._fields)])
PARTS = pa.schema([("part_uri", pa.string()), ("images", pa.list_(_PAIR))])
"""The parts to make, one row per part."""
DONE = pa.schema([("part_uri", pa.string()), ("images", pa.int64()), ("failed", pa.int64())])
"""The parts that were made, one row per part."""
_WINDOWS = pa.struct([
    ("boxes", pa.list_(pa.float32())), ("class_ids", pa.list_(pa.int32())), ("overlaps", pa.list_(pa.float32()))
])  # fmt: skip
ROWS = pa.schema([
    ("split", pa.string()), ("image_uri", pa.string()), ("class_mask_uri", pa.string()),
    ("stage1", _WINDOWS), ("stage2", _WINDOWS), ("error_type", pa.string()), ("error_message", pa.string()),
    ("object_mask_uri", pa.string()), ("object_ids", pa.list_(pa.int32())),
])  # fmt: skip
"""A part, one row per image: its windows for both stages, or its error. The object mask, and in it the objects of the
windows of stage 1, are given if only those objects keep their labels."""


@dataclass(frozen=True)
class MakePart:
    """The work of a Ray task: makes part files, and counts the images that could not be used."""

    config: TrainingSetConfig
    num_classes: int

    def __call__(self, parts: pa.Table) -> pa.Table:
        """From `PARTS` to `DONE`; each part file appears whole or not at all."""
        cv2.setNumThreads(1)  # Ray reserves one CPU per task
        done = []
        for part in parts.to_pylist():
            rows = [self._row(**image) for image in part["images"]]
            storage.write_parquet(part["part_uri"], pa.Table.from_pylist(rows, schema=ROWS))
            failed = sum("error_type" in row for row in rows)
            done.append({"part_uri": part["part_uri"], "images": len(rows), "failed": failed})
        return pa.Table.from_pylist(done, schema=DONE)

    def _row(self, split: str, **pair: str | None) -> dict[str, Any]:
        row: dict[str, Any] = {"split": split, "image_uri": pair["image_uri"], "class_mask_uri": pair["class_mask_uri"]}
        try:
            found = windows_of_image(Pair(**pair), self.num_classes, self.config)  # type: ignore[arg-type]
        except Exception as error:  # a bad image must not stop the others
            return {**row, "error_type": type(error).__name__, "error_message": str(error)}
        row |= {"stage1": _columns(found.stage1), "stage2": _columns(found.stage2)}
        if self.config.stage1_keeps == "object" and found.object_ids_N is not None:
            row |= {"object_mask_uri": pair["object_mask_uri"], "object_ids": found.object_ids_N}
        return row


def _columns(windows: Windows) -> dict[str, Any]:
    return {"boxes": windows.boxes_N4.ravel(), "class_ids": windows.class_ids_N, "overlaps": windows.overlaps_N}


class Found(NamedTuple):
    """The windows of an image and, if it has an object mask, the values in it of the objects of stage 1's windows."""

    stage1: Windows
    stage2: Windows
    object_ids_N: IntArray | None


def windows_of_image(pair: Pair, num_classes: int, config: TrainingSetConfig) -> Found:
    """The windows of an image; masks that are drawn from annotations are also written.

    Args:
        pair: the image and its masks.
        num_classes: background included.
        config: the rules for windows.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: the image or a mask cannot be used; the message names it.
    """
    image_HW3 = load_image(pair.image_uri, DecodeConfig().max_megapixels)
    class_mask_HW, object_mask_HW = _masks(pair, image_HW3)
    labels = np.unique(class_mask_HW)
    unknown = labels[(labels >= num_classes) & (labels != VOID)]
    if unknown.size:
        raise ValueError(
            f"{pair.class_mask_uri} has labels {unknown.tolist()}, but there are {num_classes} classes "
            f"(0..{num_classes - 1}, and {VOID} for void); give the right list of classes"
        )
    if pair.annotations is None and VOID in labels and not set(labels.tolist()) - {0, VOID}:
        raise ValueError(
            f"{pair.class_mask_uri} holds nothing but 0 and {VOID}, which is void; where {VOID} stands for a class, "
            "give it the class's number (1)"
        )
    objects = find_objects(class_mask_HW, object_mask_HW)
    extend, shape = config.propose.extend, shape_of(config.propose)
    easy = stage1_windows(objects, extend, shape)
    if pair.windows is not None:
        boxes_N4 = np.array(json.loads(pair.windows), np.float32)
        return Found(easy, listed_windows(class_mask_HW, boxes_N4), objects.object_ids_N)
    if len(objects.class_ids_N) == 0:
        return Found(easy, easy, objects.object_ids_N)
    raw = raw_boxes(image_HW3, config.propose)
    hard = stage2_windows(objects, raw.boxes_N4, raw.scores_N, min_iou=config.min_iou,
                          windows_per_image=config.windows_per_image, extend=extend, shape=shape)  # fmt: skip
    if config.any_windows_per_image:
        shown = keep(raw, image_HW3.shape[0], image_HW3.shape[1], config.propose)
        hard = join_windows(hard, any_windows(objects, shown.boxes_N4, count=config.any_windows_per_image,
                                              min_iou=config.min_iou, extend=extend, shape=shape))  # fmt: skip
    return Found(easy, hard, objects.object_ids_N)


def _masks(pair: Pair, image_HW3: UInt8Array) -> tuple[UInt8Array, UInt8Array | None]:
    if pair.annotations is None:
        class_mask_HW = load_mask(pair.class_mask_uri)
        check_sizes(image_HW3, class_mask_HW, pair.class_mask_uri)
        return class_mask_HW, None if pair.object_mask_uri is None else load_mask(pair.object_mask_uri)
    class_mask_HW, object_mask_HW = draw_masks(pair.annotations)
    check_sizes(image_HW3, class_mask_HW, f"{pair.image_uri} as annotated")
    storage.write_atomic(pair.class_mask_uri, encode_mask(class_mask_HW, voc_palette()))
    if pair.object_mask_uri is not None:
        storage.write_atomic(pair.object_mask_uri, encode_mask(object_mask_HW, voc_palette()))
    return class_mask_HW, object_mask_HW


def plan_parts(images: Images, output: str) -> pa.Table:
    """The parts (`PARTS`) of a training set, in the order of the images."""
    rows = [{"split": split, **pair._asdict()} for split in SPLITS for pair in getattr(images, split)]
    blocks = [rows[start : start + IMAGES_A_PART] for start in range(0, len(rows), IMAGES_A_PART)]
    parts = [
        {"part_uri": storage.join(output, "parts", f"{_name(block)}.parquet"), "images": block} for block in blocks
    ]
    return pa.Table.from_pylist(parts, schema=PARTS)


def _name(block: Sequence[dict[str, Any]]) -> str:
    named = [{name: value for name, value in row.items() if name != "windows" or value is not None} for row in block]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:20]


def unfinished(parts: pa.Table, output: str) -> pa.Table:
    """The parts that do not exist yet, or hold images that failed, which may have been repaired since."""
    folder = storage.join(output, "parts")
    there = {file.uri for file in listing.list_files(folder, (".parquet",))} if storage.is_folder(folder) else set()
    uris = parts["part_uri"].to_pylist()
    present = [uri for uri in uris if uri in there]
    with ThreadPoolExecutor(READERS) as pool:
        errors = pool.map(lambda uri: _read(uri, ["error_type"])["error_type"], present)
    done = {uri for uri, column in zip(present, errors, strict=True) if column.null_count == len(column)}
    return parts.filter(pa.array([uri not in done for uri in uris], pa.bool_()))


def read_parts(parts: pa.Table) -> pa.Table:
    """The rows (`ROWS`) of all parts, in their order."""
    with ThreadPoolExecutor(READERS) as pool:
        tables = list(pool.map(_read, parts["part_uri"].to_pylist()))
    # Parts of earlier versions have fewer columns.
    return pa.concat_tables([ROWS.empty_table(), *tables], promote_options="default").combine_chunks()


def _read(uri: str, columns: list[str] | None = None) -> pa.Table:
    return pq.ParquetFile(pa.BufferReader(storage.read_bytes(uri))).read(columns=columns, use_threads=False)


def failures(rows: pa.Table) -> pa.Table:
    """The rows of images that could not be used."""
    return rows.filter(pc.is_valid(rows["error_type"]))
