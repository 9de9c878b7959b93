"""Fully connected CRF over an image's class probabilities (Kraehenbuehl and Koltun 2011; paper section 5)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import RefineConfig

SMALLEST_PROBABILITY = 1e-8
"""Probabilities are raised to this before the logarithm; float16's smallest is 6e-8, so only zeros are touched."""


def refine(
    image_HW3: NDArray[np.uint8], probabilities_KHW: NDArray[np.floating[Any]], config: RefineConfig
) -> NDArray[np.float32]:
    """Marginal class probabilities of the fully connected CRF, or just the normalised input for `crf none`.

    The unary energy is -log p. Two Potts terms pull pixels together: a Gaussian over position and a bilateral over
    position and colour, each normalised symmetrically (pydensecrf's default: the kernel is divided by the roots of its
    sums at both pixels, so a weight counts the same whatever its kernel's width or the image's size).

    Args:
        image_HW3: RGB, at the size of the probabilities.
        probabilities_KHW: any floating type, 0 or more. They need not sum to 1 (classes may have been left out); a
            pixel where all are 0 counts as undecided, 1/K each.
        config: kernels, iterations and backend.

    Returns:
        float32 `[K, H, W]`, 0..1, summing to 1 over K.

    Raises:
        ValueError: the image is not uint8 RGB, the sizes differ, nothing is given, or a probability is NaN, infinite or
            below 0.
    """
    _check(image_HW3, probabilities_KHW)
    normalised_KHW = _normalise(probabilities_KHW)
    if config.crf == "none" or len(normalised_KHW) == 1:
        return normalised_KHW
    return _mean_field(image_HW3, normalised_KHW, config)


def _check(image_HW3: NDArray[np.uint8], probabilities_KHW: NDArray[np.floating[Any]]) -> None:
    if image_HW3.dtype != np.uint8 or image_HW3.ndim != 3 or image_HW3.shape[2] != 3:
        raise ValueError(f"the image is {image_HW3.dtype} {image_HW3.shape}; uint8 (H, W, 3), RGB, is needed")
    if probabilities_KHW.ndim != 3 or probabilities_KHW.shape[1:] != image_HW3.shape[:2]:
        raise ValueError(
            f"probabilities are {probabilities_KHW.shape} and the image {image_HW3.shape}; (K, H, W) and (H, W, 3) "
            "with the same H and W are needed"
        )
    if probabilities_KHW.size == 0:
        raise ValueError(f"probabilities of shape {probabilities_KHW.shape} are empty; a class and a pixel are needed")
    if not np.isfinite(probabilities_KHW).all():
        raise ValueError("probabilities hold NaN or infinity; did the network overflow?")
    if probabilities_KHW.min() < 0:
        raise ValueError("probabilities hold values below 0; are these scores before the softmax?")


def _normalise(probabilities_KHW: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    raw_KHW = np.ascontiguousarray(probabilities_KHW, dtype=np.float32)
    total_HW = raw_KHW.sum(axis=0)
    normalised_KHW = np.full_like(raw_KHW, 1 / len(raw_KHW))  # stays where there is nothing to divide by
    np.divide(raw_KHW, total_HW, out=normalised_KHW, where=total_HW > 0)
    return normalised_KHW


def _mean_field(
    image_HW3: NDArray[np.uint8], probabilities_KHW: NDArray[np.float32], config: RefineConfig
) -> NDArray[np.float32]:
    from pydensecrf.densecrf import DenseCRF2D  # noqa: PLC0415 - `crf none` needs no pydensecrf

    classes, height, width = probabilities_KHW.shape
    crf = DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(-np.log(np.maximum(probabilities_KHW, SMALLEST_PROBABILITY)).reshape(classes, -1))
    crf.addPairwiseGaussian(sxy=config.gaussian_sxy, compat=config.gaussian_weight)
    crf.addPairwiseBilateral(
        sxy=config.bilateral_sxy,
        srgb=config.bilateral_srgb,
        rgbim=np.require(image_HW3, requirements=["C", "W"]),  # pydensecrf refuses the read-only views that Arrow gives
        compat=config.bilateral_weight,
    )
    marginals = np.asarray(crf.inference(config.crf_iterations), dtype=np.float32)
    return marginals.reshape(classes, height, width)
