"""The ground truth that results are compared with: VOC's masks, or COCO's annotations."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.datasets import voc
from pipeline.errors import EvaluationError
from pipeline.imaging.images import SUPPORTED, decode_mask


class Truth(NamedTuple):
    """The mask of one image."""

    uri: str
    annotations: str | None = None
    """COCO: what `coco.draw_masks` makes the masks from."""
    object_uri: str | None = None
    """The mask of objects, where there is one."""


class Truths(NamedTuple):
    """The masks of a data set by the name of their image."""

    masks: dict[str, Truth]
    wanted: frozenset[str]
    """Names of the split, or all."""


def truth_name(image_id: str) -> str:
    """Name under which an image's ground truth is looked up: its file name without folder and extension.

    Only extensions of images are removed: an id from a manifest, such as `scan.07`, may have other dots.
    """
    name = PurePosixPath(image_id)
    return unicodedata.normalize("NFC", unquote(name.stem if name.suffix.lower() in SUPPORTED else name.name))


def list_truths(root: str, split: str | None) -> Truths:
    """The masks of a folder in VOC's or the plain layout, or the annotations of one in COCO's, joined by file name.

    Args:
        root: the folder with SegmentationClass, with annotations/instances_<split>.json, or with images and masks.
        split: only the names in this list, or of plain folders in this part (`layouts.folder_pairs`, with the default
            share); None: all (not in COCO's layout).

    Raises:
        EvaluationError: there are no masks, two have the same name, or the split is missing, is empty or names an
            image without a mask.
    """
    try:
        if storage.is_folder(storage.join(root, voc.CLASS_MASKS)):
            return _of_voc(root, split)
        if storage.is_folder(storage.join(root, "annotations")):
            return _of_coco(root, split)
        if storage.is_folder(storage.join(root, "masks")):
            return _of_folders(root, split)
    except (FileNotFoundError, ValueError) as error:
        raise EvaluationError(str(error)) from error
    raise EvaluationError(f"{root} holds no .png masks; give a folder in VOC's layout, {voc.CLASS_MASKS}/*.png, in "
                          "COCO's, annotations/instances_<split>.json, or with images/ and masks/")  # fmt: skip


def read_truth(truth: Truth) -> NDArray[np.uint8]:
    """Labels of a ground truth, uint8 `[H, W]`, 255 for void.

    Raises:
        OSError: it cannot be read.
        EvaluationError: it is not a mask, or cannot be drawn; the message names it.
    """
    try:
        if truth.annotations is None:
            return decode_mask(storage.read_bytes(truth.uri))
        from pipeline.datasets.coco import draw_masks  # needs a package that is otherwise only for training

        return draw_masks(truth.annotations)[0]
    except ValueError as error:
        raise EvaluationError(f"ground truth {truth.uri}: {error}") from error


def read_objects(truth: Truth) -> NDArray[np.uint8] | None:
    """The mask of objects of a ground truth, uint8 `[H, W]`, 0 for none and 255 for void; None where there is none.

    Raises:
        OSError, EvaluationError: as `read_truth`.
    """
    if truth.annotations is None:
        return None if truth.object_uri is None else read_truth(Truth(truth.object_uri))
    from pipeline.datasets.coco import draw_masks

    return draw_masks(truth.annotations)[1]


def _of_voc(root: str, split: str | None) -> Truths:
    of_objects = voc.object_masks(root)
    found = [(path, Truth(uri, object_uri=of_objects.get(path))) for path, uri in voc.class_masks(root).items()]
    if not found:
        raise EvaluationError(f"{storage.join(root, voc.CLASS_MASKS)} holds no .png masks")
    masks = _by_file_name(found)
    if split is None:
        return Truths(masks, frozenset(masks))
    listed = voc.split_names(root, split)
    if listed is None:
        raise EvaluationError(f"there is no split {split}: {root} has no {voc.SPLIT_LISTS}/{split}.txt")
    names = {PurePosixPath(name).name for name in listed}
    if not names:
        raise EvaluationError(f"the list {split} in {root}/{voc.SPLIT_LISTS} lists no image")
    unknown = sorted(names - set(masks))
    if unknown:
        raise EvaluationError(f"{len(unknown)} of the {len(names)} images of the split {split} have no mask in "
                              f"{voc.CLASS_MASKS}, {unknown[0]} for one")  # fmt: skip
    return Truths(masks, frozenset(names))


def _of_coco(root: str, split: str | None) -> Truths:
    from pipeline.datasets.layouts import coco_pairs

    if split is None:
        raise EvaluationError(f"{root} is in COCO's layout: name the file of annotations by --split (val2017 for "
                              "annotations/instances_val2017.json)")  # fmt: skip
    pairs, _ = coco_pairs(root, split, root)
    masks = _by_file_name([(truth_name(pair.image_uri), Truth(pair.image_uri, pair.annotations)) for pair in pairs])
    if not masks:
        raise EvaluationError(f"{root}/annotations/instances_{split}.json lists no image")
    return Truths(masks, frozenset(masks))


def _of_folders(root: str, split: str | None) -> Truths:
    from pipeline.datasets.layouts import SPLITS, VAL_SHARE, folder_pairs

    parts = dict(zip(SPLITS, folder_pairs(root, VAL_SHARE), strict=True))
    if split not in {None, *parts}:
        raise EvaluationError(f"there is no split {split}: the images of {root} are split into {' and '.join(parts)}")
    masks = {
        part: _by_file_name(
            [
                (truth_name(pair.image_uri), Truth(pair.class_mask_uri, object_uri=pair.object_mask_uri))
                for pair in pairs
            ]
        )
        for part, pairs in parts.items()
    }
    every = {name: truth for part in masks.values() for name, truth in part.items()}
    if not every:
        raise EvaluationError(f"{storage.join(root, 'masks')} holds no .png masks")
    return Truths(every, frozenset(every if split is None else masks[split]))


def _by_file_name(found: list[tuple[str, Truth]]) -> dict[str, Truth]:
    masks: dict[str, Truth] = {}
    for path, truth in found:
        other = masks.setdefault(PurePosixPath(path).name, truth)
        if other != truth:
            raise EvaluationError(f"{other.uri} and {truth.uri} have one name, and results are joined with masks by "
                                  "name; evaluate one folder at a time")  # fmt: skip
    return masks
