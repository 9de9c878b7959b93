"""The CRF in torch: all images of a table in one lattice, on a GPU where there is one (`crf.torch_lattice`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.config import RefineConfig

MODULE = "torch"


def mean_fields(
    images: Sequence[NDArray[np.uint8]], logs: Sequence[NDArray[np.float32]], config: RefineConfig, device: str
) -> list[NDArray[np.float32]]:
    """Marginals of each image, all images together on a device; arguments as in `crf.backends`."""
    from pipeline.crf.torch_lattice import mean_fields as together  # loads torch

    return together(images, logs, config, device)
