"""Edges from OpenCV's structured forests, which need a model file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.config import ProposeConfig
from pipeline.proposals.edge_maps import FloatArray

FOREST_COUNTS = ("numberOfTrees", "numberOfTreesToEvaluate", "patchSize", "patchInnerSize", "shrinkNumber", "stride")
FOREST_PARTS = ("childs", "featureIds", "thresholds", "edgeBoundaries", "edgeBins")
"""What a structured-forest file must hold: options that OpenCV divides by, and the parts of the trees, none empty."""


def find_edges(image_HW3: NDArray[np.uint8], config: ProposeConfig) -> tuple[FloatArray, FloatArray]:
    """See `structured_edges`."""
    assert config.edge_model is not None  # the settings check it
    return structured_edges(image_HW3, config.edge_model)


def check(config: ProposeConfig) -> None:
    """Load the model.

    Raises:
        OSError: there is no such file.
        ValueError: the file is not a structured-forest model.
    """
    assert config.edge_model is not None
    load_forest(config.edge_model)


def structured_edges(image_HW3: NDArray[np.uint8], model_path: str) -> tuple[FloatArray, FloatArray]:
    """Thin edges of an RGB image from OpenCV's structured forests (Dollar and Zitnick 2013), EdgeBoxes' own detector.

    Args:
        image_HW3: RGB; at least 32 pixels on each side.
        model_path: local file in OpenCV's format (`model.yml.gz` of opencv_extra).

    Returns:
        Edge strength and orientation, float32 `[H, W]`; see `proposals.edge_maps` for their ranges. Strength is
        0 off the edges.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a structured-forest model.
    """
    forest = load_forest(model_path)
    strength_HW = forest.detectEdges(np.divide(image_HW3, 255, dtype=np.float32))
    orientation_HW = forest.computeOrientation(strength_HW)
    return np.clip(forest.edgesNms(strength_HW, orientation_HW, r=2, s=0, m=1), 0, 1), orientation_HW


@lru_cache(maxsize=1)
def load_forest(model_path: str) -> Any:
    """Load a structured forest, once per process. The file is checked first: OpenCV divides by zero on other files.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a structured-forest model.
    """
    if not Path(model_path).is_file():
        raise FileNotFoundError(
            f"no edge model at {model_path}: give the path of OpenCV's model.yml.gz as --edge-model, "
            "or use --edges learned or gradient, which need none"
        )
    if not _is_forest(model_path):
        raise ValueError(
            f"{model_path} is not a structured-forest edge model in OpenCV's format (model.yml.gz of opencv_extra)"
        )
    return cv2.ximgproc.createStructuredEdgeDetection(model_path)


def _is_forest(model_path: str) -> bool:
    storage = cv2.FileStorage()
    try:
        storage.open(model_path, cv2.FILE_STORAGE_READ)
        options = storage.getNode("options")
        counts = [options.getNode(name) for name in FOREST_COUNTS]
        parts = [storage.getNode(name) for name in FOREST_PARTS]
        return all(node.isInt() and node.real() >= 1 for node in counts) and all(node.size() > 0 for node in parts)
    except cv2.error:
        return False
