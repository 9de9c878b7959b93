"""Small results and ground truths on disk, for the tests of evaluation."""

from pathlib import Path

import numpy as np

from pipeline.imaging.classes import voc_palette
from pipeline.imaging.images import encode_mask
from pipeline.outputs.schema import OK
from pipeline.outputs.writing import write_rows

NAMES = ("background", "cat", "dog", "cow")


def write_results(output: Path, masks: dict[str, np.ndarray], class_names=NAMES) -> None:
    rows = [
        {"image_id": image_id, "status": OK, "mask": encode_mask(labels_HW, voc_palette()),
         "pixel_counts": [0] * len(class_names), "mean_probability": [0.0] * len(class_names)}
        for image_id, labels_HW in masks.items()
    ]  # fmt: skip
    write_rows(str(output), rows, class_names)


def write_truth(root: Path, masks: dict[str, np.ndarray], **splits: list[str]) -> None:
    (root / "SegmentationClass").mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
    for name, labels_HW in masks.items():
        (root / "SegmentationClass" / f"{name}.png").write_bytes(encode_mask(labels_HW, voc_palette()))
    for split, names in splits.items():
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")


def labels(*rows: list[int]) -> np.ndarray:
    return np.array(rows, dtype=np.uint8)
