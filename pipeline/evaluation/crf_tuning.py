"""A search for the CRF's parameters on images with ground truth, from saved probabilities (`--save-probabilities`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.config import DecodeConfig, RefineConfig
from pipeline.crf.refine import refine, refine_logs
from pipeline.errors import EvaluationError, ResultsError
from pipeline.evaluation.metrics import confusion_matrix, mean_iou
from pipeline.evaluation.truths import Truth, list_truths, read_truth, truth_name
from pipeline.imaging.images import decode_at_working_size, resize_labels
from pipeline.inputs.reading import read_image
from pipeline.outputs.probabilities import read_probabilities
from pipeline.outputs.results import read_class_names, scan_results

WIDTHS = {"gaussian_sxy": (1.0, 10.0), "bilateral_sxy": (5.0, 100.0), "bilateral_srgb": (2.0, 30.0)}
RANGES = {
    "symmetric": WIDTHS | {"gaussian_weight": (0.3, 10.0), "bilateral_weight": (0.3, 20.0)},
    "none": WIDTHS | {"gaussian_weight": (0.003, 5.0), "bilateral_weight": (0.003, 10.0)},
}
"""Range of the search for each parameter, by `crf_normalization`; the release's values lie inside."""
STEP = 0.3
"""Deviation of the logarithm of a parameter around the best one so far."""
DIGITS = 3


@dataclass(frozen=True)
class Example:
    """An image, the saved log-probabilities that its CRF starts from, and its ground truth."""

    image_HW3: NDArray[np.uint8]
    class_ids_K: NDArray[np.uint8]
    log_KHW: NDArray[np.float16]
    truth_HW: NDArray[np.uint8]
    """At full size; 255 is void."""


@dataclass(frozen=True)
class Trial:
    """Parameters and the mean IoU that they reach, 0..1."""

    refine: RefineConfig
    mean_iou: float


def load_examples(output_uri: str, ground_truth_uri: str, split: str | None, limit: int | None) -> list[Example]:
    """The images of a run that have a ground truth, as the run's CRF saw them.

    Args:
        output_uri: the output of a run with `--save-probabilities`.
        ground_truth_uri: folder in VOC's layout or in COCO's.
        split: only the images of this list; None: all.
        limit: only the first so many, by name; None: all.

    Raises:
        ResultsError: there are no results or no probabilities, or an image has changed since the run.
        EvaluationError: there is no ground truth for any of them.
    """
    truths, wanted = list_truths(ground_truth_uri, split)
    rows = {truth_name(row["image_id"]): row for row in scan_results(output_uri, ["image_id", "uri"])}
    names = sorted(wanted & rows.keys())[:limit]
    if not names:
        raise EvaluationError(f"{output_uri} has no result for any of the {len(wanted)} ground truths")
    settings = json.loads(storage.read_bytes(storage.join(output_uri, "run", "config.json")))["settings"]
    decode = DecodeConfig(**settings["decode"])
    return [_example(output_uri, rows[name], truths[name], decode) for name in names]


def _example(output_uri: str, row: dict[str, Any], truth: Truth, decode: DecodeConfig) -> Example:
    class_ids_K, log_KHW = read_probabilities(output_uri, row["image_id"])
    image_HW3, _ = decode_at_working_size(read_image(row["uri"]), decode.max_megapixels, decode.max_side)
    if image_HW3.shape[:2] != log_KHW.shape[1:]:
        raise ResultsError(f"{row['uri']} has another size than when {output_uri} was made from it")
    return Example(image_HW3, class_ids_K, log_KHW, read_truth(truth))


def measure(examples: Sequence[Example], config: RefineConfig, num_classes: int, threads: int) -> float:
    """Mean IoU, 0..1, of the images' labels after a CRF.

    Args:
        examples: images with what their CRF starts from.
        config: the CRF's parameters and backend.
        num_classes: background included.
        threads: images computed at once; the compiled CRF runs in parallel in them.

    Raises:
        EvaluationError: a ground truth does not fit its result.
    """

    def of_one(example: Example) -> NDArray[np.int64]:
        log_KHW = example.log_KHW.astype(np.float32)
        if config.exact_unaries:
            (refined_KHW,) = refine_logs([example.image_HW3], [log_KHW], config)
        else:
            refined_KHW = refine(example.image_HW3, np.exp(log_KHW), config)
        labels_HW = example.class_ids_K[refined_KHW.argmax(axis=0)]
        full_HW = resize_labels(labels_HW, *example.truth_HW.shape)
        return confusion_matrix(example.truth_HW, full_HW, num_classes)

    try:
        with ThreadPoolExecutor(threads) as pool:
            return mean_iou(np.sum(list(pool.map(of_one, examples)), axis=0))
    except ValueError as error:
        raise EvaluationError(str(error)) from error


def search(measured: Callable[[RefineConfig], float], start: RefineConfig, trials: int, seed: int) -> list[Trial]:
    """Search the parameters of one normalisation: first those given, then random ones, then some around the best.

    The random ones, uniform in the logarithm over `RANGES`, take half of the trials.

    Args:
        measured: scores parameters; more is better.
        start: the first to be tried; its normalisation selects the ranges of the others.
        trials: how many to try, at least 1.
        seed: seed of the draws; with equal scores, the same seed tries the same parameters.

    Returns:
        All trials, best first.
    """
    random = np.random.default_rng(seed)
    ranges = RANGES[start.crf_normalization]
    low, high = np.log(np.array(list(ranges.values()))).T
    done = [Trial(start, measured(start))]
    for number in range(1, trials):
        if 2 * number < trials:
            drawn = random.uniform(low, high)
        else:
            best = max(done, key=lambda trial: trial.mean_iou).refine
            drawn = np.log([getattr(best, name) for name in ranges]) + random.normal(0, STEP, len(ranges))
        values: dict[str, Any] = {
            name: float(f"{value:.{DIGITS}g}")
            for name, value in zip(ranges, np.exp(drawn.clip(low, high)), strict=True)
        }
        config = replace(start, **values)
        done.append(Trial(config, measured(config)))
    return sorted(done, key=lambda trial: -trial.mean_iou)


def options(config: RefineConfig) -> str:
    """The parameters as options of the main job, with the iterations used here, since recipes differ in them."""
    names = ("crf_normalization", "crf_iterations", *RANGES[config.crf_normalization])
    return " ".join(f"--{name.replace('_', '-')} {getattr(config, name)}" for name in names)


def class_count(output_uri: str) -> int:
    """Classes of a run's results, background included."""
    return len(read_class_names(output_uri))
