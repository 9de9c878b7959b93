"""How much a mean depends on the choice of images: bootstrap intervals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000
COVERED = 0.95


def counts_of(confusion_CC: NDArray[np.int64]) -> NDArray[np.int64]:
    """The part of a confusion matrix that IoU needs: right, true and predicted pixels of each class, int64 `[3, C]`."""
    return np.stack([np.diag(confusion_CC), confusion_CC.sum(1), confusion_CC.sum(0)])


def mean_iou_interval(counts_N3C: NDArray[np.int64], seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of the mean IoU: the middle 95 % over sets of as many images, drawn with replacement.

    Args:
        counts_N3C: `counts_of` of each of one or more images, not all of them zero.
        seed: seed of the draws.

    Returns:
        Lower and upper end, 0..1.
    """
    images = len(counts_N3C)
    flat_NK = counts_N3C.reshape(images, -1)
    means = []
    for times_N in _draws(images, seed):
        right, true, predicted = (times_N @ flat_NK).reshape(counts_N3C.shape[1:])
        union = true + predicted - right
        if union.any():
            means.append(float((right[union > 0] / union[union > 0]).mean()))
    return _middle(means)


def ratio_interval(sums_N: NDArray[np.floating], counts_N: NDArray[np.int64], seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of a mean over things that lie in images, drawn as `mean_iou_interval` does.

    Args:
        sums_N: sum of the things' values in each image.
        counts_N: their number in each image, not all zero.
        seed: seed of the draws.

    Returns:
        Lower and upper end.
    """
    drawn = [(times_N @ sums_N, times_N @ counts_N) for times_N in _draws(len(sums_N), seed)]
    return _middle([float(total / count) for total, count in drawn if count])


def _draws(images: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each image is drawn, `[images]`, draw after draw."""
    rng = np.random.default_rng(seed)
    for _ in range(DRAWS):
        yield np.bincount(rng.integers(images, size=images), minlength=images)


def _middle(values: list[float]) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return float(low), float(high)
