"""COCO's panoptic annotations (cocodataset.org, "Data format"): annotations/panoptic_results.json, and PNGs beside it.

A pixel's colour is the id of its segment, R + 256 G + 65536 B; 0 is void. Each region is a segment; the background, a
category that is no thing, is one. A category's id is the class's number. The background's is the number of classes,
for there are programs that take 0 for none.
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
from pipeline.export.regions import region_of, regions_of
from pipeline.export.results import Results

ANNOTATIONS, NAME = "annotations", "panoptic_results"


def export(results: Results, pictures: Pictures, folder: Path) -> None:
    """Write annotations/panoptic_results.json, annotations/panoptic_results/, and images/."""
    things = [{**category, "isthing": 1} for category in categories(results.class_names)]
    background = {"id": len(results.class_names), "name": results.class_names[0], "supercategory": "", "isthing": 0}
    head = {
        "info": {"description": "results of deconvnet-ray; segments are the connected parts of a class"},
        "licenses": [],
        "categories": [*things, background],
    }
    with json_lists(folder / ANNOTATIONS / f"{NAME}.json", head, "images", "annotations") as append:
        for image in results:
            pictures.place(image)
            ids_HW, segments = segments_of(image.labels_HW, len(results.class_names))
            file_name = f"{image.name}.png"
            write(folder / ANNOTATIONS / NAME / file_name, png_of(ids_HW))
            append("images", image_entry(image))
            append("annotations", {
                "image_id": image.number, "file_name": file_name, "segments_info": segments
            })  # fmt: skip


def segments_of(labels_HW: NDArray[np.uint8], classes: int) -> tuple[NDArray[np.uint32], list[dict[str, Any]]]:
    """Ids of the segments, uint32 `[H, W]`, 0 where the mask is void, and the segments as JSON values."""
    background_HW = labels_HW == 0
    regions = [region_of(classes, background_HW)] if background_HW.any() else []
    ids_HW = np.zeros(labels_HW.shape, np.uint32)
    segments = []
    for number, region in enumerate(regions + regions_of(labels_HW, classes), start=1):
        left, top, width, height = region.box
        ids_HW[top : top + height, left : left + width][region.mask_hw] = number
        segments.append({
            "id": number, "category_id": region.label, "area": region.area, "bbox": region.box, "iscrowd": 0
        })  # fmt: skip
    return ids_HW, segments


def png_of(ids_HW: NDArray[np.uint32]) -> bytes:
    """A PNG whose colours are ids below 2**24."""
    colours_HW3 = np.stack([ids_HW >> 16 & 255, ids_HW >> 8 & 255, ids_HW & 255], axis=-1).astype(np.uint8)
    done, png = cv2.imencode(".png", colours_HW3)  # OpenCV takes blue, green, red
    assert done
    return png.tobytes()
