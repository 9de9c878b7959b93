"""The authors' CRF: pydensecrf wraps their C++."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.config import RefineConfig

MODULE = "pydensecrf.densecrf"


def mean_fields(
    images: Sequence[NDArray[np.uint8]], logs: Sequence[NDArray[np.float32]], config: RefineConfig, _device: str
) -> list[NDArray[np.float32]]:
    """Marginals of each image, one after the other on the CPU; arguments as in `crf.backends`."""
    return [_marginals(image_HW3, log_KHW, config) for image_HW3, log_KHW in zip(images, logs, strict=True)]


def _marginals(image_HW3: NDArray[np.uint8], log_KHW: NDArray[np.float32], config: RefineConfig) -> NDArray[np.float32]:
    from pydensecrf.densecrf import NO_NORMALIZATION, NORMALIZE_SYMMETRIC, DenseCRF2D

    normalization = NORMALIZE_SYMMETRIC if config.crf_normalization == "symmetric" else NO_NORMALIZATION
    classes, height, width = log_KHW.shape
    crf = DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(-log_KHW.reshape(classes, -1))
    crf.addPairwiseGaussian(sxy=config.gaussian_sxy, compat=config.gaussian_weight, normalization=normalization)
    crf.addPairwiseBilateral(
        sxy=config.bilateral_sxy,
        srgb=config.bilateral_srgb,
        rgbim=np.require(image_HW3, requirements=["C", "W"]),  # pydensecrf refuses the read-only views that Arrow gives
        compat=config.bilateral_weight,
        normalization=normalization,
    )
    marginals = np.asarray(crf.inference(config.crf_iterations), dtype=np.float32)
    return marginals.reshape(classes, height, width)
