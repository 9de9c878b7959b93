"""Whole images on a GPU without Ray: how fast, and whether the labels are those of a CPU in float32.

Decoding and proposals run on CPUs in the job and are left out: images lie in memory, their boxes are given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.crf import made_up
from benchmarks.crops import some_boxes
from benchmarks.gpu.scenes import load_scenes
from benchmarks.gpu.sizes import Device, Sizes
from benchmarks.network import random_network
from benchmarks.timing import fast_dtypes, measure
from pipeline.checkpoints.bundled import DEMO, VOC, VOC_FCN, weights_uri
from pipeline.config import SEGMENT_RECIPES, PredictConfig, RefineConfig, SegmentConfig
from pipeline.config.stages import Precision
from pipeline.crf.refine import refine_batch
from pipeline.evaluation.metrics import confusion_matrix, mean_iou
from pipeline.inference.ensemble import Ensemble
from pipeline.inference.predictor import Image, Predictor, prune
from pipeline.models.checkpoint import Checkpoint, CheckpointInfo, load_for_windows
from pipeline.models.members import load_member


def speed(sizes: Sizes, precision: Precision) -> list[dict[str, Any]]:
    """Images a second of the network, of the CRF with scores of its own, and of both one after the other."""
    height, width = sizes.image
    info = CheckpointInfo(tuple(str(i) for i in range(sizes.classes)), sizes.wide)
    config = PredictConfig(device=sizes.device, precision=precision, micro_batch=sizes.proposals)
    checkpoint = Checkpoint(random_network(sizes.wide, sizes.classes), info, "0" * 16)
    predictor = Predictor(checkpoint, config, label_threshold=0.0)
    images, scores = zip(*made_up(sizes.at_once, height, width), strict=True)
    boxes = [some_boxes(sizes.proposals, height, width)] * sizes.at_once
    refine = RefineConfig(crf="torch")
    kept = [prune(scores_CHW, refine.label_threshold).probabilities_KHW for scores_CHW in scores]
    calls = range(sizes.calls)
    with ThreadPoolExecutor(2) as two:

        def predict(_call: int) -> object:
            return predictor.predict(images, boxes)

        def crf(_call: int) -> object:
            return refine_batch(images, kept, refine, sizes.device)

        works: dict[str, Callable[[], object]] = {
            "network, one call at a time": lambda: [predict(call) for call in calls],
            "network, two calls at once": lambda: list(two.map(predict, calls)),
            "CRF (torch)": lambda: [crf(call) for call in calls],
            "network, then CRF": lambda: [(predict(call), crf(call)) for call in calls],
        }
        taken = measure(works, sizes.seconds)
    count = sizes.calls * sizes.at_once
    return [
        {"what": name, "images/s": count / one.median, "ms an image": one.median / count * 1e3, "spread": one.spread}
        for name, one in taken.items()
    ]


def demo_labels(sizes: Sizes) -> list[dict[str, Any]]:
    """Labels of the demo's network on three of its scenes, before the CRF, against the CPU's in float32."""
    scenes = load_scenes()[: sizes.scenes]
    checkpoint = load_for_windows(Path(weights_uri(DEMO)).read_bytes())
    images, boxes = [one.image_HW3 for one in scenes], [one.boxes_N4[: sizes.proposals] for one in scenes]
    truths = [one.truth_HW for one in scenes]
    return _compared(lambda config: Predictor(checkpoint, config, label_threshold=0.0), sizes, images, boxes, truths)


def voc_labels(sizes: Sizes) -> list[dict[str, Any]]:
    """The same for the networks of `voc` and their number of proposals, which here are boxes, not squares."""
    scenes = load_scenes()[: sizes.scenes]
    settings = SEGMENT_RECIPES["voc"](SegmentConfig("", ""))
    proposals = min(sizes.proposals, settings.propose.proposals)
    rule, weight = settings.ensemble.ensemble, settings.ensemble.ensemble_weight
    checkpoint = load_for_windows(Path(weights_uri(VOC)).read_bytes())

    def make(config: PredictConfig) -> Predictor:
        member = load_member(Path(weights_uri(VOC_FCN)).read_bytes(), VOC_FCN)  # its own: it is moved to the device
        as_in_job = replace(config, aggregation=settings.predict.aggregation)
        return Predictor(checkpoint, as_in_job, 0.0, Ensemble(member, rule, weight))

    images, boxes = [one.image_HW3 for one in scenes], [one.boxes_N4[:proposals] for one in scenes]
    return _compared(make, sizes, images, boxes)


def _compared(
    make: Callable[[PredictConfig], Predictor],
    sizes: Sizes,
    images: Sequence[Image],
    boxes: Sequence[NDArray[np.floating]],
    truths: Sequence[NDArray[np.uint8]] = (),
) -> list[dict[str, Any]]:
    """Each precision on the device against float32 on a CPU: equal labels, and IoU where there is a truth."""
    rows: list[dict[str, Any]] = []
    reference: list[NDArray[np.uint8]] = []
    plans: list[tuple[str, Device, Precision, bool]] = [
        ("float32, CPU", "cpu", "float32", False),
        ("float32 without TF32", sizes.device, "float32", False),
        ("float32, torch's default", sizes.device, "float32", True),
        ("bfloat16", sizes.device, "bfloat16", True),
    ]
    for name, device, precision, tf32 in plans:
        if precision not in fast_dtypes(torch.device(sizes.device)):
            continue
        with (
            torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32),
            _threads(len(os.sched_getaffinity(0)) if device == "cpu" else 1),
        ):
            predictor = make(PredictConfig(device=device, precision=precision, micro_batch=sizes.proposals))
            found = [_labels(predictor, image_HW3, boxes_N4) for image_HW3, boxes_N4 in zip(images, boxes, strict=True)]
        reference = reference or found
        equal = [float((one == other).mean()) for one, other in zip(found, reference, strict=True)]
        row: dict[str, Any] = {"form": name, "equal labels": float(np.mean(equal)), "worst image": min(equal)}
        if truths:
            pairs = zip(truths, found, strict=True)
            row["mean IoU"] = mean_iou(sum(confusion_matrix(t, f, predictor.num_classes) for t, f in pairs))  # type: ignore[arg-type]
        rows.append(row)
    return rows


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch works with so many threads, and with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _labels(predictor: Predictor, image_HW3: Image, boxes_N4: NDArray[np.floating]) -> NDArray[np.uint8]:
    (prediction,) = predictor.predict([image_HW3], [boxes_N4])
    labels_HW: NDArray[np.uint8] = prediction.class_ids_K[prediction.probabilities_KHW.argmax(axis=0)].astype(np.uint8)
    return labels_HW
