"""JPEGs by libjpeg-turbo, with its warnings as errors: it would fill damaged parts with grey and continue."""

from __future__ import annotations

import re

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from pipeline.errors import ImageError

# Its other warnings are about odd headers (an unknown JFIF version, say) of intact images.
_DAMAGED, _CUT_OFF = "Corrupt JPEG data", "Premature end of JPEG file"
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_END_OF_IMAGE = b"\xff\xd9"


def decode_jpeg(image: JpegImageFile, data: bytes, shrink: int = 1) -> NDArray[np.uint8] | None:
    """Decode a JPEG if it is RGB or grey; only check it otherwise.

    Args:
        image: the image as Pillow opened it, header read only.
        data: the whole file.
        shrink: 1, 2, 4 or 8: the sides are divided by it, rounded up. The blocks' cosine transforms then give fewer
            pixels, each about the mean of those that it stands for. All data are read, so damage is noticed as before.

    Returns:
        uint8 RGB `[H, W, 3]`, not turned upright; None: leave it to Pillow, which decodes CMYK and says what is wrong.

    Raises:
        ImageError: the compressed data are damaged or end early.
    """
    plain = image.mode in {"RGB", "L"}
    height, width = -(-image.height // shrink), -(-image.width // shrink)
    least = {} if shrink == 1 else {"min_height": height, "min_width": width}
    try:
        if shrink > 1 and simplejpeg.decode_jpeg_header(data)[:2] != (image.height, image.width):
            return None  # two headers; a shrunk image of another size could have the expected one
        pixels_HWC = simplejpeg.decode_jpeg(data, "RGB" if plain else "CMYK", **least)
    except ValueError as error:
        message = str(error)
        if message.startswith(_CUT_OFF):
            raise ImageError("truncated", f"the JPEG is cut off ({message})") from error
        if message.startswith(_DAMAGED) and not _harmless(message, data):
            raise ImageError("unreadable", f"the JPEG is damaged ({message})") from error
        return None
    return pixels_HWC if plain and pixels_HWC.shape == (height, width, 3) else None


def _harmless(message: str, data: bytes) -> bool:
    """Whether libjpeg warns about bytes outside the picture: in the header, or zeros before the end marker."""
    try:
        simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return True
    left_over = _LEFT_OVER.search(message)
    return left_over is not None and data[: data.rfind(_END_OF_IMAGE)].endswith(bytes(int(left_over[1])))
