"""Images and masks of a data set as arrays: PNG and JPEG files, and SBD's MATLAB files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import DatasetError, ImageError
from pipeline.imaging.images import decode_image, decode_mask

UInt8Array = NDArray[np.uint8]


def load_pair(image_uri: str, class_mask_uri: str, max_megapixels: float) -> tuple[UInt8Array, UInt8Array]:
    """Read an image and its class mask at full size.

    Args:
        image_uri: address of the image.
        class_mask_uri: address of the mask, a PNG or one of SBD's `.mat` files.
        max_megapixels: images with more million pixels are refused.

    Returns:
        The image, uint8 RGB `[H, W, 3]`, and the mask, uint8 `[H, W]`.

    Raises:
        OSError: a file cannot be read.
        ImageError: a file is not an image or not a mask; the message names it.
        ValueError: image and mask differ in size.
    """
    image_HW3, class_mask_HW = load_image(image_uri, max_megapixels), load_mask(class_mask_uri)
    check_sizes(image_HW3, class_mask_HW, class_mask_uri)
    return image_HW3, class_mask_HW


def check_sizes(image_HW3: UInt8Array, mask_HW: UInt8Array, mask_uri: str) -> None:
    """Check that a mask fits its image.

    Args:
        image_HW3: uint8 RGB.
        mask_HW: uint8.
        mask_uri: the mask's address, for the message.

    Raises:
        ValueError: they differ in size; the message names the mask.
    """
    height, width = image_HW3.shape[:2]
    if mask_HW.shape == (height, width):
        return
    turned = ", upright: it seems to have been drawn before the photograph was turned as its EXIF orientation says"
    raise DatasetError(
        f"{mask_uri} is {mask_HW.shape[1]}x{mask_HW.shape[0]} pixels, its image {width}x{height}; a mask has the size "
        f"of its image{turned if mask_HW.shape == (width, height) else ''}"
    )


def load_image(uri: str, max_megapixels: float) -> UInt8Array:
    """Read an image, uint8 RGB `[H, W, 3]`, at full size.

    Raises:
        OSError: the file cannot be read.
        ImageError: it is not an image; the message names it.
    """
    with _naming(uri):
        return decode_image(storage.read_bytes(uri), max_megapixels)


def load_mask(uri: str) -> UInt8Array:
    """Read a mask, a PNG or one of SBD's `.mat` files, uint8 `[H, W]`.

    Raises:
        OSError: the file cannot be read.
        ImageError: it is not a mask; the message names it.
    """
    with _naming(uri):
        data = storage.read_bytes(uri)
        return _decode_sbd(data) if uri.endswith(".mat") else decode_mask(data)


def _decode_sbd(data: bytes) -> UInt8Array:
    """The `Segmentation` of SBD's struct `GTcls` or `GTinst`; loadmat unpickles nothing."""
    from scipy.io import loadmat

    try:
        content = loadmat(io.BytesIO(data), squeeze_me=True, struct_as_record=False)
        mask_HW = content["GTcls" if "GTcls" in content else "GTinst"].Segmentation
    except Exception as error:  # damaged files make it raise nearly anything
        raise ImageError("unreadable", f"no GTcls or GTinst of SBD ({type(error).__name__}: {error})") from error
    if not isinstance(mask_HW, np.ndarray) or mask_HW.ndim != 2 or mask_HW.dtype != np.uint8:
        raise ImageError("unsupported", "its Segmentation is no matrix of 8-bit labels")
    return mask_HW


@contextmanager
def _naming(uri: str) -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        raise ImageError(error.kind, f"{uri}: {error}") from error
