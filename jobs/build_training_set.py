"""Turn folders in VOC layout into training windows for both stages (paper sections 4.1 and 6).

    python jobs/build_training_set.py --data VOC2012 --output runs/voc

Writes an index of windows for each stage and split, and training_set.json with the counts; no pixels are copied.
Exit codes: 0 done, 2 wrong arguments or folders, 4 not one image could be used.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tyro
from rich.console import Console
from rich.table import Table

from pipeline import storage
from pipeline.classes import VOC_CLASSES, VOID, read_class_list
from pipeline.config import DecodeConfig, TrainingSetConfig
from pipeline.pools import ClusterError
from pipeline.proposals.edgeboxes import choose, raw_boxes
from pipeline.training.examples import (
    Stage,
    Windows,
    any_windows,
    balance,
    find_objects,
    join_windows,
    stage1_windows,
    stage2_windows,
)
from pipeline.training.index import Pair, index_uri, info_uri, load_mask, load_pair, voc_pairs, write_index

STAGES: tuple[Stage, ...] = (1, 2)
SPLITS = ("train", "val")
ERRORS_LISTED = 20
IMAGES_A_BLOCK = 16
"""Images a Ray task works through: some ten seconds of EdgeBoxes, against a tenth of a second to start a task."""

_WINDOWS = pa.struct([
    ("boxes", pa.list_(pa.float32())), ("class_ids", pa.list_(pa.int32())), ("overlaps", pa.list_(pa.float32()))
])  # fmt: skip
_IMAGES = pa.schema([
    ("position", pa.int64()), ("split", pa.string()),
    ("image_uri", pa.string()), ("class_mask_uri", pa.string()), ("object_mask_uri", pa.string()),
])  # fmt: skip
_ROWS = pa.schema([
    *list(_IMAGES)[:4], ("stage1", _WINDOWS), ("stage2", _WINDOWS),
    ("error_type", pa.string()), ("error_message", pa.string()),
])  # fmt: skip

Work = Callable[[pa.Table], pa.Table]
Runner = Callable[[Work, pa.Table], pa.Table]
"""Applies work that goes image by image to a table of images, in any pieces and order."""


def main(arguments: Sequence[str] | None = None, run: Runner | None = None) -> int:
    """Parse, check, cut, write, report; `run` is Ray unless another runner is given."""
    config = tyro.cli(TrainingSetConfig, args=arguments, description=__doc__, config=(tyro.conf.OmitArgPrefixes,))
    try:
        class_names = read_classes(config)
        images = list_images(config)
    except (OSError, ValueError) as error:
        print(f"build_training_set: {error}", file=sys.stderr)
        return 2
    work = partial(examples_of_images, num_classes=len(class_names), config=config)
    try:
        rows = (run or on_ray)(work, images).sort_by("position")
    except ClusterError as error:
        print(f"build_training_set: {error}", file=sys.stderr)
        return 1
    info = write_training_set(rows, class_names, config)
    report(info, storage.absolute(config.output))
    return 4 if len(rows) == pc.sum(pc.is_valid(rows["error_type"])).as_py() else 0


def read_classes(config: TrainingSetConfig) -> tuple[str, ...]:
    """The class names: of the file asked for, else of `classes.txt` in the first folder, else VOC's."""
    if config.classes is not None:
        return read_class_list(config.classes)
    beside = storage.join(config.data[0], "classes.txt")
    return read_class_list(beside) if storage.exists(beside) else VOC_CLASSES


def list_images(config: TrainingSetConfig) -> pa.Table:
    """All images of both splits, in the order of folders and lists.

    Raises:
        FileNotFoundError: a folder or list is missing.
        ValueError: there is nothing to train on.
    """
    rows: list[dict[str, Any]] = []
    for split, name in zip(SPLITS, (config.train_split, config.val_split), strict=True):
        pairs = [pair for root in config.data for pair in voc_pairs(root, name, all_if_unlisted=split == "train")][
            : config.limit
        ]
        if split == "train" and not pairs:
            raise ValueError(f"{', '.join(config.data)}: no image is listed for training, and no mask found")
        rows += [{"position": len(rows) + i, "split": split, **pair._asdict()} for i, pair in enumerate(pairs)]
    return pa.Table.from_pylist(rows, schema=_IMAGES)


def on_ray(work: Work, images: pa.Table) -> pa.Table:
    """Run over the cluster that RAY_ADDRESS names, or over this machine's CPUs."""
    import ray  # noqa: PLC0415  (takes seconds; bad arguments should be told at once)

    from pipeline import cluster  # noqa: PLC0415

    cluster.start_ray()
    blocks = [images.slice(start, IMAGES_A_BLOCK) for start in range(0, len(images), IMAGES_A_BLOCK)]
    dataset = ray.data.from_arrow(blocks).map_batches(work, batch_size=None, batch_format="pyarrow", num_cpus=1)
    dataset.set_name("build_training_set")
    return pa.concat_tables(ray.get(dataset.to_arrow_refs()))


def examples_of_images(images: pa.Table, num_classes: int, config: TrainingSetConfig) -> pa.Table:
    """A table of images to a table of their windows for both stages; an unusable image is a row with its error."""
    cv2.setNumThreads(1)  # Ray counts a CPU a task
    rows = []
    for image in images.to_pylist():
        position, split = image.pop("position"), image.pop("split")
        rows.append({"position": position, "split": split,
                     **examples_of_image(Pair(**image), num_classes, config)})  # fmt: skip
    return pa.Table.from_pylist(rows, schema=_ROWS)


def examples_of_image(pair: Pair, num_classes: int, config: TrainingSetConfig) -> dict[str, Any]:
    """One image to a row with its windows, `stage1` and `stage2`, or with `error_type` and `error_message`."""
    row = {"image_uri": pair.image_uri, "class_mask_uri": pair.class_mask_uri}
    try:
        stage1, stage2 = _windows_of_image(pair, num_classes, config)
    except Exception as error:  # a bad image must not stop the others
        return {**row, "error_type": type(error).__name__, "error_message": str(error)}
    return {**row, "stage1": _columns(stage1), "stage2": _columns(stage2)}


def _windows_of_image(pair: Pair, num_classes: int, config: TrainingSetConfig) -> tuple[Windows, Windows]:
    image_HW3, class_mask_HW = load_pair(pair.image_uri, pair.class_mask_uri, DecodeConfig().max_megapixels)
    labels = np.unique(class_mask_HW)
    unknown = labels[(labels >= num_classes) & (labels != VOID)]
    if unknown.size:
        raise ValueError(
            f"{pair.class_mask_uri} has labels {unknown.tolist()}, but there are {num_classes} classes "
            f"(0..{num_classes - 1}, and {VOID} for void); give the right list of classes"
        )
    objects = find_objects(class_mask_HW, None if pair.object_mask_uri is None else load_mask(pair.object_mask_uri))
    easy = stage1_windows(objects, config.propose.extend)
    if len(objects.class_ids_N) == 0:
        return easy, easy
    raw = raw_boxes(image_HW3, config.propose)
    hard = stage2_windows(objects, raw.boxes_N4, raw.scores_N, min_iou=config.min_iou,
                          windows_per_image=config.windows_per_image, extend=config.propose.extend)  # fmt: skip
    if config.any_windows_per_image:
        shown = choose(raw, image_HW3.shape[0], image_HW3.shape[1], config.propose)
        hard = join_windows(hard, any_windows(objects, shown.boxes_N4, count=config.any_windows_per_image,
                                              min_iou=config.min_iou, extend=config.propose.extend))  # fmt: skip
    return easy, hard


def _columns(windows: Windows) -> dict[str, Any]:
    return {"boxes": windows.boxes_N4.ravel(), "class_ids": windows.class_ids_N, "overlaps": windows.overlaps_N}


def write_training_set(rows: pa.Table, class_names: Sequence[str], config: TrainingSetConfig) -> dict[str, Any]:
    """Balance the windows of all images, write the four indexes and training_set.json, and return what the latter says.

    Only training windows are repeated: validation measures the images as they are.
    """
    failed = rows.filter(pc.is_valid(rows["error_type"]))
    info: dict[str, Any] = {
        "class_names": list(class_names), "config": asdict(config), "images": {}, "windows": {},
        "errors": failed.slice(0, ERRORS_LISTED).select(["image_uri", "error_type", "error_message"]).to_pylist(),
    }  # fmt: skip
    for split in SPLITS:
        of_split = rows.filter(pc.equal(rows["split"], split))
        errors = of_split["error_type"]
        info["images"][split] = {"listed": len(of_split), "failed": len(errors) - errors.null_count}
        for stage in STAGES:
            images = _with_windows(of_split, stage)
            class_ids_N = pc.list_flatten(images["class_ids"]).to_numpy()
            repeats_N = balance(class_ids_N, config.max_repeats if split == "train" else 1)
            write_index(index_uri(config.output, stage, split), images, repeats_N)
            counts = _counts(len(images), class_ids_N, repeats_N, class_names)
            info["windows"].setdefault(f"stage{stage}", {})[split] = counts
    storage.write_atomic(info_uri(config.output), json.dumps(info, indent=2).encode())
    return info


def _with_windows(rows: pa.Table, stage: Stage) -> pa.Table:
    windows = rows[f"stage{stage}"]
    images = pa.table({
        "image_uri": rows["image_uri"], "class_mask_uri": rows["class_mask_uri"],
        **{name: pc.struct_field(windows, name) for name in ("boxes", "class_ids", "overlaps")},
    })  # fmt: skip
    return images.filter(pc.greater(pc.list_value_length(images["class_ids"]), 0))


def _counts(images: int, class_ids_N: Any, repeats_N: Any, class_names: Sequence[str]) -> dict[str, Any]:
    windows_C = np.bincount(class_ids_N, minlength=len(class_names))
    examples_C = np.bincount(class_ids_N, weights=repeats_N, minlength=len(class_names))
    return {
        "images": images, "windows": int(windows_C.sum()), "examples": int(examples_C.sum()),
        "per_class": {
            name: {"windows": int(windows_C[c]), "examples": int(examples_C[c])}
            for c, name in enumerate(class_names) if c > 0
        },
    }  # fmt: skip


def report(info: dict[str, Any], output: str) -> None:
    """Print the classes before and after balance, and what went wrong."""
    table = Table("class", title=output, caption="train: windows -> examples an epoch, after balance; val: windows")
    columns = [(f"stage{stage}", split) for split in SPLITS for stage in STAGES]
    for stage, split in columns:
        table.add_column(f"{split}, {stage}", justify="right")
    for name in [*info["class_names"][1:], "all"]:
        cells = []
        for stage, split in columns:
            counts = info["windows"][stage][split]
            of_class = counts if name == "all" else counts["per_class"][name]
            balanced = f" -> {of_class['examples']}" if split == "train" else ""
            cells.append(f"{of_class['windows']}{balanced}")
        table.add_row(name, *cells)
    console = Console()
    console.print(table)
    for split, images in info["images"].items():
        console.print(f"{split}: {images['listed']} images, {images['failed']} of them unusable")
    for error in info["errors"]:
        console.print(f"  {error['image_uri']}: {error['error_type']}: {error['error_message']}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
