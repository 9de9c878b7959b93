"""Panels: photograph, ground truth and result side by side, with the names of the classes."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline import storage
from pipeline.config import DecodeConfig
from pipeline.errors import EvaluationError
from pipeline.evaluation.truths import Truth, list_truths, read_truth, truth_name
from pipeline.imaging.classes import VOID, voc_palette
from pipeline.imaging.images import decode_image, decode_mask
from pipeline.outputs.layout import place
from pipeline.outputs.results import read_class_names, scan_results

OPACITY = 0.65  # of the class colours over the photograph
GAP = 8  # pixels between the pictures
LINE = 18  # height of the legend in pixels

UInt8Array = NDArray[np.uint8]


def overlay(image_HW3: UInt8Array, labels_HW: UInt8Array) -> UInt8Array:
    """The photograph with each labelled pixel tinted in its class's colour; background and void stay as they are."""
    tinted = (1 - OPACITY) * image_HW3 + OPACITY * voc_palette()[labels_HW]
    objects_HW1 = ((labels_HW != 0) & (labels_HW != VOID))[..., None]
    return np.where(objects_HW1, tinted.round(), image_HW3).astype(np.uint8)


def panel(image_HW3: UInt8Array, masks: Sequence[UInt8Array], class_names: Sequence[str]) -> UInt8Array:
    """The photograph and one overlay a mask, left to right, over a legend of the classes that occur.

    Args:
        image_HW3: RGB.
        masks: labels `[H, W]` of the image's size, 255 for void.
        class_names: names by label.

    Returns:
        RGB uint8 picture.
    """
    pictures = [image_HW3, *(overlay(image_HW3, mask) for mask in masks)]
    height, width = image_HW3.shape[:2]
    sheet = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height + LINE + GAP), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(Image.fromarray(picture), (i * (width + GAP), 0))
    present = sorted(set(np.unique(np.stack(masks)).tolist()) - {0, VOID}) if masks else []
    _legend(ImageDraw.Draw(sheet), height + GAP // 2, [(class_names[c], voc_palette()[c]) for c in present])
    return np.asarray(sheet)


def write_panels(output_uri: str, ground_truth_uri: str | None, split: str | None, count: int) -> list[str]:
    """Panels of photograph, ground truth and result for the first `count` images by id.

    Args:
        output_uri: a run's output folder.
        ground_truth_uri: only images with a mask in its `SegmentationClass` are shown; None: all, without a truth.
        split: only images of this list of the ground truth.
        count: of panels, at most; those are left out whose pictures are not of one size, or
            whose ground truth cannot be used. With 0 nothing is read.

    Returns:
        Where they were written: OUTPUT/panels/<image id>.png.
    """
    if not count:
        return []
    class_names = read_class_names(output_uri)
    ids = sorted(row["image_id"] for row in scan_results(output_uri, ["image_id"]))
    truths: dict[str, Truth] = {}
    if ground_truth_uri is not None:
        truths, shown = list_truths(ground_truth_uri, split)
        ids = [one for one in ids if truth_name(one) in shown]
    wanted = set(ids[:count])
    written = []
    for row in scan_results(output_uri, ["image_id", "uri", "mask"]):
        if row["image_id"] in wanted:
            image_HW3 = decode_image(storage.read_bytes(row["uri"]), DecodeConfig().max_megapixels)
            truth = [truths[truth_name(row["image_id"])]] if truths else []
            try:
                masks = [*map(read_truth, truth), decode_mask(row["mask"])]
            except EvaluationError:  # the evaluation names it
                continue
            if any(mask_HW.shape != image_HW3.shape[:2] for mask_HW in masks):
                continue
            buffer = io.BytesIO()
            Image.fromarray(panel(image_HW3, masks, class_names)).save(buffer, "PNG")
            written.append(storage.join(output_uri, place("panels", row["image_id"], "png")))
            storage.write_atomic(written[-1], buffer.getvalue())
    return sorted(written)


def _legend(draw: ImageDraw.ImageDraw, top: int, entries: Sequence[tuple[str, UInt8Array]]) -> None:
    font = ImageFont.load_default(LINE - 6)
    x = 0
    for name, colour in entries:
        draw.rectangle((x, top + 2, x + LINE - 6, top + LINE - 4), fill=tuple(colour.tolist()))
        draw.text((x + LINE, top), name, fill="black", font=font)
        x += LINE + int(draw.textlength(name, font=font)) + 2 * GAP
