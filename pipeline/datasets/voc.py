"""PASCAL VOC's layout: the one place that knows its folders, its lists, and what a missing list means."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection

from pipeline import storage
from pipeline.errors import DatasetError
from pipeline.storage import listing

IMAGES, CLASS_MASKS, OBJECT_MASKS = "JPEGImages", "SegmentationClass", "SegmentationObject"
SPLIT_LISTS = "ImageSets/Segmentation"
CLASSES = "classes.txt"


def split_names(root: str, split: str) -> list[str] | None:
    """Names of the images of a split, in the order of ImageSets/Segmentation/<split>.txt.

    Returns:
        None for a folder without ImageSets, which has no splits.

    Raises:
        FileNotFoundError: there is an ImageSets folder, but no such list in it.
        ValueError: the list is not UTF-8 text.
    """
    if not storage.is_folder(storage.join(root, SPLIT_LISTS.partition("/")[0])):
        return None
    uri = storage.join(root, *SPLIT_LISTS.split("/"), f"{split}.txt")
    try:
        return [unicodedata.normalize("NFC", name) for name in listing.read_names(uri)]
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{uri} does not exist: name another list by its split, write this one (an image name a line; may be "
            f"empty), or remove {root}/ImageSets to take every mask"
        ) from error


def class_masks(root: str) -> dict[str, str]:
    """Addresses of the class masks by name.

    Raises:
        FileNotFoundError: there is no SegmentationClass.
        ValueError: two masks have the same name.
    """
    return files_by_name(storage.join(root, CLASS_MASKS), (".png",))


def object_masks(root: str) -> dict[str, str]:
    """Addresses of the masks of objects by name; none where there is no SegmentationObject.

    Raises:
        ValueError: two masks have the same name.
    """
    uri = storage.join(root, OBJECT_MASKS)
    return files_by_name(uri, (".png",)) if storage.is_folder(uri) else {}


def files_by_name(folder: str, suffixes: tuple[str, ...], names: Collection[str] | None = None) -> dict[str, str]:
    """Addresses of a folder's files by name: the path below the folder without its extension, in Unicode's form NFC.

    Args:
        folder: searched with its subfolders. Hidden files (`.x`, and macOS's `._x.png`) are ignored.
        suffixes: the extensions that count, in lower case.
        names: only these names; None: all.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: two files have the same name, such as a.jpg and a.png.
    """
    found: dict[str, str] = {}
    for file in listing.list_files(folder, suffixes):
        path = file.uri.removeprefix(f"{folder}/")
        name = unicodedata.normalize("NFC", path.rpartition(".")[0])
        if "/." in f"/{path}" or (names is not None and name not in names):
            continue
        other = found.setdefault(name, file.uri)
        if other != file.uri:
            raise DatasetError(
                f"{other} and {file.uri} have one name, and images are joined with masks by name; remove or rename one"
            )
    return found
