"""Bytes to pixels and back: images to RGB, label maps to and from PNGs; every bad input raises a typed error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile

from pipeline.errors import ErrorKind, ImageError
from pipeline.imaging.jpeg import decode_jpeg
from pipeline.imaging.pixel_formats import grey_step, to_rgb, unknown_tiff

SUPPORTED: tuple[str, ...] = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
"""File extensions that count as images, in lower case."""

# An explicit list: among Pillow's other formats are some that start programs (EPS) or fetch files.
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM", b"GIF8")
_ORIENTATION_TAG = 0x0112
_TURNS: dict[int, Callable[[NDArray[np.uint8]], Any]] = {
    2: lambda image_HW3: cv2.flip(image_HW3, 1),
    3: lambda image_HW3: cv2.rotate(image_HW3, cv2.ROTATE_180),
    4: lambda image_HW3: cv2.flip(image_HW3, 0),
    5: cv2.transpose,
    6: lambda image_HW3: cv2.rotate(image_HW3, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image_HW3: cv2.rotate(cv2.transpose(image_HW3), cv2.ROTATE_180),
    8: lambda image_HW3: cv2.rotate(image_HW3, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
# Pillow's own check warns at one fixed size and raises at another; ours reads the same header, with a limit that is a
# setting of the run.
Image.MAX_IMAGE_PIXELS = None

# One text or colour profile may be as large as all together may be; Pillow's limit of 1 MiB is less than some profiles.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY


def decode_image(data: bytes, max_megapixels: float) -> NDArray[np.uint8]:
    """Decode a JPEG, PNG, WebP, TIFF, BMP or GIF to RGB, upright.

    The EXIF orientation is applied, transparency is laid on white, 16-bit grey keeps its high byte, and only the first
    frame of an animation or a multi-page file is used.

    Args:
        data: a whole file.
        max_megapixels: images with more million pixels are refused from their header.

    Returns:
        uint8 `[H, W, 3]`, RGB.

    Raises:
        ImageError: the bytes are not a complete image; nothing else is raised.
    """
    return _decoded(data, max_megapixels, max_side=0)[0]


def decode_at_working_size(
    data: bytes, max_megapixels: float, max_side: int
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """`decode_image` and `working_size` together: of a large JPEG, only as many pixels are decoded as are averaged.

    Args:
        data: a whole file.
        max_megapixels: as for `decode_image`.
        max_side: as for `working_size`.

    Returns:
        The image at working size, uint8 `[h, w, 3]`, RGB, upright; height and width of the upright image in the file.

    Raises:
        ImageError: as for `decode_image`.
    """
    image_HW3, size = _decoded(data, max_megapixels, max_side)
    return working_size(image_HW3, max_side), size


def _decoded(data: bytes, max_megapixels: float, max_side: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The upright image, perhaps shrunk, and its size in the file."""
    with _damage_as_image_error():
        image = _open(data)
        _check_size(image, max_megapixels)
        shrink = _shrink(image.height, image.width, max_side)
        image_HW3 = decode_jpeg(image, data, shrink) if isinstance(image, JpegImageFile) else None
        if image_HW3 is None:
            image_HW3, shrink = to_rgb(image, data), 1
        upright_HW3 = np.ascontiguousarray(_upright(image_HW3, image))
        return upright_HW3, (upright_HW3.shape[0] * shrink, upright_HW3.shape[1] * shrink)


def _shrink(height: int, width: int, max_side: int) -> int:
    """By how much a JPEG's own transform may divide an image's sides: half as many pixels again as are needed are left.

    Without a rest, or the last row would stand for fewer rows than the others, and the image would become a bit longer.
    """
    fits = (
        by for by in (8, 4, 2) if height % by == width % by == 0 and 2 * max(height, width) >= 3 * by * max_side > 0
    )
    return next(fits, 1)


@contextmanager
def _damage_as_image_error() -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise _as_image_error(error) from error


def _as_image_error(error: Exception) -> ImageError:
    text, said = str(error).lower(), f"{type(error).__name__}: {error}"
    if "decompressed data too large" in text or "too much memory" in text:
        most = PngImagePlugin.MAX_TEXT_MEMORY >> 20
        return ImageError("too_large", f"its texts or its colour profile take more than {most} MiB; remove them")
    if "unsupported" in text or "not supported" in text:
        return ImageError("unsupported", f"the image is stored in a way that is not read ({said}); save it as PNG")
    kind: ErrorKind = "truncated" if "truncated" in text else "unreadable"
    return ImageError(kind, f"the file is damaged ({said})")


def _open(data: bytes) -> ImageFile:
    if not data:
        raise ImageError("empty", "the file is empty")
    try:
        return Image.open(BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        if (error := unknown_tiff(data)) is not None:
            raise error from None
        if data.startswith(_SIGNATURES):
            raise ImageError("unreadable", "the image's header is damaged or of an unknown variant") from None
        raise ImageError("not_an_image", f"no JPEG, PNG, WebP, TIFF, BMP or GIF; begins {data[:12]!r}") from None


def _check_size(image: Image.Image, max_megapixels: float) -> None:
    sizes = {"": image.size}
    if isinstance(image, TiffImageFile):  # a tile is decoded whole, however little of it is in the image
        sizes[" of a tile"] = image.tag_v2.get(TILEWIDTH, 0), image.tag_v2.get(TILELENGTH, 0)
    for what, (width, height) in sizes.items():
        megapixels = width * height / 1e6
        if megapixels > max_megapixels:
            raise ImageError("too_large", f"{width}x{height} pixels{what} are {megapixels:.1f} megapixels; "
                             f"at most {max_megapixels:g} are allowed")  # fmt: skip


def _upright(image_HW3: NDArray[np.uint8], image: Image.Image) -> NDArray[np.uint8]:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # damaged EXIF data is common in intact photographs
        return image_HW3
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image_HW3 if turn is None else np.asarray(turn(image_HW3), np.uint8)


def working_size(image_HW3: NDArray[np.uint8], max_side: int) -> NDArray[np.uint8]:
    """Scale an image down, by area averaging, until its longer side is `max_side` pixels.

    Args:
        image_HW3: uint8 `[H, W, 3]`.
        max_side: in pixels; 0 never scales. Smaller images are returned as they are.

    Returns:
        uint8 `[h, w, 3]`, each side at least 1.
    """
    height, width = image_HW3.shape[:2]
    longest = max(height, width)
    if max_side == 0 or longest <= max_side:
        return image_HW3
    size = max(1, round(width * max_side / longest)), max(1, round(height * max_side / longest))
    return np.asarray(cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def encode_mask(labels_HW: NDArray[np.uint8], palette: NDArray[np.uint8] | None) -> bytes:
    """Encode a label map as a palette or 8-bit grey PNG whose pixel values are the labels.

    Args:
        labels_HW: uint8 `[H, W]`.
        palette: RGB colours, uint8 `[256, 3]`; None: grey.

    Raises:
        ValueError: the labels have another shape or dtype.
    """
    if labels_HW.ndim != 2 or labels_HW.dtype != np.uint8 or labels_HW.size == 0:
        raise ValueError(f"a label map is uint8 [H, W], not {labels_HW.dtype} {list(labels_HW.shape)}")
    if palette is not None and (palette.shape != (256, 3) or palette.dtype != np.uint8):
        raise ValueError(f"a palette is uint8 [256, 3], not {palette.dtype} {list(palette.shape)}")
    image = Image.fromarray(labels_HW)
    if palette is not None:
        image.putpalette(palette.tobytes())
    with BytesIO() as png:
        image.save(png, "PNG")
        return png.getvalue()


def decode_mask(data: bytes) -> NDArray[np.uint8]:
    """Decode a PNG label map, palette or grey of 2 to 8 bits, to its pixel values as they are stored.

    Returns:
        Labels, uint8 `[H, W]`.

    Raises:
        ImageError: the data are damaged, or `unsupported`: another format, or colours or 16-bit values, not labels.
    """
    with _damage_as_image_error():
        image = _open(data)
        _check_is_mask(image)
        step = grey_step(image)
        return np.asarray(np.asarray(image) // step, dtype=np.uint8)


def _check_is_mask(image: Image.Image) -> None:
    if image.format != "PNG" or image.mode not in {"P", "L"}:
        raise ImageError("unsupported", "a mask is a palette or 8-bit grey PNG whose values are labels, not "
                         f"{image.format} of mode {image.mode}")  # fmt: skip


def resize_labels(labels_HW: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize a label map: each pixel takes the label of the pixel under its centre, exactly, on every machine.

    Args:
        labels_HW: uint8.
        height: of the result, in pixels.
        width: of the result, in pixels.

    Returns:
        uint8 `[height, width]`, with no labels but those of `labels_HW`.
    """
    old_height, old_width = labels_HW.shape
    rows = (2 * np.arange(height) + 1) * old_height // (2 * height)
    columns = (2 * np.arange(width) + 1) * old_width // (2 * width)
    return np.asarray(labels_HW.take(rows, axis=0).take(columns, axis=1), dtype=np.uint8)
