"""BSDS500: photographs and the outlines that several people drew on each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.io
from numpy.typing import NDArray

from pipeline.imaging.images import decode_image

MEGAPIXELS = 1.0
"""Most megapixels of an image; BSDS500's have 0.15."""


@dataclass(frozen=True)
class Outlined:
    """A photograph and its outlines."""

    name: str
    image_HW3: NDArray[np.uint8]
    """RGB."""
    outlines_AHW: NDArray[np.bool_]
    """One map per annotator, with lines one pixel wide."""


def load_outlined(data: str, split: str, limit: int | None = None) -> list[Outlined]:
    """The photographs of one part of BSDS500 in the order of their names.

    Args:
        data: local folder with images and groundTruth.
        split: `train`, `val` or `test`.
        limit: only the first so many; None: all.

    Raises:
        FileNotFoundError: the folder does not hold images/SPLIT/*.jpg, or one of them has no groundTruth/SPLIT/*.mat.
    """
    paths = sorted((Path(data) / "images" / split).glob("*.jpg"))[:limit]
    if not paths:
        raise FileNotFoundError(f"no {data}/images/{split}/*.jpg: give BSDS500's folder with images/ and groundTruth/")
    truths = Path(data) / "groundTruth" / split
    return [
        Outlined(path.stem, decode_image(path.read_bytes(), MEGAPIXELS), load_outlines(truths / f"{path.stem}.mat"))
        for path in paths
    ]


def load_outlines(path: Path) -> NDArray[np.bool_]:
    """Outlines of one image, `[A, H, W]`, from BSDS500's MATLAB file."""
    people = scipy.io.loadmat(path)["groundTruth"].ravel()
    return np.stack([person["Boundaries"][0, 0] > 0 for person in people])
