"""Windows that are not worth computing, since what is known already makes their pixels certain."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.imaging.geometry import covered_pixels

ROUND = 8
"""Windows of an image between two looks at what is certain. It does not depend on how many images or crops go through
the network together, so an image gets the same windows in any company."""

Rectangles = NDArray[np.float64]


class Scored(Protocol):
    """A canvas of `inference.aggregate`."""

    def scores(self) -> Tensor:
        """The aggregated score map so far, float32 `[C, H, W]`, 0 where there was no window."""


def top_probability(scores_CHW: Tensor) -> Tensor:
    """Probability of each pixel's most probable class, float32 `[H, W]`, 0..1.

    Args:
        scores_CHW: aggregated scores before softmax, float32.
    """
    return (scores_CHW.amax(dim=0) - scores_CHW.logsumexp(dim=0)).exp()


def next_of_all(
    canvases: Sequence[Scored], known: Sequence[Tensor], waiting: Sequence[Rectangles], certain: float
) -> tuple[list[Rectangles], list[Rectangles]]:
    """`next_round` of several images. A pixel is as certain as the surer network is of it.

    Args:
        canvases: of each image.
        known: `top_probability` of each image by the ensemble's other network; empty if there is none.
        waiting: the fed rectangles of each image that are left.
        certain: as for `next_round`.
    """
    chosen = []
    for canvas, left_N4, other_HW in zip_longest(canvases, waiting, known):
        if len(left_N4):
            top_HW = top_probability(canvas.scores())
            top_HW = top_HW if other_HW is None else torch.maximum(top_HW, other_HW)
            chosen.append(next_round(top_HW.cpu().numpy(), left_N4, certain))
        else:
            chosen.append((left_N4, left_N4))
    return [now for now, _ in chosen], [later for _, later in chosen]


def next_round(
    top_HW: NDArray[np.float32], rectangles_N4: Rectangles, certain: float, most: int = ROUND
) -> tuple[Rectangles, Rectangles]:
    """The next windows of an image that are computed, and those after them, which are decided on later.

    In their order, windows are left out if the mean of `top_HW` over their pixels is above `certain`, or if they cover
    no pixel of the image.

    Args:
        top_HW: probability of each pixel's most probable class, as far as it is known.
        rectangles_N4: the fed rectangles of the windows that are left, best first, in the image's pixels.
        certain: 0..1.
        most: how many windows are computed at most.

    Returns:
        Rectangles `[K, 4]` with K up to `most`, and `[M, 4]`; the second is empty once all windows are decided on.
    """
    height, width = top_HW.shape
    taken: list[int] = []
    for number, rectangle_4 in enumerate(rectangles_N4):
        if len(taken) == most:
            return rectangles_N4[taken], rectangles_N4[number:]
        r0, r1, c0, c1 = covered_pixels(rectangle_4, height, width)
        # NaN is above nothing: a window where the network overflows is computed, and fails as it always does.
        if r0 < r1 and c0 < c1 and not top_HW[r0:r1, c0:c1].mean(dtype=np.float64) > certain:
            taken.append(number)
    return rectangles_N4[taken], rectangles_N4[:0]
