"""The refine stage: the CRF, labels and what they say of an image. Only `crf torch` needs torch."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import RefineConfig
from pipeline.crf.refine import check_backend, refine_batch
from pipeline.imaging.classes import voc_palette
from pipeline.imaging.images import encode_mask, resize_labels
from pipeline.stages import rows as r
from pipeline.stages.device import check_gpu, ending_with_its_gpu
from pipeline.stages.rows import Row, Work, unpack


def load_refine(config: RefineConfig, num_classes: int, gpus: float) -> Work:
    """`refine_stage` for a process that shares the machine with others.

    Args:
        config: the CRF's settings.
        num_classes: background included.
        gpus: what the process was given.

    Raises:
        ConfigError: the CRF's backend is not installed here.
        RuntimeError: a GPU was given, and torch sees none.
    """
    check_backend(config)
    if config.crf == "torch":
        import torch

        check_gpu(gpus, "--refine-gpus 0")
        torch.set_num_threads(1)
    device = "cuda" if gpus else "cpu"
    return partial(refine_stage, config=config, num_classes=num_classes, device=device)


def refine_stage(table: pa.Table, config: RefineConfig, num_classes: int, device: str = "cpu") -> pa.Table:
    """Refine each image with the CRF and label its pixels at full size; `crf torch` takes all images together."""

    def work(rows: list[Row]) -> list[Row]:
        images = [r.image_of(row) for row in rows]
        class_ids = [unpack(row["class_ids"], np.int64, -1) for row in rows]
        probabilities = [
            unpack(row["probabilities"], np.float16, len(class_ids_K), *image_HW3.shape[:2])
            for row, class_ids_K, image_HW3 in zip(rows, class_ids, images, strict=True)
        ]
        with ending_with_its_gpu(device):
            refined = refine_batch(images, probabilities, config, device)
        palette = voc_palette() if config.mask_format == "palette" else None
        return [_labelled(*one, num_classes, palette) for one in zip(rows, class_ids, refined, strict=True)]

    if config.crf == "torch":
        return r.run_together(table, "refine", work)
    return r.run_rows(table, "refine", lambda row: row.update(work([row])[0]))


def _labelled(
    row: Row,
    class_ids_K: NDArray[np.int64],
    refined_KHW: NDArray[np.float32],
    num_classes: int,
    palette: NDArray[np.uint8] | None,
) -> dict[str, Any]:
    labels_HW = class_ids_K[refined_KHW.argmax(axis=0)].astype(np.uint8)
    confidence_HW = refined_KHW.max(axis=0)
    full_HW = resize_labels(labels_HW, row["height"], row["width"])
    return dict.fromkeys(r.WORKING_COLUMNS.names) | {
        "mean_confidence": float(confidence_HW.mean()),
        "mean_probability": mean_per_class(labels_HW, confidence_HW, num_classes),
        "pixel_counts": np.bincount(full_HW.ravel(), minlength=num_classes).tolist(),
        "mask": encode_mask(full_HW, palette),
    }


def mean_per_class(
    labels_HW: NDArray[np.uint8], confidence_HW: NDArray[np.float32], num_classes: int
) -> list[float | None]:
    """Mean probability of each class over the pixels that carry its label; None where no pixel does."""
    counts = np.bincount(labels_HW.ravel(), minlength=num_classes)
    sums = np.bincount(labels_HW.ravel(), weights=confidence_HW.ravel(), minlength=num_classes)
    return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]
