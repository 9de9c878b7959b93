"""COCO-format instance annotations to class and object masks."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline import storage
from pipeline.errors import DatasetError
from pipeline.imaging.classes import VOID, check_classes

UInt8Array = NDArray[np.uint8]
MOST_OBJECTS = VOID - 1


class CocoImage(NamedTuple):
    """An image of an annotation file."""

    id: int
    file_name: str
    annotations: str
    """JSON for `draw_masks`: the image's height and width, and its regions `[label, segmentation, annotation's id]`;
    or `unusable`, the reason."""


class Coco(NamedTuple):
    """An annotation file: images in order of their ids, and the classes, background first, in order of category ids."""

    images: list[CocoImage]
    class_names: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    """What was ignored, one sentence each."""


def read_coco(uri: str) -> Coco:
    """Read an annotation file (`instances_*.json`), whole.

    The categories become classes 1, 2, ... in order of their ids; regions with `iscrowd` become void. Annotations of
    images that are not listed are ignored. An image with an object that cannot be drawn has no usable mask, since the
    object would be background in it: `draw_masks` then raises the reason.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an annotation file, or has more than 254 categories.
    """
    try:
        return _coco(json.loads(storage.read_bytes(uri)))
    except (ValueError, TypeError, AttributeError) as error:
        raise DatasetError(f"{uri} is no file of COCO instance annotations that can be used: {error}") from error
    except KeyError as error:
        raise DatasetError(f"{uri} is no file of COCO instance annotations: it has no {error}") from error


def _coco(content: dict[str, Any]) -> Coco:
    categories = sorted(content["categories"], key=lambda category: category["id"])
    class_names = check_classes(("background", *(category["name"] for category in categories)))
    labels = {category["id"]: label for label, category in enumerate(categories, start=1)}
    ids = [int(image["id"]) for image in content["images"]]
    if len(set(ids)) < len(ids):
        raise ValueError("two images have the same id")
    regions: dict[int, list[Any]] = {image_id: [] for image_id in ids}
    unusable = _listed_twice(content["images"])
    strangers = []
    for annotation in content["annotations"]:
        image_id = int(annotation["image_id"])
        if image_id not in regions:
            strangers.append(f"annotation {annotation.get('id')} of image {image_id}")
        elif reason := _undrawable(annotation, labels):
            unusable.setdefault(image_id, reason)
        else:
            label = VOID if int(annotation.get("iscrowd") or 0) else labels[annotation["category_id"]]
            regions[image_id].append([label, annotation["segmentation"], annotation.get("id")])
    images = []
    for image in sorted(content["images"], key=lambda image: int(image["id"])):
        image_id = int(image["id"])
        unsized = [f"image {image_id} has no {side}" for side in ("height", "width") if not image.get(side)]
        reason = unusable.get(image_id) or ", ".join(unsized)
        drawn = {"unusable": reason} if reason else {
            "height": image["height"], "width": image["width"], "regions": regions[image_id],
        }  # fmt: skip
        images.append(CocoImage(image_id, image["file_name"], json.dumps(drawn)))
    remarks = (f"{len(strangers)} annotations are of images that are not listed and were left aside, "
               f"{strangers[0]} for one",) if strangers else ()  # fmt: skip
    return Coco(images, class_names, remarks)


def _listed_twice(images: list[dict[str, Any]]) -> dict[int, str]:
    """Images that share their file with another one, so that each has only some of the objects."""
    by_file: dict[str, list[int]] = {}
    for image in images:
        by_file.setdefault(image["file_name"], []).append(int(image["id"]))
    return {
        image_id: f"images {', '.join(map(str, same))} are the same file {file}"
        for file, same in by_file.items() if len(same) > 1 for image_id in same
    }  # fmt: skip


def _undrawable(annotation: dict[str, Any], labels: dict[int, int]) -> str | None:
    """Why an annotation has no region or no label; None where it has both."""
    name = f"annotation {annotation.get('id')}"
    if not annotation.get("segmentation"):
        return f"{name}: its segmentation is empty or missing, so its object would count as background"
    if annotation.get("category_id") not in labels:
        return f"{name}: its category_id {annotation.get('category_id')} is not among the categories"
    return None


def draw_masks(annotations: str) -> tuple[UInt8Array, UInt8Array]:
    """Draw one image's annotations: class mask and object mask, uint8 `[H, W]`.

    COCO's regions may overlap, but a pixel of a mask has one label. Larger regions are drawn first, so that smaller
    ones lie on top (of equal ones, the later). Crowd regions are void in both masks where no object lies on them.

    Args:
        annotations: `CocoImage.annotations`.

    Raises:
        ValueError: a region is neither polygons nor run lengths of the image's size, an object has no region, or there
            are more than 254 objects; the message names the annotation.
    """
    image = json.loads(annotations)
    if "unusable" in image:
        raise ValueError(image["unusable"])
    height, width = image["height"], image["width"]
    regions = [(label, _draw(segmentation, height, width, *name)) for label, segmentation, *name in image["regions"]]
    crowds = [(VOID, VOID, region_HW) for label, region_HW in regions if label == VOID]
    objects = [region for region in regions if region[0] != VOID]
    if len(objects) > MOST_OBJECTS:
        raise ValueError(f"{len(objects)} objects are annotated; an image may have {MOST_OBJECTS}")
    numbered = [(label, number, region_HW) for number, (label, region_HW) in enumerate(objects, start=1)]
    numbered.sort(key=lambda region: -np.count_nonzero(region[2]))
    class_mask_HW, object_mask_HW = np.zeros((2, height, width), dtype=np.uint8)
    for label, number, region_HW in [*crowds, *numbered]:
        class_mask_HW[region_HW], object_mask_HW[region_HW] = label, number
    return class_mask_HW, object_mask_HW


def _draw(segmentation: Any, height: int, width: int, name: Any = None) -> NDArray[np.bool_]:
    """A region, bool `[H, W]`: polygons `[[x, y, x, y, ...], ...]`, or run lengths, compressed or not."""
    try:
        if isinstance(segmentation, list):
            return _fill(segmentation, height, width)
        return _lay_out(segmentation, height, width)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        of = "" if name is None else f"annotation {name}: "
        raise ValueError(f"{of}its segmentation is neither polygons nor run lengths: {type(error).__name__}: {error}"
                         ) from error  # fmt: skip


def _fill(polygons: list[Any], height: int, width: int) -> NDArray[np.bool_]:
    # A polygon with fewer than three corners encloses nothing; pycocotools would take four numbers for a box.
    rings = [np.asarray(polygon, dtype=float) for polygon in polygons if len(polygon) >= 6]
    if not rings:
        return np.zeros((height, width), dtype=bool)
    farthest = max(float(np.abs(ring).max()) for ring in rings)
    if not farthest <= 2 * max(height, width):  # pycocotools crashes on corners that are far away or NaN
        raise ValueError(f"a polygon has a corner at {farthest:g} in an image of {width}x{height}")
    filled = coco_mask.merge(coco_mask.frPyObjects([ring.tolist() for ring in rings], height, width))
    return np.asarray(coco_mask.decode(filled), dtype=bool)


def _lay_out(segmentation: dict[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    # Not with pycocotools: where there are too few runs, it leaves uninitialised memory in the rest of the mask.
    counts = segmentation["counts"]
    runs = np.array(counts if isinstance(counts, list) else _uncompress(counts), dtype=np.int64)
    if segmentation["size"] != [height, width] or runs.min(initial=0) < 0 or runs.sum() != height * width:
        raise ValueError(f"run lengths of {runs.sum()} pixels, size {segmentation['size']}, in {[height, width]}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T  # column after column


def _uncompress(counts: str) -> list[int]:
    """Decode COCO's strings to run lengths: five bits per character, low bits first.

    From the fourth on, a number is the difference from the run two places before.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs
