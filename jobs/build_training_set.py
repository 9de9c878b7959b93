"""Turn annotated images into training windows for both stages (paper sections 4 and 6).

    python jobs/build_training_set.py --data VOC2012 SBD/dataset --output data/voc_windows

The same command again resumes where it was stopped, and tries the images again that failed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from jobs import commands
from jobs.common import EXIT_DONE, call, counted, end_process
from pipeline import storage
from pipeline.config import TrainingSetConfig
from pipeline.config.earlier import TRAINING_SETS, as_begun, flat
from pipeline.config.training import TrainingStage
from pipeline.datasets.layouts import SPLITS, list_images
from pipeline.errors import FailedError, WorkBrokenError
from pipeline.errors.claim import after_claim
from pipeline.inputs.named import check_named
from pipeline.outputs.folder import check_folder
from pipeline.proposals.detectors import check_edges
from pipeline.run.error_line import in_short
from pipeline.training.windows.build import MakePart, failures, plan_parts, read_parts, unfinished
from pipeline.training.windows.examples import balance
from pipeline.training.windows.index import index_uri, info_uri, write_index
from pipeline.training.windows.statistics import describe

STAGES: tuple[TrainingStage, ...] = (1, 2)
RECORD = "settings.json"
ERRORS_LISTED = 20
PROGRESS_SECONDS = 30

Work = Callable[[pa.Table], pa.Table]
Runner = Callable[[Work, pa.Table], None]
"""Applies work to a table of parts, part by part, in any order."""


def main(arguments: Sequence[str] | None = None, runner: Runner | None = None) -> int:
    """Parse, run; returns the exit code. `runner` is Ray unless another is given."""
    return call(commands.BUILD, arguments, partial(run, runner=runner))


def run(config: TrainingSetConfig, runner: Runner | None = None) -> int:
    """Check, cut, write, report."""
    for root in config.data:
        check_named("data", root)
    check_named("classes", config.classes)
    check_edges(config.propose)
    images = list_images(config)
    for remark in images.remarks:
        print(f"note: {remark}", flush=True)
    config = as_folder_was_begun(config)
    settings = {name: value for name, value in asdict(config).items() if name != "output"}
    settings |= {"data": [storage.absolute(root) for root in config.data], "classes": images.class_names}
    check_folder(config.output, RECORD, settings, holds=("parts", "training_set.json"), earlier=TRAINING_SETS)
    edge_model = config.propose.edge_model
    everywhere = replace(config.propose, edge_model=edge_model and storage.absolute(edge_model))
    config = replace(config, output=storage.absolute(config.output), propose=everywhere)
    parts = plan_parts(images, config.output)
    todo = unfinished(parts, config.output)
    if len(todo) < len(parts):
        print(f"{len(parts) - len(todo)} of {len(parts)} blocks of images were done before")
    if len(todo) and runner is None:
        start_ray()
    with after_claim():
        storage.write_atomic(storage.join(config.output, RECORD), json.dumps(settings, indent=1).encode())
        if len(todo):
            (runner or on_ray)(MakePart(config, len(images.class_names)), todo)
        info = write_training_set(read_parts(parts), images.class_names, config)
    report(info, config.output)
    if not windows_of(info, "train"):
        raise FailedError("there is nothing to train on: no image could be used, or their masks show no object")
    print(f"train with it: {commands.TRAIN.line(config.output, '--output runs/NAME')}")
    return EXIT_DONE


def as_folder_was_begun(config: TrainingSetConfig) -> TrainingSetConfig:
    """The settings, with earlier values for those that did not exist when the output folder was started."""
    uri = storage.join(config.output, RECORD)
    before = flat(json.loads(storage.read_bytes(uri))) if storage.exists(uri) else {}
    return as_begun(config, before, TRAINING_SETS, TrainingSetConfig(config.data, config.output), print)


def start_ray() -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start one with this machine's CPUs."""
    from pipeline.cluster import connect

    connect.start_ray()


def on_ray(work: Work, parts: pa.Table) -> None:
    """Do the work on the cluster that Ray is connected to; prints progress.

    Raises:
        WorkBrokenError: the cluster lost a part of the work.
    """
    import ray

    try:
        _on_ray(work, parts)
    except ray.exceptions.RayError as error:
        raise WorkBrokenError(in_short(error)) from error


def _on_ray(work: Work, parts: pa.Table) -> None:
    import ray

    rows = ray.data.from_arrow([parts.slice(row, 1) for row in range(len(parts))])
    dataset = rows.map_batches(work, batch_size=None, batch_format="pyarrow", num_cpus=1)
    dataset.set_name("build_training_set")
    done, told = 0, time.monotonic()
    for counts in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        done += len(counts)  # three numbers per part; the windows are in the files
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            print(f"{done} of {len(parts)} blocks of images done", flush=True)


def write_training_set(rows: pa.Table, class_names: Sequence[str], config: TrainingSetConfig) -> dict[str, Any]:
    """Balance the windows of all images, and write the four indexes and their description.

    Only training windows are repeated; validation uses each window once.

    Args:
        rows: those of all parts (`build.ROWS`).
        class_names: background first.
        config: the settings.

    Returns:
        The description.

    Raises:
        OSError: a file cannot be written.
    """
    failed = failures(rows).slice(0, ERRORS_LISTED)
    info: dict[str, Any] = {
        "class_names": list(class_names), "config": asdict(config), "images": {}, "windows": {},
        "errors": failed.select(["image_uri", "error_type", "error_message"]).to_pylist(),
    }  # fmt: skip
    for split in SPLITS:
        of_split = rows.filter(pc.equal(rows["split"], split))
        info["images"][split] = {"listed": len(of_split), "failed": len(failures(of_split))}
        for stage in STAGES:
            images = _with_windows(of_split, stage)
            class_ids_N = pc.list_flatten(images["class_ids"]).to_numpy()
            repeats_N = balance(class_ids_N, config.max_repeats if split == "train" else 1)
            write_index(index_uri(config.output, stage, split), images, repeats_N)
            info["windows"].setdefault(f"stage{stage}", {})[split] = describe(images, repeats_N, class_names)
    storage.write_atomic(storage.join(config.output, "training_set.png"), _picture(info))
    storage.write_atomic(info_uri(config.output), json.dumps(info, indent=2).encode())
    return info


def _picture(info: dict[str, Any]) -> bytes:
    from pipeline.report.training_set import draw_training_set  # it imports matplotlib, for a second

    return draw_training_set(info)


def _with_windows(rows: pa.Table, stage: TrainingStage) -> pa.Table:
    windows = rows[f"stage{stage}"]
    images = pa.table({
        "image_uri": rows["image_uri"], "class_mask_uri": rows["class_mask_uri"],
        **({name: rows[name] for name in ("object_mask_uri", "object_ids")} if stage == 1 else {}),
        **{name: pc.struct_field(windows, name) for name in ("boxes", "class_ids", "overlaps")},
    })  # fmt: skip
    return images.filter(pc.greater(pc.list_value_length(images["class_ids"]), 0))


def report(info: dict[str, Any], output: str) -> None:
    """Print the classes before and after balance, the distributions, and what went wrong."""
    columns = [(f"stage{stage}", split) for split in SPLITS for stage in STAGES]
    console = Console(soft_wrap=True, markup=False)
    console.print(_classes_table(info, columns, output))
    console.print(_distributions_table(info, columns))
    for split, images in info["images"].items():
        console.print(f"{split}: {counted(images['listed'], 'image')}, {images['failed']} of them unusable")
    for error in info["errors"]:
        console.print(f"  {error['image_uri']}: {error['error_type']}: {error['error_message']}")
    for remark in remarks(info):
        console.print(f"note: {remark}")


def windows_of(info: dict[str, Any], split: str) -> int:
    """Windows of a split, of both stages together."""
    return sum(info["windows"][f"stage{stage}"][split]["windows"] for stage in STAGES)


def remarks(info: dict[str, Any]) -> list[str]:
    """Remarks on what a user should know before training and could miss in the tables."""
    first = info["class_names"][0]
    found = {
        f"label 0 is background in training and results, and the list of classes calls it {first}": (
            "background" not in first.lower()
        ),
        "there is nothing to train on: the masks that could be read show no object": not windows_of(info, "train"),
        "there are no validation windows, and train.py needs some: list images in ImageSets/Segmentation/val.txt, or "
        "give plain folders a larger --val-share": not windows_of(info, "val"),
    }
    return [text for text, holds in found.items() if holds]


def _classes_table(info: dict[str, Any], columns: Sequence[tuple[str, str]], output: str) -> Table:
    table = Table("class", title=output, caption="train: windows -> examples an epoch, after balance; val: windows")
    for stage, split in columns:
        table.add_column(f"{split}, {stage}", justify="right")
    for name in [*info["class_names"], "all"]:
        cells = []
        for stage, split in columns:
            counts = info["windows"][stage][split]
            of_class = counts if name == "all" else counts["per_class"].get(name, {"windows": 0, "examples": 0})
            balanced = f" -> {of_class['examples']}" if split == "train" else ""
            cells.append(f"{of_class['windows']}{balanced}")
        table.add_row(name, *cells)
    return table


def _distributions_table(info: dict[str, Any], columns: Sequence[tuple[str, str]]) -> Table:
    table = Table("windows", "of", title="quantiles over the windows")
    levels = ("0.05", "0.25", "0.5", "0.75", "0.95")
    for level in levels:
        table.add_column(level, justify="right")
    for stage, split in columns:
        for what, unit in (("overlap", "IoU"), ("side", "pixels")):
            quantiles = info["windows"][stage][split][what]["quantiles"]
            table.add_row(f"{split}, {stage}", unit, *(f"{quantiles[level]:.3g}" for level in levels if quantiles))
    return table


if __name__ == "__main__":
    end_process(main)
