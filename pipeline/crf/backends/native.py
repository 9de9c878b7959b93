"""This project's compiled CRF, `native/densecrf_lattice.cpp`."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Sequence
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from pipeline.config import RefineConfig

MODULE = "densecrf_lattice"


def normalizations(module: ModuleType) -> Collection[str]:
    """The normalisations that the compiled module has; a module too old to list them has one."""
    found: Collection[str] = getattr(module, "NORMALIZATIONS", ("symmetric",))
    return found


def mean_fields(
    images: Sequence[NDArray[np.uint8]], logs: Sequence[NDArray[np.float32]], config: RefineConfig, _device: str
) -> list[NDArray[np.float32]]:
    """Marginals of each image, one after the other on the CPU; arguments as in `crf.backends`."""
    return [_marginals(image_HW3, log_KHW, config) for image_HW3, log_KHW in zip(images, logs, strict=True)]


def _marginals(image_HW3: NDArray[np.uint8], log_KHW: NDArray[np.float32], config: RefineConfig) -> NDArray[np.float32]:
    found: NDArray[np.float32] = module_for(len(log_KHW)).marginals(
        np.ascontiguousarray(image_HW3),
        log_KHW,
        gaussian_sxy=config.gaussian_sxy,
        gaussian_weight=config.gaussian_weight,
        bilateral_sxy=config.bilateral_sxy,
        bilateral_srgb=config.bilateral_srgb,
        bilateral_weight=config.bilateral_weight,
        iterations=config.crf_iterations,
        **({} if config.crf_normalization == "symmetric" else {"normalization": config.crf_normalization}),
    )
    return found


def module_for(labels: int) -> ModuleType:
    """The compiled module that is fastest for so many labels: 4 go through the lattice at once, or 8 with AVX2.

    Both compute the same to the last bit.
    """
    module = importlib.import_module(MODULE)
    wide = labels > 4 and getattr(module, "AVX2", False)
    return importlib.import_module(f"{MODULE}_avx2") if wide else module
