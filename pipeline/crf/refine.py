"""Fully connected CRF over an image's class probabilities (Kraehenbuehl and Koltun 2011; paper section 5).

Three backends compute the same mean field over the same permutohedral lattice: `native`, this project's compiled
module; `pydensecrf`, the authors' code; `torch` (`crf.torch_lattice`), several images at once on a GPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import ConfigError, RefineConfig

Image = NDArray[np.uint8]
Probabilities = NDArray[np.floating[Any]]

SMALLEST_PROBABILITY = 1e-8
"""Probabilities are raised to this before the logarithm; float16's smallest is 6e-8, so only zeros are touched."""

_MODULES = {"native": "densecrf_lattice", "pydensecrf": "pydensecrf.densecrf", "torch": "torch"}
"""What each backend imports: none of it is needed by the others."""


def check_backend(config: RefineConfig) -> None:
    """Make sure that the CRF can run in this process, before a million images fail one by one.

    Raises:
        ConfigError: its backend is not installed; the message says what to do.
    """
    module = _MODULES.get(config.crf)
    if module is None:
        return
    try:
        importlib.import_module(module)
    except ImportError as error:
        others = " or ".join(f"--crf {name}" for name in _MODULES if name != config.crf)
        raise ConfigError(
            f"crf is {config.crf}, which needs the module {module} ({error}): install the project again with a C++ "
            f"compiler at hand (`make setup`, or `pip install .` with {others} until then)"
        ) from error


def refine(image_HW3: Image, probabilities_KHW: Probabilities, config: RefineConfig) -> NDArray[np.float32]:
    """`refine_batch` of one image, on the CPU."""
    (refined_KHW,) = refine_batch([image_HW3], [probabilities_KHW], config)
    return refined_KHW


def refine_batch(
    images: Sequence[Image], probabilities: Sequence[Probabilities], config: RefineConfig, device: str = "cpu"
) -> list[NDArray[np.float32]]:
    """Marginal class probabilities of the fully connected CRF, or just the normalised input for `crf none`.

    The unary energy is -log p. Two Potts terms pull pixels together: a Gaussian over position and a bilateral over
    position and colour, each normalised symmetrically (pydensecrf's default: the kernel is divided by the roots of its
    sums at both pixels, so a weight counts the same whatever its kernel's width or the image's size).

    Args:
        images: RGB `[H, W, 3]`, at the size of the probabilities; sizes may differ.
        probabilities: `[K, H, W]` of each image, K of its own, any floating type, 0 or more. They need not sum to 1
            (classes may have been left out); a pixel where all are 0 counts as undecided, 1/K each.
        config: kernels, iterations and backend.
        device: where `crf torch` computes all images together; the others take one after the other on the CPU.

    Returns:
        For each image float32 `[K, H, W]`, 0..1, summing to 1 over K.

    Raises:
        ValueError: an image is not uint8 RGB, sizes differ, nothing is given, a probability is NaN, infinite or below
            0, or the kernels are too narrow for the lattice.
    """
    for image_HW3, probabilities_KHW in zip(images, probabilities, strict=True):
        _check(image_HW3, probabilities_KHW)
    refined = [_normalise(probabilities_KHW) for probabilities_KHW in probabilities]
    open_to_change = [i for i, p_KHW in enumerate(refined) if config.crf != "none" and len(p_KHW) > 1]
    chosen = [images[i] for i in open_to_change]
    logs = [np.log(np.maximum(refined[i], SMALLEST_PROBABILITY)) for i in open_to_change]
    for i, marginals_KHW in zip(open_to_change, _mean_fields(chosen, logs, config, device), strict=True):
        refined[i] = marginals_KHW
    return refined


def _mean_fields(
    images: Sequence[Image], logs: Sequence[NDArray[np.float32]], config: RefineConfig, device: str
) -> list[NDArray[np.float32]]:
    if config.crf == "torch":
        from pipeline.crf.torch_lattice import mean_fields

        return mean_fields(images, logs, config, device)
    one = _pydensecrf if config.crf == "pydensecrf" else _native
    return [one(image_HW3, log_KHW, config) for image_HW3, log_KHW in zip(images, logs, strict=True)]


def _native(image_HW3: Image, log_KHW: NDArray[np.float32], config: RefineConfig) -> NDArray[np.float32]:
    from densecrf_lattice import marginals

    found: NDArray[np.float32] = marginals(
        np.ascontiguousarray(image_HW3),
        log_KHW,
        gaussian_sxy=config.gaussian_sxy,
        gaussian_weight=config.gaussian_weight,
        bilateral_sxy=config.bilateral_sxy,
        bilateral_srgb=config.bilateral_srgb,
        bilateral_weight=config.bilateral_weight,
        iterations=config.crf_iterations,
    )
    return found


def _pydensecrf(image_HW3: Image, log_KHW: NDArray[np.float32], config: RefineConfig) -> NDArray[np.float32]:
    from pydensecrf.densecrf import DenseCRF2D

    classes, height, width = log_KHW.shape
    crf = DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(-log_KHW.reshape(classes, -1))
    crf.addPairwiseGaussian(sxy=config.gaussian_sxy, compat=config.gaussian_weight)
    crf.addPairwiseBilateral(
        sxy=config.bilateral_sxy,
        srgb=config.bilateral_srgb,
        rgbim=np.require(image_HW3, requirements=["C", "W"]),  # pydensecrf refuses the read-only views that Arrow gives
        compat=config.bilateral_weight,
    )
    marginals = np.asarray(crf.inference(config.crf_iterations), dtype=np.float32)
    return marginals.reshape(classes, height, width)


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
