"""A run's results against ground truth in VOC's layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import EvaluationError, ImageError
from pipeline.evaluation.metrics import confusion_matrix, mean_iou, per_class_iou, pixel_accuracy
from pipeline.evaluation.trimap import trimap_confusions
from pipeline.imaging.classes import VOID
from pipeline.imaging.images import SUPPORTED, decode_mask
from pipeline.outputs.results import read_class_names, scan_results
from pipeline.storage import listing

PUBLISHED = {
    "FCN-8s": 62.2,
    "DeconvNet": 69.6,
    "DeconvNet+CRF": 70.5,
    "EDeconvNet": 71.7,
    "EDeconvNet+CRF": 72.5,
}
"""Mean IoU in percent on VOC 2012 test (Noh et al. 2015, table 1). E: ensemble with FCN-8s."""


@dataclass(frozen=True)
class Problem:
    """One image that has a result and a ground truth and still could not be compared."""

    image: str
    message: str


@dataclass(frozen=True)
class Evaluation:
    """What comparing results with ground truth gave.

    Attributes:
        class_names: background first.
        confusion: int64 `[C, C]`, pixels by true class (row) and predicted class (column), over all images compared.
        trimaps: int64 `[R, C, C]`, the same over the pixels within 1, 2, ... R pixels of a boundary; R may be 0.
        images: compared.
        missing: names with a ground truth (of the split, if one was given) but no result; not in the figures.
        without_truth: ids of results for which there is no ground truth at all.
        problems: images left out of the figures, with the reason.
    """

    class_names: tuple[str, ...]
    confusion: NDArray[np.int64]
    trimaps: NDArray[np.int64]
    images: int
    missing: tuple[str, ...]
    without_truth: tuple[str, ...]
    problems: tuple[Problem, ...]

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values; None for a class that is neither in the ground truth nor predicted."""
        ious = per_class_iou(self.confusion).tolist()
        columns = zip(self.class_names, ious, self.confusion.sum(1), self.confusion.sum(0), strict=True)
        return {
            "mean_iou": mean_iou(self.confusion),
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
            "confusion": self.confusion.tolist(),
            "trimap": [
                {"pixels": r, "mean_iou": _value(mean_iou(near)), "pixel_accuracy": _value(pixel_accuracy(near))}
                for r, near in enumerate(self.trimaps, start=1)
            ],
        }  # fmt: skip


def evaluate_results(output_uri: str, ground_truth_uri: str, split: str | None = None, trimap: int = 0) -> Evaluation:
    """Compare a run's results with masks in VOC's layout, joined by the image's name without folder and extension.

    Args:
        output_uri: the run's output folder.
        ground_truth_uri: the folder that holds `SegmentationClass/<name>.png`.
        split: compare only the names in `ImageSets/Segmentation/<split>.txt`; None compares all masks.
        trimap: also count the pixels near boundaries apart, up to so many pixels away (`pipeline.evaluation.trimap`).

    Raises:
        EvaluationError: there is no ground truth, or not for all of the split; two results or two masks have one name;
            the ground truth holds a label beyond the results' classes; or no image could be compared.
        ResultsError: there are no results, or they cannot be read.
    """
    class_names = read_class_names(output_uri)
    truths = truth_uris(ground_truth_uri)
    wanted = split_names(ground_truth_uri, split, set(truths))
    confusion = np.zeros((len(class_names), len(class_names)), dtype=np.int64)
    trimaps = np.zeros((trimap, *confusion.shape), dtype=np.int64)
    found: dict[str, str] = {}
    without_truth: list[str] = []
    problems: list[Problem] = []
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
        truth_HW = _read_truth(truths[name], class_names)
        try:
            labels_HW = decode_mask(row["mask"])
            confusion += confusion_matrix(truth_HW, labels_HW, len(class_names))
        except ValueError as error:
            problems.append(Problem(image_id, str(error)))
            continue
        if trimap:
            trimaps += trimap_confusions(truth_HW, labels_HW, len(class_names), trimap)
    compared = len(found) - len(problems)
    if not confusion.any():
        reason = f"; first problem: {problems[0].image}: {problems[0].message}" if problems else ""
        raise EvaluationError(f"none of the {len(wanted)} ground truths could be compared with a result in "
                              f"{output_uri}{reason}")  # fmt: skip
    missing = tuple(sorted(wanted - set(found)))
    return Evaluation(class_names, confusion, trimaps, compared, missing, tuple(sorted(without_truth)), tuple(problems))


def truth_name(image_id: str) -> str:
    """Name under which an image's ground truth is looked for: its file name without folder and extension.

    Only an image's extension is one: an id that a manifest gives, such as `scan.07`, may have other dots.
    """
    name = PurePosixPath(image_id)
    return unquote(name.stem if name.suffix.lower() in SUPPORTED else name.name)


def truth_uris(ground_truth_uri: str) -> dict[str, str]:
    """Masks of a folder in VOC's layout by image name.

    Raises:
        EvaluationError: there are none, or two in different subfolders have one name.
    """
    folder = storage.join(ground_truth_uri, "SegmentationClass")
    files = listing.list_files(folder, (".png",)) if storage.is_folder(folder) else []
    if not files:
        raise EvaluationError(f"{folder} holds no .png masks; give a folder in VOC's layout, SegmentationClass/*.png")
    masks: dict[str, str] = {}
    for file in files:
        other = masks.setdefault(PurePosixPath(file.uri).stem, file.uri)
        if other != file.uri:
            raise EvaluationError(f"{other} and {file.uri} have one name, and results are joined with masks by name; "
                                  "evaluate one folder at a time")  # fmt: skip
    return masks


def split_names(ground_truth_uri: str, split: str | None, known: set[str]) -> set[str]:
    """Names of a split, ImageSets/Segmentation/<split>.txt; all `known` ones if it is None.

    Raises:
        EvaluationError: there is no such list, it is empty, or it names an image that is not known.
    """
    if split is None:
        return known
    uri = storage.join(ground_truth_uri, "ImageSets", "Segmentation", f"{split}.txt")
    try:
        names = set(listing.read_names(uri))
    except FileNotFoundError as error:
        raise EvaluationError(f"there is no split {split}: {uri} does not exist") from error
    except ValueError as error:
        raise EvaluationError(str(error)) from error
    if not names:
        raise EvaluationError(f"{uri} lists no image")
    unknown = sorted(names - known)
    if unknown:
        raise EvaluationError(f"{len(unknown)} of the {len(names)} images in {uri} have no mask in SegmentationClass, "
                              f"{unknown[0]} for one")  # fmt: skip
    return names


def _read_truth(uri: str, class_names: tuple[str, ...]) -> NDArray[np.uint8]:
    try:
        truth_HW = decode_mask(storage.read_bytes(uri))
    except ImageError as error:
        raise EvaluationError(f"ground truth {uri}: {error}") from error
    labels = truth_HW[truth_HW != VOID]
    if labels.size and labels.max() >= len(class_names):
        raise EvaluationError(f"ground truth {uri} holds label {labels.max()}, but the results have only "
                              f"{len(class_names)} classes: {', '.join(class_names)}")  # fmt: skip
    return truth_HW


def _value(figure: float) -> float | None:
    return None if np.isnan(figure) else figure
