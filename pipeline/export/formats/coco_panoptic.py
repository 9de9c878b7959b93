"""COCO's panoptic annotations (cocodataset.org, "Data format"): annotations/panoptic_results.json, panoptic_results/.

A pixel's colour is the id of its segment, R + 256 G + 65536 B; 0 is void. Each region is a segment; the background, a
category that is no thing, is one. Category ids are the classes' numbers, the background's 0 among them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.export.coco_entries import categories, image_entry
from pipeline.export.json_lists import json_lists
from pipeline.export.pictures import Pictures, write
from pipeline.export.regions import regions_of
from pipeline.export.results import Results

NAME = "panoptic_results"


def export(results: Results, pictures: Pictures, folder: Path) -> None:
    """Write annotations/panoptic_results.json, panoptic_results/, and images/."""
    kinds = [{**category, "isthing": int(category["id"] > 0)} for category in categories(results.class_names)]
    head = {
        "info": {"description": "results of deconvnet-ray; segments are the connected parts of a class"},
        "licenses": [],
        "categories": kinds,
    }
    with json_lists(folder / "annotations" / f"{NAME}.json", head, "images", "annotations") as append:
        for image in results:
            pictures.place(image)
            ids_HW, segments = segments_of(image.labels_HW, len(results.class_names))
            file_name = f"{image.name}.png"
            write(folder / NAME / file_name, png_of(ids_HW))
            append("images", image_entry(image))
            append("annotations", {
                "image_id": image.number, "file_name": file_name, "segments_info": segments
            })  # fmt: skip


def segments_of(labels_HW: NDArray[np.uint8], classes: int) -> tuple[NDArray[np.uint32], list[dict[str, Any]]]:
    """Ids of the segments, uint32 `[H, W]`, 0 where the mask is void, and the segments as JSON values."""
    ids_HW = np.zeros(labels_HW.shape, np.uint32)
    segments = []
    background_HW = labels_HW == 0
    if background_HW.any():
        rows, columns = np.flatnonzero(background_HW.any(1)), np.flatnonzero(background_HW.any(0))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        ids_HW[background_HW] = 1
        segments.append(_segment(1, 0, int(background_HW.sum()), [int(side) for side in box]))
    for number, region in enumerate(regions_of(labels_HW, classes), start=len(segments) + 1):
        left, top, width, height = region.box
        ids_HW[top : top + height, left : left + width][region.mask_hw] = number
        segments.append(_segment(number, region.label, region.area, region.box))
    return ids_HW, segments


def _segment(number: int, category: int, area: int, box: list[int]) -> dict[str, Any]:
    return {"id": number, "category_id": category, "area": area, "bbox": box, "iscrowd": 0}


def png_of(ids_HW: NDArray[np.uint32]) -> bytes:
    """A PNG whose colours are ids below 2**24."""
    colours_HW3 = np.stack([ids_HW >> 16 & 255, ids_HW >> 8 & 255, ids_HW & 255], axis=-1).astype(np.uint8)
    done, png = cv2.imencode(".png", colours_HW3)  # OpenCV takes blue, green, red
    assert done
    return png.tobytes()
