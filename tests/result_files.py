"""An output of a run, small and awkward: what is written is what the project's own writers write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from pipeline import storage
from pipeline.imaging.classes import class_table, voc_palette
from pipeline.imaging.images import encode_mask
from pipeline.inputs.manifest import safe_id
from pipeline.outputs.writing import write_mask, write_rows

CLASSES = ("background", "cat", 'Fußgänger <b>&"no\'"</b>', "chair: 1", "tree")
PATHS = (
    "<script>alert(1)</script>.jpg",
    "straße/été 日本.png",
    "a/b/c.jpg",
    "a/b/c.png",  # tools that go by the name without ending would mix them up
    "a/b.png/c.JPG",  # a folder of a name that the mask of another image has
    "a/b.jpg",
    "set/images/x.jpg",  # the YOLO tools look for the label of the last folder of that name
    ".hidden/100% & more.webp",
    "4711",  # ids of a manifest may have no ending
    "noise.png",
    "nothing.jpg",
    "full.jpg",
)


def mask_of(number: int, kind: str) -> NDArray[np.uint8]:
    """Labels with holes, parts that touch at corners, parts of one pixel, parts at the edges."""
    random = np.random.default_rng(number)
    height, width = 37 + 5 * number, 61 - 2 * number
    labels_HW = np.zeros((height, width), np.uint8)
    if kind == "noise.png":
        return random.integers(0, len(CLASSES) - 1, (height, width), dtype=np.uint8)
    if kind == "full.jpg":
        return np.full((height, width), 3, np.uint8)
    if kind == "nothing.jpg":
        return labels_HW
    for label in (1, 2, 3, 2, 1):
        centre = int(random.integers(0, width)), int(random.integers(0, height))
        radius = int(random.integers(5, 16))
        cv2.circle(labels_HW, centre, radius, label, thickness=-1)
        cv2.circle(labels_HW, centre, radius // 2, int(random.integers(0, 2)) * 3, thickness=-1)
    labels_HW[0, 0] = labels_HW[1, 1] = labels_HW[-1, -1] = 2
    labels_HW[5:25:3, 3:20:4] = 0  # holes of a pixel
    return labels_HW


def carried(image_id: str) -> str | None:
    """What the user's manifest says of an image, apart from its address; nothing of `full.jpg`."""
    site = "north" if len(image_id) % 2 else "south"
    return None if image_id == "full.jpg" else json.dumps({"site": site, "note": f'"{image_id}"</script>'})


def image_name(path: str) -> str:
    """What the file is called; an id of a manifest says nothing about it."""
    return path if "." in path else f"{path}.jpg"


def write_output(root: Path) -> dict[str, NDArray[np.uint8]]:
    """Write ROOT/photos and ROOT/run, in files of four rows; returns the masks by image id."""
    masks, rows = {}, []
    for number, path in enumerate(PATHS):
        labels_HW = mask_of(number, path)
        file = root / "photos" / image_name(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        noise_HW3 = np.random.default_rng(number).integers(0, 256, (*labels_HW.shape, 3), dtype=np.uint8)
        Image.fromarray(noise_HW3).save(file)
        image_id = safe_id(path)
        masks[image_id] = labels_HW
        rows.append(row_of(image_id, str(file), labels_HW))
        rows[-1]["manifest"] = carried(image_id)
    for row in rows:
        write_mask(str(root / "run"), row["image_id"], row["mask"])
    rows += [
        {"image_id": "torn.jpg", "uri": str(root / "photos" / "torn.jpg"), "status": "failed",
         "error_stage": "decode", "error_type": "truncated", "error_message": "ends early"},
        {"image_id": "icon.png", "uri": str(root / "photos" / "icon.png"), "height": 3, "width": 4,
         "status": "skipped", "skip_stage": "filter", "skip_reason": "3 x 4 pixels"},
    ]  # fmt: skip
    manifest = pa.table({name: [row[name] for row in rows] for name in ("image_id", "uri")})
    storage.write_parquet(str(root / "run" / "run" / "manifest.parquet"), manifest)
    (root / "run" / "run" / "classes.json").write_text(json.dumps(class_table(CLASSES), indent=1, ensure_ascii=False))
    for start in range(0, len(rows), 4):
        write_rows(str(root / "run"), rows[start : start + 4], CLASSES)
    return masks


def row_of(image_id: str, uri: str, labels_HW: NDArray[np.uint8]) -> dict[str, Any]:
    """A row of the results, its figures those of the mask."""
    height, width = labels_HW.shape
    counts = np.bincount(labels_HW.ravel(), minlength=len(CLASSES)).tolist()
    shares = [0.5 + count / (2 * height * width) if count else None for count in counts]
    return {
        "image_id": image_id, "uri": uri, "height": height, "width": width, "status": "ok",
        "mask": encode_mask(labels_HW, voc_palette()), "pixel_counts": counts, "mean_probability": shares,
        "num_proposals": 7, "mean_confidence": 0.75, "model_fingerprint": "abc", "seconds_decode": 0.5,
        "seconds_propose": 1.5, "seconds_predict": 2.5, "seconds_refine": 3.5,
    }  # fmt: skip
