"""The report's pictures: photograph and mask of a few images, small enough to stand in the page itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePath
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline import storage
from pipeline.errors import ImageError, StorageError
from pipeline.imaging.classes import voc_palette
from pipeline.imaging.images import decode_image, decode_mask, resize_labels, working_size
from pipeline.inputs.reading import in_container, read_image
from pipeline.outputs.layout import mask_path
from pipeline.outputs.results import read_masks
from pipeline.report.page.parts import Label
from pipeline.report.painter import overlay
from pipeline.report.run_page.facts import Candidate

SIDE = 512
"""Of a picture, at most, in pixels."""
PICTURE_BYTES = 40_000
"""Of a picture, at most, as JPEG: with two an image and base64, 36 images take less than 4 MB."""
QUALITIES = (80, 65, 50, 35)
MOST_CLASSES = 8  # of an image that are named

UInt8Array = NDArray[np.uint8]


@dataclass(frozen=True)
class Shown:
    """An image of the gallery.

    Attributes:
        candidate: which image.
        photograph: as a data URI; None where it cannot be shown, `note` says why.
        result: the photograph with its classes in colour, or their colours alone; None where there is no mask.
        note: what is missing.
        classes: what was found and its share of the pixels, 0..1, largest first, without the background.
        photograph_link: address of the file for a browser, None where it is none of its own on this machine.
        mask_link: of the mask's file, seen from the report.
    """

    candidate: Candidate
    photograph: str | None
    result: str | None
    note: str
    classes: tuple[tuple[Label, float], ...]
    photograph_link: str | None
    mask_link: str | None


class Photographs:
    """Reads photographs for as long as their store answers: one that is away would be waited for image by image.

    Args:
        max_megapixels: larger ones are not read.
    """

    def __init__(self, max_megapixels: float) -> None:
        self._max_megapixels = max_megapixels
        self._away = ""

    def read(self, uri: str) -> UInt8Array | str:
        """The photograph, RGB `[H, W, 3]`, upright; or why there is none."""
        if self._away:
            return self._away
        try:
            return decode_image(read_image(uri), self._max_megapixels)
        except storage.StoreAwayError as error:
            self._away = f"the photographs cannot be read ({storage.redact(str(error))})"
            return self._away
        except FileNotFoundError:
            return "the photograph is not there any more"
        except (OSError, ImageError, StorageError) as error:
            return f"the photograph cannot be read ({storage.redact(str(error))})"


def show(
    candidates: Sequence[Candidate], labels: Sequence[Label], max_megapixels: float, *, masks: bool
) -> dict[Candidate, Shown]:
    """Draw images of the results.

    Args:
        candidates: which.
        labels: of all classes.
        max_megapixels: larger photographs are not read.
        masks: whether the run wrote masks as files of their own.

    Raises:
        ResultsError: a file of results cannot be read any more.
    """
    photographs = Photographs(max_megapixels)
    by_part = sorted(candidates, key=lambda one: one.part)
    return {one.candidate: one for one in _drawn(by_part, labels, photographs, masks)}


def _drawn(
    candidates: Sequence[Candidate], labels: Sequence[Label], photographs: Photographs, masks: bool
) -> Iterator[Shown]:
    for part, group in groupby(candidates, key=lambda one: one.part):
        some = list(group)
        pngs = read_masks(part, [one.image_id for one in some])
        for one in some:
            photograph, result, note = pictures(photographs.read(one.uri), pngs.get(one.image_id))
            yield Shown(
                one,
                data_uri(photograph),
                data_uri(result),
                note,
                classes_of(one, labels),
                PurePath(one.uri).as_uri() if one.uri.startswith("/") and not in_container(one.uri) else None,
                quote(f"../{mask_path(one.image_id)}") if masks else None,
            )


def pictures(photograph: UInt8Array | str, mask_png: bytes | None) -> tuple[bytes | None, bytes | None, str]:
    """A photograph and its result as JPEG files.

    Args:
        photograph: RGB `[H, W, 3]`, or why there is none.
        mask_png: the mask's file; None: there is none.

    Returns:
        Both, None where one is missing; and what is missing, in words.
    """
    try:
        labels_HW = decode_mask(mask_png or b"")
    except ImageError as error:
        note = f"the mask cannot be read ({error})"
        return None if isinstance(photograph, str) else jpeg(working_size(photograph, SIDE)), None, note
    if not isinstance(photograph, str) and photograph.shape[:2] != labels_HW.shape:
        photograph = "the photograph has another size now than when it was segmented"
    if isinstance(photograph, str):
        return None, jpeg(_coloured(labels_HW)), photograph
    small_HW3 = working_size(photograph, SIDE)
    return jpeg(small_HW3), jpeg(overlay(small_HW3, resize_labels(labels_HW, *small_HW3.shape[:2]))), ""


def _coloured(labels_HW: UInt8Array) -> UInt8Array:
    """The mask alone, in its classes' colours."""
    scale = min(1.0, SIDE / max(labels_HW.shape))
    height, width = (max(1, round(side * scale)) for side in labels_HW.shape)
    return np.asarray(voc_palette()[resize_labels(labels_HW, height, width)], np.uint8)


def jpeg(picture_HW3: UInt8Array, most_bytes: int = PICTURE_BYTES) -> bytes:
    """A picture as a JPEG file of at most so many bytes, coarser or smaller where it takes more."""
    image = Image.fromarray(picture_HW3)
    while True:
        for quality in QUALITIES:
            with io.BytesIO() as file:
                image.save(file, "JPEG", quality=quality)
                data = file.getvalue()
            if len(data) <= most_bytes:
                return data
        image = image.reduce(2)


def data_uri(data: bytes | None) -> str | None:
    """A JPEG file as an address that holds it; None without one."""
    return None if data is None else f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def classes_of(candidate: Candidate, labels: Sequence[Label]) -> tuple[tuple[Label, float], ...]:
    """The classes that take most of an image, and their share of all its pixels, without the background."""
    total = max(sum(candidate.pixel_counts), 1)
    shares = [(label, count / total) for label, count in zip(labels, candidate.pixel_counts, strict=True)]
    return tuple(sorted((one for one in shares[1:] if one[1]), key=lambda one: -one[1])[:MOST_CLASSES])
