"""Fully connected CRF over an image's class probabilities (Kraehenbuehl and Koltun 2011; paper section 5).

The backends, a file each in `crf/backends`, compute the same mean field over the same permutohedral lattice.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.config import ConfigError, RefineConfig
from pipeline.config.stages import Crf

Image = NDArray[np.uint8]
Probabilities = NDArray[np.floating[Any]]

SMALLEST_PROBABILITY = 1e-8
"""Least probability before the logarithm is taken; float16's smallest is 6e-8, so only zeros are raised."""


def check_backend(config: RefineConfig) -> None:
    """Make sure that the CRF can run in this process, before a million images fail one by one.

    Raises:
        ConfigError: its backend is not installed or is too old; the message says what to do.
    """
    if config.crf == "none":
        return
    backend = _backend(config)
    others = " or ".join(f"--crf {other}" for other in get_args(Crf) if other not in {config.crf, "none"})
    advice = (
        "install the project again with a C++ compiler at hand "
        f"(`make setup`, or `pip install .` with {others} until then)"
    )
    name: str = backend.MODULE
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"crf is {config.crf}, which needs the module {name} ({error}): {advice}") from error
    known = getattr(backend, "normalizations", None)
    if known is not None and config.crf_normalization not in known(module):
        raise ConfigError(
            f"the module {name} ({module.__file__}) is too old for --crf-normalization "
            f"{config.crf_normalization}: {advice}"
        )


def refine(image_HW3: Image, probabilities_KHW: Probabilities, config: RefineConfig) -> NDArray[np.float32]:
    """`refine_batch` for one image, on the CPU.

    Args:
        image_HW3: RGB, uint8.
        probabilities_KHW: 0 or more, any floating type, at the image's size.
        config: as for `refine_batch`.

    Returns:
        float32 `[K, H, W]`, 0..1, summing to 1 over K.

    Raises:
        ValueError: as `refine_batch`.
    """
    (refined_KHW,) = refine_batch([image_HW3], [probabilities_KHW], config)
    return refined_KHW


def refine_batch(
    images: Sequence[Image], probabilities: Sequence[Probabilities], config: RefineConfig, device: str = "cpu"
) -> list[NDArray[np.float32]]:
    """`refine_logs` for probabilities; those below `SMALLEST_PROBABILITY` are raised to it.

    Args:
        images: as for `refine_logs`.
        probabilities: `[K, H, W]` for each image, 0 or more, any floating type; K may differ. They need not sum to 1
            (classes may have been left out); a pixel where all are 0 counts as undecided, 1/K each.
        config: as for `refine_logs`; with `crf none` the normalised probabilities come back.
        device: as for `refine_logs`.

    Raises:
        ValueError: as `refine_logs`, or a probability is NaN, infinite or below 0.
    """
    for image_HW3, probabilities_KHW in zip(images, probabilities, strict=True):
        _check(image_HW3, probabilities_KHW)
        _check_probabilities(probabilities_KHW)
    normalised = [_normalise(probabilities_KHW) for probabilities_KHW in probabilities]
    if config.crf == "none":
        return normalised
    return refine_logs(images, [np.log(np.maximum(p, SMALLEST_PROBABILITY)) for p in normalised], config, device)


def refine_logs(
    images: Sequence[Image], logs: Sequence[Probabilities], config: RefineConfig, device: str = "cpu"
) -> list[NDArray[np.float32]]:
    """Marginal class probabilities of the fully connected CRF, or just the softmax of the input for `crf none`.

    The unary energy is -log p. Two Potts terms pull pixels together: a Gaussian over position and a bilateral over
    position and colour. `crf_normalization symmetric`: the kernel is divided by the roots of its sums at both pixels
    (pydensecrf's default), so a weight counts the same whatever its kernel's width or the image's size. `none`: a
    weight counts as often as the kernel finds similar pixels (the DeconvNet release). The lattice's kernels then sum
    to less than Gaussians do: 0.88 of it for the first, 0.71 for the second where colours vary.

    Args:
        images: RGB, uint8 `[H, W, 3]`, at the size of the logarithms; sizes may differ.
        logs: log-probabilities `[K, H, W]` for each image, any floating type; K may differ. A constant may be added at
            each pixel. Minus infinity makes a label impossible there; at least one label must be possible.
        config: kernels, iterations and backend.
        device: a torch device, for backends that can use a GPU (`GPU_CRFS`); the others use the CPU.

    Returns:
        For each image float32 `[K, H, W]`, 0..1, summing to 1 over K.

    Raises:
        ValueError: an image is not uint8 RGB, image and logarithms differ in size, one of them is empty, a logarithm
            is NaN or plus infinity, a pixel has no possible label, or the kernels are too narrow for the lattice.
    """
    for image_HW3, log_KHW in zip(images, logs, strict=True):
        _check(image_HW3, log_KHW)
        if not np.isfinite(np.max(log_KHW, axis=0)).all():
            raise ValueError("log-probabilities hold NaN or infinity, or a pixel has no possible label")
    exact = [np.ascontiguousarray(log_KHW, dtype=np.float32) for log_KHW in logs]
    refined = [_softmax(log_KHW) for log_KHW in exact]
    open_to_change = [i for i, log_KHW in enumerate(exact) if config.crf != "none" and len(log_KHW) > 1]
    found = _mean_fields([images[i] for i in open_to_change], [exact[i] for i in open_to_change], config, device)
    for i, marginals_KHW in zip(open_to_change, found, strict=True):
        refined[i] = marginals_KHW
    return refined


def _mean_fields(
    images: Sequence[Image], logs: Sequence[NDArray[np.float32]], config: RefineConfig, device: str
) -> list[NDArray[np.float32]]:
    if not images:
        return []
    found: list[NDArray[np.float32]] = _backend(config).mean_fields(images, logs, config, device)
    return found


def _backend(config: RefineConfig) -> ModuleType:
    """The module of the backend that the settings name."""
    return importlib.import_module(f"pipeline.crf.backends.{config.crf}")


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


def _check_probabilities(probabilities_KHW: NDArray[np.floating[Any]]) -> None:
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


def _softmax(log_KHW: NDArray[np.float32]) -> NDArray[np.float32]:
    exponentials_KHW = np.exp(log_KHW - log_KHW.max(axis=0))
    return exponentials_KHW / exponentials_KHW.sum(axis=0)  # type: ignore[no-any-return]
