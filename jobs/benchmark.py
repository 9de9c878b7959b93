"""Measure parts of the pipeline; every figure in the docs names the call that gave it.

    python jobs/benchmark.py labels --input data/demo/JPEGImages --weights demo
    python jobs/benchmark.py proposals --data VOC2012 --split train
    python jobs/benchmark.py overhead --input data/demo/JPEGImages
    python jobs/benchmark.py scale --images 1000000

Prints a table; `--json FILE` keeps it. `labels` and `proposals` use one thread: their seconds are those of one core.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from pipeline import storage
from pipeline.benchmarks.overhead import overhead
from pipeline.config import DecodeConfig, PredictConfig, ProposeConfig, RefineConfig
from pipeline.crf.refine import refine
from pipeline.geometry import box_iou, extend_boxes
from pipeline.images import decode_image, working_size
from pipeline.inference.predictor import Predictor, prune
from pipeline.manifest import build_manifest
from pipeline.models.weights import load_checkpoint
from pipeline.proposals.edgeboxes import propose, raw_boxes
from pipeline.shipped import weights_uri
from pipeline.training.examples import find_objects
from pipeline.training.index import load_mask, load_pair, voc_pairs

THRESHOLDS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5)


@dataclass(frozen=True)
class Labels:
    """What leaving improbable classes out of the CRF changes and saves, on a network's own scores."""

    input: str
    """Images, as for segment_dataset.py."""
    weights: str = "demo"
    """The network whose scores are used."""
    limit: int = 12
    """Images to measure."""
    json: str | None = None
    """File for the figures."""
    propose: ProposeConfig = field(default_factory=ProposeConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)


@dataclass(frozen=True)
class Proposals:
    """Recall of the objects of a folder in VOC's layout by the best-scored boxes, and their time."""

    data: str
    """Folder with JPEGImages, SegmentationClass, SegmentationObject and ImageSets."""
    split: str = "train"
    """List of images; those without an object mask are left out."""
    limit: int = 60
    """Images to measure."""
    json: str | None = None
    """File for the figures."""
    propose: ProposeConfig = field(default_factory=ProposeConfig)


@dataclass(frozen=True)
class Scale:
    """A run of very many images that is nearly done, resumed; no pixels are moved."""

    images: int = 1_000_000
    """Rows of the manifest."""
    done: float = 0.99
    """Part of them that is in the results before."""
    output: str | None = None
    """Folder, local or s3://, that is used and emptied. Default: a temporary one."""
    json: str | None = None
    """File for the figures."""


@dataclass(frozen=True)
class Overhead:
    """The main job against the same stage functions in plain processes on the same cores."""

    input: str
    """Images, as for segment_dataset.py."""
    weights: str = "demo"
    """The network."""
    limit: int = 48
    """Images to do; a few dozen, or the start and the end of the graph are most of what is measured."""
    json: str | None = None
    """File for the figures."""


Subcommand = Labels | Proposals | Overhead | Scale


def main() -> int:
    """Parse, measure, print, write."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    config: Subcommand = tyro.cli(
        Subcommand,
        description=__doc__,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )
    rows = measure(config)
    show(rows)
    print(
        f"{os.cpu_count()} cores of {platform.processor() or platform.machine()}, torch {torch.__version__}; {config}"
    )
    if config.json is not None:
        storage.write_atomic(config.json, json.dumps({"config": asdict(config), "rows": rows}, indent=1).encode())
    return 0


def measure(config: Subcommand) -> list[dict[str, Any]]:
    """The rows of the table that a subcommand prints."""
    if isinstance(config, Labels):
        return labels(config)
    if isinstance(config, Proposals):
        return proposals(config)
    if isinstance(config, Overhead):
        return overhead(config.input, config.weights, config.limit)
    from pipeline.benchmarks.scale import scale  # noqa: PLC0415  (the only one that needs Ray)

    return scale(config.images, config.done, config.output)


def proposals(config: Proposals) -> list[dict[str, Any]]:
    """Recall at IoU 0.5 and 0.7 of the top k boxes, as EdgeBoxes gives them and as the network gets them."""
    recalls: dict[tuple[str, int], list[NDArray[np.float64]]] = {}
    seconds = []
    pairs = [one for one in voc_pairs(config.data, config.split, all_if_unlisted=True) if one.object_mask_uri]
    for pair in pairs[: config.limit]:
        assert pair.object_mask_uri is not None
        image_HW3, class_mask_HW = load_pair(pair.image_uri, pair.class_mask_uri, DecodeConfig().max_megapixels)
        objects = find_objects(class_mask_HW, load_mask(pair.object_mask_uri))
        started = time.perf_counter()
        raw = raw_boxes(image_HW3, config.propose)
        seconds.append(time.perf_counter() - started)
        # What the network gets is extended; held against objects it is brought back to its own size.
        kept_N4 = extend_boxes(propose(image_HW3, config.propose).boxes_N4, 1 / config.propose.extend)
        for k in (10, 50, 200, 2000):
            best_N = box_iou(objects.boxes_N4, raw.boxes_N4[:k]).max(axis=1, initial=0)
            recalls.setdefault(("raw", k), []).append(best_N)
        recalls.setdefault(("filtered", config.propose.proposals), []).append(
            box_iou(objects.boxes_N4, kept_N4).max(axis=1, initial=0)
        )
    return [
        {"boxes": name, "top": k, "objects": len(found := np.concatenate(ious)), "recall 0.5": (found >= 0.5).mean(),
         "recall 0.7": (found >= 0.7).mean(), "seconds, median": statistics.median(seconds),
         "seconds, worst": max(seconds)}
        for (name, k), ious in recalls.items()
    ]  # fmt: skip


def labels(config: Labels) -> list[dict[str, Any]]:
    """For each threshold: classes left, share of labels equal to those of the CRF with all classes, seconds."""
    checkpoint = load_checkpoint(storage.read_bytes(weights_uri(config.weights)), config.weights)
    predictor = Predictor(checkpoint, config.predict, label_threshold=0.0)
    images = []
    for uri in build_manifest(config.input, config.limit)["uri"].to_pylist():
        decode = DecodeConfig()
        images.append(working_size(decode_image(storage.read_bytes(uri), decode.max_megapixels), decode.max_side))
    boxes = [propose(image_HW3, config.propose).boxes_N4 for image_HW3 in images]
    found: dict[float, list[tuple[int, float, float]]] = {threshold: [] for threshold in THRESHOLDS}
    for image_HW3, boxes_N4 in zip(images, boxes, strict=True):
        scores_CHW = predictor.aggregate([image_HW3], [boxes_N4])[0]
        reference_HW = None
        for threshold in THRESHOLDS:
            kept = prune(scores_CHW, threshold)
            started = time.perf_counter()
            refined_KHW = refine(image_HW3, kept.probabilities_KHW, config.refine)
            seconds = time.perf_counter() - started
            labels_HW = kept.class_ids_K[refined_KHW.argmax(axis=0)]
            reference_HW = labels_HW if reference_HW is None else reference_HW
            found[threshold].append((len(kept.class_ids_K), float((labels_HW == reference_HW).mean()), seconds))
    return [
        {
            "threshold": threshold,
            "classes": statistics.mean(one[0] for one in rows),
            "equal labels": statistics.mean(one[1] for one in rows),
            "equal, worst image": min(one[1] for one in rows),
            "seconds": statistics.median(one[2] for one in rows),
            "speed": sum(one[2] for one in found[0.0]) / sum(one[2] for one in rows),
        }
        for threshold, rows in found.items()
    ]


def show(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table."""
    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else f"{value:.4g}" for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
