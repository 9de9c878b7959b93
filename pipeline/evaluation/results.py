"""A run's results against ground truth in VOC's layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import EvaluationError
from pipeline.evaluation.bootstrap import counts_of, mean_iou_interval
from pipeline.evaluation.metrics import confusion_matrix, mean_iou, per_class_iou, pixel_accuracy
from pipeline.evaluation.objects import ScoredObject, by_size, score_objects
from pipeline.evaluation.trimap import trimap_confusions
from pipeline.evaluation.truths import Truth, list_truths, read_objects, read_truth, truth_name
from pipeline.imaging.classes import VOID
from pipeline.imaging.images import decode_mask
from pipeline.outputs.results import read_class_names, scan_results

PUBLISHED = {
    "FCN-8s": 62.2,
    "DeconvNet": 69.6,
    "DeconvNet+CRF": 70.5,
    "EDeconvNet": 71.7,
    "EDeconvNet+CRF": 72.5,
}
"""Mean IoU in percent on VOC 2012 test (Noh et al. 2015, table 1). E: ensemble with FCN-8s."""
PUBLISHED_CLASSES = {
    "FCN-8s": (91.2, 76.8, 34.2, 68.9, 49.4, 60.3, 75.3, 74.7, 77.6, 21.4, 62.5, 46.8, 71.8, 63.9, 76.5, 73.9, 45.2,
               72.4, 37.4, 70.9, 55.1),
    "DeconvNet": (92.7, 85.9, 42.6, 78.9, 62.5, 66.6, 87.4, 77.8, 79.5, 26.3, 73.4, 60.2, 70.8, 76.5, 79.6, 77.7, 58.2,
                  77.4, 52.9, 75.2, 59.8),
    "DeconvNet+CRF": (92.9, 87.8, 41.9, 80.6, 63.9, 67.3, 88.1, 78.4, 81.3, 25.9, 73.7, 61.2, 72.0, 77.0, 79.9, 78.7,
                      59.5, 78.3, 55.0, 75.2, 61.5),
    "EDeconvNet": (92.9, 88.4, 39.7, 79.0, 63.0, 67.7, 87.1, 81.5, 84.4, 27.8, 76.1, 61.2, 78.0, 79.3, 83.1, 79.3, 58.0,
                   82.5, 52.3, 80.1, 64.0),
    "EDeconvNet+CRF": (93.1, 89.9, 39.3, 79.7, 63.9, 68.2, 87.4, 81.2, 86.1, 28.5, 77.0, 62.0, 79.0, 80.3, 83.6, 80.2,
                       58.8, 83.4, 54.3, 80.7, 65.0),
}  # fmt: skip
"""The same for each of VOC's classes, in the order of their labels."""


@dataclass(frozen=True)
class Problem:
    """One image that has a result and a ground truth but could not be compared."""

    image: str
    message: str


@dataclass(frozen=True)
class Evaluation:
    """The outcome of comparing results with ground truth.

    Attributes:
        class_names: background first.
        confusion: int64 `[C, C]`, pixels by true class (row) and predicted class (column), over all images compared.
        trimaps: int64 `[R, C, C]`, the same over the pixels within 1, 2, ... R pixels of a boundary; R may be 0.
        images: how many images were compared.
        missing: names with a ground truth (of the split, if one was given) but no result; not in the figures.
        without_truth: ids of results for which there is no ground truth at all.
        problems: images left out of the figures, with the reason: their ground truth has another size, is damaged or
            cannot be drawn.
        void_only: names whose ground truth holds only 0 and void, so that only background counts.
        counts: int64 `[N, 3, C]`, right, true and predicted pixels of each class in each image compared.
        objects: the objects of each image compared, if they were scored.
    """

    class_names: tuple[str, ...]
    confusion: NDArray[np.int64]
    trimaps: NDArray[np.int64]
    images: int
    missing: tuple[str, ...]
    without_truth: tuple[str, ...]
    problems: tuple[Problem, ...]
    void_only: tuple[str, ...] = ()
    counts: NDArray[np.int64] | None = None
    objects: tuple[tuple[ScoredObject, ...], ...] = ()

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values; None for a class that is neither in the ground truth nor predicted."""
        ious = per_class_iou(self.confusion).tolist()
        columns = zip(self.class_names, ious, self.confusion.sum(1), self.confusion.sum(0), strict=True)
        return {
            "mean_iou": mean_iou(self.confusion),
            "mean_iou_interval": None if self.counts is None else list(mean_iou_interval(self.counts)),
            "pixel_accuracy": pixel_accuracy(self.confusion),
            "images": self.images,
            "classes": [
                {"name": name, "iou": _value(iou), "true_pixels": int(true),
                 "predicted_pixels": int(predicted)}
                for name, iou, true, predicted in columns
            ],
            "missing": list(self.missing),
            "without_truth": list(self.without_truth),
            "problems": [{"image": problem.image, "message": problem.message} for problem in self.problems],
            "void_only": list(self.void_only),
            "confusion": self.confusion.tolist(),
            "trimap": [
                {"pixels": r, "mean_iou": _value(mean_iou(near)), "pixel_accuracy": _value(pixel_accuracy(near))}
                for r, near in enumerate(self.trimaps, start=1)
            ],
            "objects": by_size(self.objects) if self.objects else [],
        }  # fmt: skip


def evaluate_results(
    output_uri: str, ground_truth_uri: str, split: str | None = None, trimap: int = 0, *, objects: bool = False
) -> Evaluation:
    """Compare a run's results with the masks of a data set, joined by the image's name without folder and extension.

    Args:
        output_uri: the run's output folder.
        ground_truth_uri: a folder in VOC's layout or in COCO's (`truths.list_truths`).
        split: compare only the names in this list; None compares all masks.
        trimap: also count separately the pixels up to this many pixels from a boundary (`pipeline.evaluation.trimap`).
        objects: also score each object by itself (`pipeline.evaluation.objects`).

    Raises:
        EvaluationError: there is no ground truth, or not for all of the split; two results or two masks have the same
            name; a ground truth holds a label beyond the results' classes; or no image could be compared.
        ResultsError: there are no results, or they cannot be read.
    """
    class_names = read_class_names(output_uri)
    truths, wanted = list_truths(ground_truth_uri, split)
    confusion = np.zeros((len(class_names), len(class_names)), dtype=np.int64)
    trimaps = np.zeros((trimap, *confusion.shape), dtype=np.int64)
    found: dict[str, str] = {}
    without_truth: list[str] = []
    problems: list[Problem] = []
    void_only: list[str] = []
    counts: list[NDArray[np.int64]] = []
    scored: list[tuple[ScoredObject, ...]] = []
    for row in scan_results(output_uri, ["image_id", "mask"]):
        image_id = row["image_id"]
        name = truth_name(image_id)
        if name not in truths:
            without_truth.append(image_id)
        if name not in wanted:
            continue
        if name in found:
            raise EvaluationError(f"{found[name]} and {image_id} are both results for the ground truth {name}; "
                                  "evaluate runs whose image names differ")  # fmt: skip
        found[name] = image_id
        try:
            truth_HW = read_truth(truths[name])
        except EvaluationError as error:
            problems.append(Problem(image_id, str(error)))
            continue
        _check_classes(truth_HW, truths[name], class_names)
        try:
            of_image = _compare(truth_HW, truths[name], decode_mask(row["mask"]), len(class_names), trimap, objects)
        except ValueError as error:
            problems.append(Problem(image_id, str(error)))
            continue
        void_only += [name] if set(np.unique(truth_HW).tolist()) | {0} == {0, VOID} else []
        confusion += of_image.confusion
        trimaps += of_image.trimaps
        counts.append(counts_of(of_image.confusion))
        scored.append(of_image.objects)
    if not confusion.any():
        first = f"; first problem: {problems[0].image}: {problems[0].message}" if problems else ""
        if not found and without_truth:
            first = f": no name agrees; a result is named {truth_name(without_truth[0])}, a mask {min(wanted)}"
        raise EvaluationError(f"none of the {len(wanted)} ground truths could be compared with a result in "
                              f"{output_uri}{first}")  # fmt: skip
    compared = len(found) - len(problems)
    _check_labels(void_only, compared)
    missing = tuple(sorted(wanted - set(found)))
    return Evaluation(class_names, confusion, trimaps, compared, missing, tuple(sorted(without_truth)), tuple(problems),
                      tuple(void_only), np.stack(counts), tuple(scored) if objects else ())  # fmt: skip


class _Compared(NamedTuple):
    """The figures of one image, as in `Evaluation`."""

    confusion: NDArray[np.int64]
    trimaps: NDArray[np.int64]
    objects: tuple[ScoredObject, ...]


def _compare(
    truth_HW: NDArray[np.uint8],
    truth: Truth,
    labels_HW: NDArray[np.uint8],
    num_classes: int,
    trimap: int,
    objects: bool,
) -> _Compared:
    confusion = confusion_matrix(truth_HW, labels_HW, num_classes)
    trimaps = np.zeros((0, *confusion.shape), np.int64)
    if trimap:
        trimaps = trimap_confusions(truth_HW, labels_HW, num_classes, trimap)
    scored = score_objects(truth_HW, read_objects(truth), labels_HW) if objects else ()
    return _Compared(confusion, trimaps, tuple(scored))


def _check_labels(void_only: list[str], compared: int) -> None:
    if len(void_only) == compared:
        raise EvaluationError(f"the ground truths hold nothing but 0 and {VOID}, which is void and not counted, "
                              f"{void_only[0]} for one; where {VOID} stands for a class, give it its number (1)"
                              )  # fmt: skip


def _check_classes(truth_HW: NDArray[np.uint8], truth: Truth, class_names: tuple[str, ...]) -> None:
    labels = truth_HW[truth_HW != VOID]
    if labels.size and labels.max() >= len(class_names):
        raise EvaluationError(f"ground truth {truth.uri} holds label {labels.max()}, but the results have only "
                              f"{len(class_names)} classes: {', '.join(class_names)}")  # fmt: skip


def _value(figure: float) -> float | None:
    return None if np.isnan(figure) else figure
