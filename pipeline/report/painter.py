"""Photographs beside their masks: the one place where they are painted."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.imaging.classes import VOID, voc_palette

OPACITY = 0.65  # of the class colours over the photograph
GAP = 8  # pixels between the pictures
LINE = 18  # height of a line of text in pixels
WHITE = 255

UInt8Array = NDArray[np.uint8]


def overlay(image_HW3: UInt8Array, labels_HW: UInt8Array) -> UInt8Array:
    """The photograph with each labelled pixel tinted in its class's colour; background and void stay as they are."""
    tinted = (1 - OPACITY) * image_HW3 + OPACITY * voc_palette()[labels_HW]
    objects_HW1 = ((labels_HW != 0) & (labels_HW != VOID))[..., None]
    return np.where(objects_HW1, tinted.round(), image_HW3).astype(np.uint8)


def grid(pictures: Sequence[UInt8Array], across: int, gap: int, background: int = WHITE) -> UInt8Array:
    """Pictures of one size in rows of `across`, with `gap` pixels between them.

    Args:
        pictures: RGB uint8 `[H, W, 3]`, at least one.
        across: pictures in a row.
        gap: in pixels.
        background: grey value 0..255 between them.
    """
    height, width = pictures[0].shape[:2]
    across = min(across, len(pictures))
    down = -(-len(pictures) // across)
    canvas = np.full((down * (height + gap) - gap, across * (width + gap) - gap, 3), background, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // across * (height + gap), number % across * (width + gap)
        canvas[top : top + height, left : left + width] = picture
    return canvas


def panel(
    image_HW3: UInt8Array, masks: Sequence[UInt8Array], class_names: Sequence[str], titles: Sequence[str] = ()
) -> UInt8Array:
    """The photograph and one overlay a mask, left to right, over a legend of the classes that occur.

    Args:
        image_HW3: RGB.
        masks: labels `[H, W]` of the image's size, 255 for void.
        class_names: names by label.
        titles: one for each picture, the photograph's first, in a line above them; none: no such line.

    Returns:
        RGB uint8 picture.
    """
    pictures = grid([image_HW3, *(overlay(image_HW3, mask) for mask in masks)], len(masks) + 1, GAP)
    height, width = pictures.shape[:2]
    present = sorted(set(np.unique(np.stack(masks)).tolist()) - {0, VOID}) if masks else []
    names, font = [class_names[label] for label in present], ImageFont.load_default(LINE - 6)
    places, lines = _places([int(font.getlength(name)) for name in names], width)
    above = LINE if titles else 0
    sheet = Image.new("RGB", (width, above + height + GAP + lines * LINE), "white")
    sheet.paste(Image.fromarray(pictures), (0, above))
    draw = ImageDraw.Draw(sheet)
    for number, title in enumerate(titles):
        draw.text((number * (image_HW3.shape[1] + GAP), 0), title, fill="black", font=font)
    for label, name, (x, line) in zip(present, names, places, strict=True):
        top = above + height + GAP // 2 + line * LINE
        draw.rectangle((x, top + 2, x + LINE - 6, top + LINE - 4), fill=tuple(voc_palette()[label].tolist()))
        draw.text((x + LINE, top), name, fill="black", font=font)
    return np.asarray(sheet)


def png(picture_HW3: UInt8Array) -> bytes:
    """The picture's PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture_HW3).save(buffer, "PNG")
    return buffer.getvalue()


def _places(lengths: Sequence[int], width: int) -> tuple[list[tuple[int, int]], int]:
    """Where each entry of the legend begins, as x and line, for texts of such lengths; and how many lines there are."""
    places, x, line = [], 0, 0
    for length in lengths:
        if x and x + LINE + length > width:
            x, line = 0, line + 1
        places.append((x, line))
        x += LINE + length + 2 * GAP
    return places, line + 1
