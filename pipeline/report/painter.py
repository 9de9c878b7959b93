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
    pictures = [image_HW3, *(overlay(image_HW3, mask) for mask in masks)]
    labels = np.unique(np.stack(masks)) if masks else ()
    return sheet(pictures, len(pictures), titles, labels, class_names)


def sheet(
    pictures: Sequence[UInt8Array],
    across: int,
    titles: Sequence[str],
    labels: Sequence[int] | NDArray[np.integer],
    class_names: Sequence[str],
) -> UInt8Array:
    """Pictures of one size in rows, each under its title, over a legend.

    Args:
        pictures: RGB uint8 `[H, W, 3]`, at least one.
        across: pictures in a row.
        titles: one for each picture; none: no lines for them.
        labels: classes of the legend; background and void are left out.
        class_names: names by label.
    """
    font = ImageFont.load_default(LINE - 6)
    if titles:
        pictures = [_titled(*one, font) for one in zip(pictures, titles, strict=True)]
    body = grid(pictures, across, GAP)
    height, width = body.shape[:2]
    shown = [label for label in map(int, labels) if label not in {0, VOID}]
    names = [class_names[label] for label in shown]
    places, lines = _places([int(font.getlength(name)) for name in names], width)
    whole = Image.new("RGB", (width, height + GAP + lines * LINE), "white")
    whole.paste(Image.fromarray(body), (0, 0))
    draw = ImageDraw.Draw(whole)
    for label, name, (x, line) in zip(shown, names, places, strict=True):
        top = height + GAP // 2 + line * LINE
        draw.rectangle((x, top + 2, x + LINE - 6, top + LINE - 4), fill=tuple(voc_palette()[label].tolist()))
        draw.text((x + LINE, top), name, fill="black", font=font)
    return np.asarray(whole)


def _titled(picture_HW3: UInt8Array, title: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> UInt8Array:
    """A picture under a line of text."""
    line = Image.new("RGB", (picture_HW3.shape[1], LINE), "white")
    ImageDraw.Draw(line).text((0, 0), title, fill="black", font=font)
    return np.concatenate([np.asarray(line), picture_HW3])


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
