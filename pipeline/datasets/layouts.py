"""Annotated images on disk, in four layouts: PASCAL VOC's, that of its extension SBD, COCO's, and plain folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from pipeline import storage
from pipeline.config import TrainingSetConfig
from pipeline.datasets import voc
from pipeline.datasets.class_list import read_class_list
from pipeline.datasets.coco import Coco, read_coco
from pipeline.errors import DatasetError
from pipeline.imaging.classes import VOC_CLASSES
from pipeline.imaging.images import SUPPORTED

SPLITS = ("train", "val")
Layout = Literal["voc", "sbd", "coco", "folders"]
VAL_SHARE = 0.2
"""Share of validation images in plain folders, which have no lists."""


class Pair(NamedTuple):
    """An image and its masks, as absolute addresses."""

    image_uri: str
    class_mask_uri: str
    object_mask_uri: str | None = None
    """None where there is no object mask."""
    annotations: str | None = None
    """COCO: what `coco.draw_masks` makes the masks from; they are not written yet."""
    windows: str | None = None
    """JSON: the image's windows, if they come from a list, `[[x0, y0, x1, y1], ...]`, half-open."""


class Images(NamedTuple):
    """The images to train and validate on."""

    train: list[Pair]
    val: list[Pair]
    class_names: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    """What people should know before work starts, a sentence each: ignored annotations, assumed classes."""


def list_images(config: TrainingSetConfig) -> Images:
    """All images of both splits, in the order of folders and lists, and the names of the classes.

    SBD's own splits are not the usual ones: all of its images are for training, except those in either split of a VOC
    folder that is given too (with all of both data sets, 9,118 come from SBD and 1,464 from VOC).

    Raises:
        OSError: a folder or list is missing.
        ValueError: there is nothing to train on, or the folders' classes do not agree.
    """
    if config.windows_from is not None:
        return _listed_windows(config, config.windows_from)
    pairs: dict[str, list[Pair]] = {split: [] for split in SPLITS}
    from_sbd: list[Pair] = []
    of_voc: set[str] = set()
    remarks: list[str] = []
    unnamed: list[str] = []
    class_lists = {} if config.classes is None else {config.classes: read_class_list(config.classes)}
    for number, root in enumerate(config.data):
        layout = layout_of(root)
        if layout != "coco" and config.classes is None:
            own = _own_classes(root, layout)
            class_lists[root] = own or VOC_CLASSES
            unnamed += [] if own else [root]
        if layout == "sbd":
            from_sbd += sbd_pairs(root)
            continue
        if layout == "folders":
            share = VAL_SHARE if config.val_share is None else config.val_share
            for split, found in zip(SPLITS, folder_pairs(root, share), strict=True):
                pairs[split] += found
            continue
        for split, name in zip(SPLITS, (config.train_split, config.val_split), strict=True):
            if layout == "coco":
                folders = (storage.join(config.output, of, str(number), split) for of in ("masks", "object_masks"))
                found, coco = coco_pairs(root, name, *folders)
                class_lists[f"{root}, {name}"] = coco.class_names
                remarks += coco.remarks
            else:
                found = voc_pairs(root, name, all_if_unlisted=split == "train")
                of_voc |= {_name(pair) for pair in found}
            pairs[split] += found
    pairs["train"] += [pair for pair in from_sbd if _name(pair) not in of_voc]
    if not pairs["train"]:
        raise DatasetError(f"{', '.join(config.data)}: no image is listed for training, and no mask found")
    images = Images(pairs["train"][: config.limit], pairs["val"][: config.limit], _agreed(class_lists))
    return images._replace(remarks=(*_assumed(unnamed), *_seen(images), *remarks))


def seen_in_training(images: Images) -> int:
    """How many of the images for validation are also trained on."""
    return len({pair.image_uri for pair in images.train} & {pair.image_uri for pair in images.val})


def _seen(images: Images) -> tuple[str, ...]:
    """A remark on images for validation that are trained on, if there are any."""
    seen = seen_in_training(images)
    if not seen:
        return ()
    return (f"{seen} of the {len(images.val)} images for validation are also trained on: their figures show that the "
            "training works, not how good the network is",)  # fmt: skip


def _listed_windows(config: TrainingSetConfig, lists: str) -> Images:
    """The images of two lists of windows, each with its windows, in the order of the lists."""
    (root,) = config.data
    own = _own_classes(root) if config.classes is None else read_class_list(config.classes)
    train, val = (window_list(storage.join(lists, f"{split}.txt"), root) for split in SPLITS)
    if not train:
        raise DatasetError(f"{lists}/train.txt lists no window")
    return Images(train[: config.limit], val[: config.limit], own or VOC_CLASSES, _assumed([] if own else [root]))


def window_list(uri: str, root: str) -> list[Pair]:
    """Read a list of windows in the DeconvNet release's format, grouped by image.

    A line is `image mask x1 y1 x2 y2`: two paths below `root`, then pixels of the image, counted from 0. Both ends
    belong to the window, which may leave the image.

    Raises:
        OSError: the list cannot be read.
        ValueError: a line is something else; the message quotes it.
    """
    windows: dict[tuple[str, str], list[list[float]]] = {}
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{uri} is no list of windows: {error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            image, mask, *corners = fields
            x1, y1, x2, y2 = map(int, corners)
        except ValueError as error:
            raise DatasetError(f"{uri}, line {number}: {line!r} is not `image mask x1 y1 x2 y2`") from error
        if x2 < x1 or y2 < y1:
            raise DatasetError(f"{uri}, line {number}: {line!r} is a window without pixels")
        windows.setdefault((image, mask), []).append([x1, y1, x2 + 1, y2 + 1])
    return [
        Pair(storage.join(root, image.lstrip("/")), storage.join(root, mask.lstrip("/")), windows=json.dumps(boxes))
        for (image, mask), boxes in windows.items()
    ]


def layout_of(root: str) -> Layout:
    """Which layout a folder has.

    Raises:
        FileNotFoundError: it has none of the four.
    """
    folders: dict[Layout, str] = {"voc": voc.IMAGES, "sbd": "cls", "coco": "annotations", "folders": "masks"}
    for layout, folder in folders.items():
        if storage.is_folder(storage.join(root, folder)):
            return layout
    raise FileNotFoundError(
        f"{root} has none of the folders that tell a layout: JPEGImages (PASCAL VOC), cls (SBD), annotations (COCO), "
        "masks (with images and classes.txt)"
    )


def _agreed(class_lists: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The list of classes on which all folders agree that have one: a label must mean the same in every mask."""
    (where, names), *others = class_lists.items()
    for elsewhere, other_names in others:
        if other_names != names:
            raise DatasetError(
                f"the classes differ: {', '.join(names)} in {where}; {', '.join(other_names)} in {elsewhere}. "
                "A folder of masks without classes.txt has VOC's; --classes tells what masks hold"
            )
    return names


def voc_pairs(root: str, split: str, *, all_if_unlisted: bool) -> list[Pair]:
    """Image and masks of one split of a folder in VOC layout, in the order of its list.

    A listed image or class mask that is missing is still returned, so that reading it reports it by name.

    Args:
        root: folder with JPEGImages, SegmentationClass and, optionally, SegmentationObject and ImageSets/Segmentation.
        split: name of a list in ImageSets/Segmentation, such as `train`.
        all_if_unlisted: whether a folder without ImageSets gives every image that has a class mask, or none.

    Raises:
        FileNotFoundError: there is an ImageSets folder but no such list in it, or a needed folder is missing.
        ValueError: two images or two masks have the same name.
    """
    names = voc.split_names(root, split)
    if names is None and not all_if_unlisted:
        return []
    class_masks = voc.class_masks(root)
    listed = list(class_masks) if names is None else names
    return _pairs(root, listed, class_masks, (voc.IMAGES, voc.CLASS_MASKS, voc.OBJECT_MASKS), ".png")


def sbd_pairs(root: str) -> list[Pair]:
    """Every image with a class mask of a folder in SBD's layout (Hariharan et al., ICCV 2011), in order of names.

    Args:
        root: folder with img/*.jpg, cls/*.mat and inst/*.mat (`benchmark_RELEASE/dataset` of the download).
    """
    class_masks = voc.files_by_name(storage.join(root, "cls"), (".mat",))
    return _pairs(root, list(class_masks), class_masks, ("img", "cls", "inst"), ".mat")


def folder_pairs(root: str, val_share: float) -> tuple[list[Pair], list[Pair]]:
    """Images with masks of two plain folders, split by their names: the same names give the same split everywhere.

    Args:
        root: folder with images/<name>.jpg and masks/<name>.png.
        val_share: share of the images, 0..1, that is for validation: those whose names have the smallest hashes.

    Returns:
        Training and validation images, in order of names.

    Raises:
        FileNotFoundError: there is no folder `images`.
        ValueError: two images or two masks have the same name.
    """
    class_masks = voc.files_by_name(storage.join(root, "masks"), (".png",))
    ranked = sorted(class_masks, key=lambda name: hashlib.sha256(name.encode()).digest())
    count = round(val_share * len(ranked))
    train, val = (
        _pairs(root, sorted(names), class_masks, ("images", "masks", "objects"), ".png")
        for names in (ranked[count:], ranked[:count])
    )
    return train, val


def _own_classes(root: str, layout: Layout | None = None) -> tuple[str, ...] | None:
    """The classes that a folder of masks names; None if it names none, as VOC's own does not."""
    uri = storage.join(root, voc.CLASSES)
    if storage.exists(uri):
        return read_class_list(uri)
    if layout == "folders":
        raise FileNotFoundError(f"{uri} does not exist: write the names of the classes into it, a line each, in the "
                                "order of the masks' values, background first")  # fmt: skip
    return None


def _assumed(roots: Sequence[str]) -> tuple[str, ...]:
    """A remark on folders whose classes nobody named, if there are any."""
    if not roots:
        return ()
    numbered = ", ".join(f"{label} {name}" for label, name in enumerate(VOC_CLASSES))
    return (
        f"no {voc.CLASSES} in {', '.join(roots)} and no --classes: labels there are taken for PASCAL VOC's classes, "
        f"{numbered}",
    )


def _pairs(
    root: str, names: Sequence[str], class_masks: dict[str, str], folders: tuple[str, str, str], suffix: str
) -> list[Pair]:
    images_uri, classes_uri, objects_uri = (storage.join(root, folder) for folder in folders)
    wanted = frozenset(names)
    images = voc.files_by_name(images_uri, SUPPORTED, wanted)
    object_masks = voc.files_by_name(objects_uri, (suffix,), wanted) if storage.is_folder(objects_uri) else {}
    return [
        Pair(
            images.get(name, f"{images_uri}/{name}.jpg"),
            class_masks.get(name, f"{classes_uri}/{name}{suffix}"),
            object_masks.get(name),
        )
        for name in names
    ]


def coco_pairs(root: str, split: str, masks_uri: str, object_masks_uri: str | None = None) -> tuple[list[Pair], Coco]:
    """The images of one annotation file of a folder in COCO's layout, and what the file holds.

    Args:
        root: folder with annotations/instances_<split>.json, and the images in <split> or images.
        split: such as `train2017`.
        masks_uri: where the class masks will be written.
        object_masks_uri: where the object masks will be; None if they are not wanted.

    Raises:
        FileNotFoundError: there is no such annotation file.
        ValueError: the file cannot be used.
    """
    file = storage.join(root, "annotations", f"instances_{split}.json")
    images_uri = storage.join(root, split)
    if not storage.is_folder(images_uri):
        images_uri = storage.join(root, "images")
    try:
        coco = read_coco(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{file} does not exist: name another split by train-split or val-split (val2017 for "
            "annotations/instances_val2017.json and the images in val2017), or write this one (it may have no images)"
        ) from error
    return [
        Pair(
            f"{images_uri}/{image.file_name}",
            f"{masks_uri}/{image.id:012d}.png",
            None if object_masks_uri is None else f"{object_masks_uri}/{image.id:012d}.png",
            image.annotations,
        )
        for image in coco.images
    ], coco


def _name(pair: Pair) -> str:
    return PurePosixPath(pair.image_uri).stem
