"""What a file's pixels mean where Pillow's mode does not say it: alpha, depth, and which values are black."""

from __future__ import annotations

from io import BytesIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    EXTRASAMPLES,
    IMAGEWIDTH,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    TiffImageFile,
)

from pipeline.errors import ImageError

# Pillow's own reader of uncompressed TIFFs garbles separate planes of 16 bits, and white-is-zero grey; libtiff reads
# both correctly.
TiffImagePlugin.READ_LIBTIFF = True
# Pillow knows 16-bit white-is-zero grey only in little-endian files.
TiffImagePlugin.OPEN_INFO.setdefault((b"MM", 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))

_INKSET = 332
_WHITE_IS_ZERO = 0
_ALPHAS = {1, 2}  # ExtraSamples: premultiplied alpha, or not; 0 is a band of unspecified meaning
_BMP_BITS = slice(28, 30)
_GREY_STEPS = {"L;2": 85, "L;4": 17}
"""By Pillow's raw mode: the factor that it multiplies the values of a 2-bit or 4-bit grey image by."""


def raw_mode(image: ImageFile) -> str:
    """Pillow's name for how a file stores its pixels, such as `L;4`; the image is opened, not loaded yet."""
    args = image.tile[0].args if image.tile else image.mode
    return str(args[0] if isinstance(args, tuple) and args else args)


def grey_step(image: ImageFile) -> int:
    """The factor that Pillow will multiply a PNG's stored values by; the image is opened, not loaded yet."""
    return _GREY_STEPS.get(raw_mode(image), 1)


def to_rgb(image: ImageFile, data: bytes) -> NDArray[np.uint8]:
    """Load an image that Pillow opened, and convert it to RGB on white.

    A fourth band is transparency only where the format says so.

    Args:
        image: opened, not loaded.
        data: the whole file.

    Returns:
        uint8 `[H, W, 3]`.

    Raises:
        ImageError: `unsupported`. Pillow's own exceptions for damaged files pass through.
    """
    if isinstance(image, TiffImageFile):
        _check_tiff(image)
    stored = raw_mode(image)
    if image.format == "BMP" and image.mode in {"1", "L"} and _bmp_bits(data) != {"1": 1, "L": 8}[image.mode]:
        return _by_opencv(data)  # Pillow ignores a palette of greys, and then takes the wrong depth
    image.load()
    if image.mode.startswith("I;16"):
        return _deep_grey_to_rgb(image)
    if image.mode in {"I", "F", "LAB"}:
        raise _no_meaning(f"pixels of mode {image.mode}")
    if stored.startswith("RGB;16") and "transparency" in image.info:
        raise _no_meaning("16-bit RGB with one transparent colour")
    if not _has_alpha(image):
        return np.asarray(image.convert("RGB"))
    if stored in _GREY_STEPS and "transparency" in image.info:
        image.info["transparency"] *= _GREY_STEPS[stored]
    rgba = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))


def unknown_tiff(data: bytes) -> ImageError | None:
    """The error for a TIFF that Pillow cannot open; None if its tags cannot be read either."""
    file = BytesIO(data)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        bands, bits, meaning = tags.get(SAMPLESPERPIXEL, 1), tags[BITSPERSAMPLE], tags[PHOTOMETRIC_INTERPRETATION]
        width = tags[IMAGEWIDTH]
    except Exception:  # damaged tags make it raise nearly anything
        return None
    depth = "/".join(sorted({str(one) for one in bits}))
    return _no_meaning(f"a TIFF {width} pixels wide of {bands} bands with {depth} bits and photometric {meaning}")


def _check_tiff(image: TiffImageFile) -> None:
    tags = image.tag_v2
    bits = set(tags.get(BITSPERSAMPLE, (1,)))
    if not bits <= {1, 2, 4, 8, 16}:
        raise _no_meaning(f"samples of {'/'.join(map(str, sorted(bits)))} bits")
    if set(tags.get(SAMPLEFORMAT, (1,))) != {1}:
        raise _no_meaning("signed or floating-point samples")
    planar = tags.get(PLANAR_CONFIGURATION, 1) != 1
    if planar and image.mode.lower().endswith("a") and (image.mode != "RGBA" or len(tags.get(EXTRASAMPLES, ())) != 1):
        raise _no_meaning("planes with transparency, or without a word of what the fourth is,")
    if tags.get(_INKSET, 1) != 1:
        raise _no_meaning("inks other than CMYK")


def _no_meaning(what: str) -> ImageError:
    return ImageError("unsupported", f"{what} have no fixed range or no RGB meaning; "
                      "convert the image to 8-bit RGB or 8- or 16-bit grey")  # fmt: skip


def _deep_grey_to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """The high byte of 16-bit grey."""
    deep_HW = np.asarray(image).astype(np.uint16)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO:
        deep_HW = ~deep_HW
    grey_HW = (deep_HW >> 8).astype(np.uint8)
    if "transparency" in image.info:
        grey_HW[deep_HW == image.info["transparency"]] = 255
    return np.repeat(grey_HW[:, :, None], 3, axis=2)


def _has_alpha(image: Image.Image) -> bool:
    if not image.has_transparency_data:
        return False
    if isinstance(image, TiffImageFile):
        return bool(_ALPHAS & set(image.tag_v2.get(EXTRASAMPLES, ())[:1]))
    # Programs without support for alpha write BMPs whose alpha is zero everywhere; viewers show these as opaque.
    return image.format != "BMP" or image.getchannel("A").getextrema() != (0, 0)


def _bmp_bits(data: bytes) -> int:
    # The short header of OS/2 has this field four bytes earlier.
    return int.from_bytes(data[24:26] if data[14] == 12 else data[_BMP_BITS], "little")


def _by_opencv(data: bytes) -> NDArray[np.uint8]:
    pixels_HW3: NDArray[np.uint8] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if pixels_HW3 is None:
        raise ImageError("unreadable", "the file is damaged")
    return pixels_HW3
