"""The probabilities that an image's CRF starts from: OUTPUT/probabilities/<image id>.npz (`--save-probabilities`).

The file holds `class_ids`, uint8 `[K]`, the classes that can still win, background first, and `log_probabilities`,
float16 `[K, H, W]`, at working size. They are logarithms because float16 rounds probabilities below 6e-8 to 0, and a
CRF whose kernels are not normalised distinguishes those.
"""

from __future__ import annotations

import io
import zipfile

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import ResultsError
from pipeline.outputs.layout import PROBABILITIES, place


def encode_probabilities(class_ids_K: NDArray[np.integer], log_KHW: NDArray[np.floating]) -> bytes:
    """The bytes of an image's file."""
    buffer = io.BytesIO()
    lowest = np.finfo(np.float16).min  # also stands for all that is lower, minus infinity included
    np.savez_compressed(
        buffer, class_ids=class_ids_K.astype(np.uint8), log_probabilities=log_KHW.clip(lowest).astype(np.float16)
    )
    return buffer.getvalue()


def probabilities_uri(output_uri: str, image_id: str) -> str:
    """Address of an image's file, see `layout.place`."""
    return storage.join(output_uri, place(PROBABILITIES, image_id, "npz"))


def read_probabilities(output_uri: str, image_id: str) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Classes `[K]` and log-probabilities `[K, H, W]` of an image.

    Raises:
        ResultsError: there is no such file, or it is damaged, or not of this project.
    """
    uri = probabilities_uri(output_uri, image_id)
    try:
        with np.load(io.BytesIO(storage.read_bytes(uri)), allow_pickle=False) as arrays:
            class_ids_K, log_KHW = arrays["class_ids"], arrays["log_probabilities"]
    except FileNotFoundError as error:
        raise ResultsError(f"there is no {uri}; segment with --save-probabilities") from error
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ResultsError(f"{uri} holds no log-probabilities of this project: {error}") from error
    if log_KHW.dtype != np.float16 or log_KHW.ndim != 3 or class_ids_K.shape != log_KHW.shape[:1]:
        raise ResultsError(f"{uri} holds arrays of other shapes or types than this project writes")
    return class_ids_K, log_KHW
