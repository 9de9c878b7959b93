"""Small outputs of the main job, made without it, for the tests of what reads them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.config import SegmentConfig
from pipeline.imaging.classes import voc_palette
from pipeline.imaging.images import encode_mask
from pipeline.outputs.schema import FAILED, OK, SKIPPED
from pipeline.outputs.writing import write_rows
from pipeline.run.record import RunRecord, open_run

NAMES = ("background", "cat", "dog", "cow")


def begin(
    folder: Path, rows: Sequence[dict[str, Any]], *left: str, names: Sequence[str] = NAMES, **changes: Any
) -> RunRecord:
    """An output OUT below a folder, with these rows in four files, and images that are left.

    Args:
        folder: of this test.
        rows: as `result`, `failure` and `skip` make them.
        left: ids of images that are not done.
        names: of the classes.
        changes: settings that are not the defaults.
    """
    config = SegmentConfig(str(folder / "photos"), str(folder / "OUT"), weights="/networks/my.safetensors")
    ids = sorted([*(row["image_id"] for row in rows), *left])
    manifest = pa.table({"image_id": ids, "uri": [f"{folder}/photos/{one}" for one in ids]})
    run = open_run(replace(config, **changes), "f1n9e6", tuple(names), manifest, lambda _: None)
    for start in range(4):
        write_rows(run.output, rows[start::4], names)
    return run


def result(
    image_id: str, labels_HW: np.ndarray, confidence: float | None, photos: Path, classes: int = len(NAMES)
) -> dict[str, Any]:
    """A row of an image that was segmented."""
    counts = np.bincount(labels_HW.ravel(), minlength=classes).tolist()
    height, width = labels_HW.shape
    return {"image_id": image_id, "uri": str(photos / image_id), "status": OK, "height": height, "width": width,
            "mask": encode_mask(labels_HW, voc_palette()), "pixel_counts": counts, "mean_confidence": confidence,
            "mean_probability": [confidence if count else None for count in counts]}  # fmt: skip


def failure(
    image_id: str, stage: str = "decode", kind: str = "truncated", message: str = "ends early"
) -> dict[str, Any]:
    return {"image_id": image_id, "uri": f"/gone/{image_id}", "status": FAILED, "error_stage": stage,
            "error_type": kind, "error_message": message}  # fmt: skip


def skip(image_id: str, reason: str = "3 x 4 pixels") -> dict[str, Any]:
    return {"image_id": image_id, "uri": f"/gone/{image_id}", "status": SKIPPED, "skip_stage": "filter",
            "skip_reason": reason}  # fmt: skip


def photograph(photos: Path, name: str, height: int, width: int, colour: int = 128) -> None:
    """A plain photograph."""
    (photos / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), colour, np.uint8)).save(photos / name, "JPEG")
