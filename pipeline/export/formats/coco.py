"""COCO's instance annotations: annotations/instances_results.json (cocodataset.org, "Data format").

Each region is an annotation with compressed run lengths. A category's id is the class's number; the background is no
category, as in COCO.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from pipeline.export.coco_entries import categories, image_entry
from pipeline.export.json_lists import json_lists
from pipeline.export.pictures import Pictures
from pipeline.export.regions import Region, regions_of
from pipeline.export.results import Results


def export(results: Results, pictures: Pictures, folder: Path) -> None:
    """Write annotations/instances_results.json, and images/."""
    head = {
        "info": {"description": "results of deconvnet-ray; objects are the connected parts of a class"},
        "licenses": [],
        "categories": categories(results.class_names),
    }
    number = 0
    with json_lists(folder / "annotations" / "instances_results.json", head, "images", "annotations") as append:
        for image in results:
            pictures.place(image)
            append("images", image_entry(image))
            height, width = image.labels_HW.shape
            for region in regions_of(image.labels_HW, len(results.class_names)):
                number += 1
                append("annotations", {
                    "id": number, "image_id": image.number, "category_id": region.label, "iscrowd": 0,
                    "area": region.area, "bbox": region.box, "segmentation": encoded(region, height, width),
                })  # fmt: skip


def encoded(region: Region, height: int, width: int) -> dict[str, Any]:
    """A region as COCO's compressed run lengths, column by column."""
    size = [height, width]
    runs = coco_mask.frPyObjects({"size": size, "counts": region.transposed.runs(width, height)}, height, width)
    return {"size": size, "counts": runs["counts"].decode("ascii")}
