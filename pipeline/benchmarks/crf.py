"""What leaving improbable classes out of the CRF changes and saves, on a network's own scores."""

from __future__ import annotations

import statistics
import time
from typing import Any

import cv2

from pipeline import storage
from pipeline.config import DecodeConfig
from pipeline.config.benchmarks import Crf
from pipeline.crf.refine import refine
from pipeline.images import decode_image, working_size
from pipeline.inference.predictor import Predictor, prune
from pipeline.manifest import build_manifest
from pipeline.models.weights import load_checkpoint
from pipeline.proposals.edgeboxes import propose
from pipeline.shipped import weights_uri

THRESHOLDS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5)


def run(config: Crf) -> list[dict[str, Any]]:
    """For each threshold: classes left, share of labels equal to those of the CRF with all classes, seconds."""
    cv2.setNumThreads(1)
    checkpoint = load_checkpoint(storage.read_bytes(weights_uri(config.weights)), config.weights)
    predictor = Predictor(checkpoint, config.predict, label_threshold=0.0)
    decode = DecodeConfig()
    images = []
    for uri in build_manifest(config.input, config.limit)["uri"].to_pylist():
        image_HW3 = decode_image(storage.read_bytes(uri), decode.max_megapixels)
        images.append(working_size(image_HW3, decode.max_side))
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
