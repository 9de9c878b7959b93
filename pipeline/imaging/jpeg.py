"""JPEGs by libjpeg-turbo, whose warnings are errors here: what is damaged it fills up with grey and goes on."""

from __future__ import annotations

import re

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from pipeline.errors import ImageError

# Its other warnings are of odd headers (an unknown JFIF version, say) in images that are whole.
_DAMAGED, _CUT_OFF = "Corrupt JPEG data", "Premature end of JPEG file"
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_END_OF_IMAGE = b"\xff\xd9"


def decode_jpeg(image: JpegImageFile, data: bytes) -> NDArray[np.uint8] | None:
    """Decode a JPEG, or only check it if it is no RGB or grey one.

    Args:
        image: what Pillow read of its header.
        data: the whole file.

    Returns:
        uint8 RGB `[H, W, 3]`, not turned upright; None: ask Pillow, which decodes CMYK and knows what is not a JPEG.

    Raises:
        ImageError: the compressed data are damaged or end early.
    """
    plain = image.mode in {"RGB", "L"}
    try:
        pixels_HWC = simplejpeg.decode_jpeg(data, "RGB" if plain else "CMYK")
    except ValueError as error:
        message = str(error)
        if message.startswith(_CUT_OFF):
            raise ImageError("truncated", f"the JPEG is cut off ({message})") from error
        if message.startswith(_DAMAGED) and not _harmless(message, data):
            raise ImageError("unreadable", f"the JPEG is damaged ({message})") from error
        return None
    return pixels_HWC if plain and pixels_HWC.shape == (image.height, image.width, 3) else None


def _harmless(message: str, data: bytes) -> bool:
    """Whether libjpeg complains of bytes that are no part of the picture: in the header, or zeros before the end."""
    try:
        simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return True
    left_over = _LEFT_OVER.search(message)
    return left_over is not None and data[: data.rfind(_END_OF_IMAGE)].endswith(bytes(int(left_over[1])))
