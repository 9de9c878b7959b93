"""What COCO's instance and panoptic annotations have in common."""

from __future__ import annotations

from typing import Any

from pipeline.export.results import Segmented


def categories(class_names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The classes but the background as COCO's categories; their ids are the classes' numbers."""
    return [{"id": label, "name": name, "supercategory": ""} for label, name in enumerate(class_names) if label]


def image_entry(image: Segmented) -> dict[str, Any]:
    """An image in COCO's list: `file_name` is its path below the export's `images`; those after its size are ours."""
    height, width = image.labels_HW.shape
    return {
        "id": image.number, "file_name": image.picture, "height": height, "width": width,
        "image_id": image.image_id, "uri": image.row["uri"], "mean_confidence": image.row["mean_confidence"],
        **image.carried,
    }  # fmt: skip
