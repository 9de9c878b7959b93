"""Edge detectors for EdgeBoxes, a file each, under the name that `--edges` has for it.

A detector's file has `find_edges(image_HW3, config)`, which returns thin edges and their orientation (see
`proposals.edge_maps` for both). If it needs a model file, it also has `check(config)`, which raises OSError or
ValueError if that file cannot be used.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from pipeline.config import ConfigError, ProposeConfig
from pipeline.proposals.edge_maps import FloatArray


def find_edges(image_HW3: NDArray[np.uint8], config: ProposeConfig) -> tuple[FloatArray, FloatArray]:
    """Edge strength and orientation, float32 `[H, W]`, of an RGB image, from the detector that the settings name.

    Raises:
        OSError: the detector's file cannot be read.
        ValueError: the file is not what the detector needs.
    """
    found: tuple[FloatArray, FloatArray] = _detector(config).find_edges(image_HW3, config)
    return found


def check_edges(config: ProposeConfig) -> None:
    """Make sure that the edge detector can be loaded in this process, before a million images fail one by one.

    Raises:
        ConfigError: its file is missing, or is not an edge model.
    """
    check = getattr(_detector(config), "check", None)
    if check is not None:
        try:
            check(config)
        except (OSError, ValueError) as error:
            raise ConfigError(str(error)) from error


def _detector(config: ProposeConfig) -> ModuleType:
    return import_module(f"pipeline.proposals.detectors.{config.edges}")
