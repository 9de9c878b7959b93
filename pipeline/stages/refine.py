"""The refine stage: the CRF, an image's labels and the figures about them. Only `crf torch` needs torch."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from pipeline.config import RefineConfig
from pipeline.config.stages import GPU_CRFS
from pipeline.crf.refine import check_backend, refine_batch, refine_logs
from pipeline.imaging.classes import voc_palette
from pipeline.imaging.images import encode_mask, resize_labels
from pipeline.outputs.probabilities import encode_probabilities
from pipeline.stages import rows as r
from pipeline.stages.device import check_gpu, ending_with_its_gpu
from pipeline.stages.load import Process
from pipeline.stages.rows import Row, Work, unpack


def load(process: Process) -> Work:
    """`load_refine` with the run's settings."""
    config = process.config
    return load_refine(config.refine, process.num_classes, process.gpus, save=config.save_probabilities)


def load_refine(config: RefineConfig, num_classes: int, gpus: float, *, save: bool = False) -> Work:
    """`refine_stage` for a process that shares the machine with others.

    Args:
        config: the CRF's settings.
        num_classes: background included.
        gpus: what the process was given.
        save: as for `refine_stage`.

    Raises:
        ConfigError: the CRF's backend is not installed here.
        RuntimeError: a GPU was given, and torch sees none.
    """
    check_backend(config)
    if config.crf in GPU_CRFS:
        import torch

        check_gpu(gpus, "--refine-gpus 0")
        torch.set_num_threads(1)
    device = "cuda" if gpus else "cpu"
    return partial(refine_stage, config=config, num_classes=num_classes, device=device, save=save)


def refine_stage(
    table: pa.Table, config: RefineConfig, num_classes: int, device: str = "cpu", *, save: bool = False
) -> pa.Table:
    """Refine each image with the CRF and label its pixels at full size; a CRF on a GPU takes many images together.

    Args:
        table: the rows.
        config: the CRF's settings.
        num_classes: background included.
        device: torch's name of the device for `crf torch`.
        save: whether the row gets the log-probabilities that the CRF starts from, as the bytes of a file.
    """

    def work(rows: list[Row]) -> list[Row]:
        refined = marginals_of(rows, config, device)
        palette = voc_palette() if config.mask_format == "palette" else None
        return [
            _labelled(row, unpack(row["class_ids"], np.int64, -1), refined_KHW, num_classes, palette)
            | {"saved_probabilities": _saved(row) if save else None}
            for row, refined_KHW in zip(rows, refined, strict=True)
        ]

    if config.crf in GPU_CRFS:
        return r.run_together(table, "refine", work, num_classes)
    return r.run_rows(table, "refine", lambda row: row.update(work([row])[0]))


def marginals_of(rows: list[Row], config: RefineConfig, device: str = "cpu") -> list[NDArray[np.float32]]:
    """Probabilities after the CRF, for the classes that each row names.

    Args:
        rows: rows after the predict stage.
        config: the CRF's settings.
        device: torch's name of the device for `crf torch`.

    Returns:
        For each row float32 `[K, H, W]`, 0..1, at working size.
    """
    images = [r.image_of(row) for row in rows]
    with ending_with_its_gpu(device):
        if config.exact_unaries:
            return refine_logs(images, _of_classes(rows, "log_probabilities", np.float32), config, device)
        return refine_batch(images, _of_classes(rows, "probabilities", np.float16), config, device)


def _of_classes(rows: list[Row], column: str, dtype: DTypeLike) -> list[NDArray[Any]]:
    """The maps `[K, H, W]` of each row; K may differ."""
    return [unpack(row[column], dtype, -1, row["work_height"], row["work_width"]) for row in rows]


def _saved(row: Row) -> bytes:
    (log_KHW,) = _of_classes([row], "log_probabilities", np.float32)
    return encode_probabilities(unpack(row["class_ids"], np.int64, -1), log_KHW)


def _labelled(
    row: Row,
    class_ids_K: NDArray[np.int64],
    refined_KHW: NDArray[np.float32],
    num_classes: int,
    palette: NDArray[np.uint8] | None,
) -> dict[str, Any]:
    labels_HW = labels_of(class_ids_K, refined_KHW)
    confidence_HW = refined_KHW.max(axis=0)
    full_HW = resize_labels(labels_HW, row["height"], row["width"])
    return dict.fromkeys(r.WORKING_COLUMNS.names) | {
        "mean_confidence": float(confidence_HW.mean()),
        "mean_probability": mean_per_class(labels_HW, confidence_HW, num_classes),
        "pixel_counts": np.bincount(full_HW.ravel(), minlength=num_classes).tolist(),
        "mask": encode_mask(full_HW, palette),
    }


def labels_of(class_ids_K: NDArray[np.int64], refined_KHW: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The most probable class of each pixel, uint8 `[H, W]`."""
    labels_HW: NDArray[np.uint8] = class_ids_K[refined_KHW.argmax(axis=0)].astype(np.uint8)
    return labels_HW


def mean_per_class(
    labels_HW: NDArray[np.uint8], confidence_HW: NDArray[np.float32], num_classes: int
) -> list[float | None]:
    """Mean probability of each class over the pixels with its label; None for a class without pixels.

    Args:
        labels_HW: uint8, below `num_classes`.
        confidence_HW: probability of each pixel's label, float32, 0..1.
        num_classes: background included.
    """
    counts = np.bincount(labels_HW.ravel(), minlength=num_classes)
    sums = np.bincount(labels_HW.ravel(), weights=confidence_HW.ravel(), minlength=num_classes)
    return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]
