"""How well thin edges agree with the outlines that people drew: BSDS500's boundary measure (Martin et al. 2004)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

TOLERANCE = 0.0075
"""How far an edge may lie from its outline, as a fraction of the image's diagonal: 4.3 pixels in BSDS500."""
THRESHOLDS = np.linspace(0, 1, 101)[1:-1]
"""Edge strengths at which the edge map is thresholded, as in BSDS500's own benchmark."""

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class EdgeScore:
    """F-measures over a set of images."""

    ods: float
    """F-measure at the one threshold that is best for the whole set, 0..1."""
    ois: float
    """F-measure at each image's own best threshold, 0..1."""
    threshold: float
    """The threshold of `ods`."""
    precision: float
    """Precision at `threshold`, 0..1."""
    recall: float
    """Recall at `threshold`, 0..1."""


def edge_score(counts: Sequence[Counts]) -> EdgeScore:
    """Score a set of images from `match_counts` of each."""
    counts_NT4 = np.stack(counts)
    all_T4 = counts_NT4.sum(axis=0)
    best = int(np.argmax(f_measure(all_T4)))
    best_N = f_measure(counts_NT4).argmax(axis=1)
    own_4 = np.take_along_axis(counts_NT4, best_N[:, None, None], axis=1).sum(axis=(0, 1))
    right, edges, found, drawn = all_T4[best]
    return EdgeScore(
        float(f_measure(all_T4)[best]),
        float(f_measure(own_4)),
        float(THRESHOLDS[best]),
        float(right / max(edges, 1)),
        float(found / max(drawn, 1)),
    )


def f_measure(counts_4: Counts) -> NDArray[np.float64]:
    """Harmonic mean of precision and recall from counts `[..., 4]`; 0 where nothing is right."""
    right, edges, found, drawn = np.moveaxis(counts_4, -1, 0)
    precision, recall = right / np.maximum(edges, 1), found / np.maximum(drawn, 1)
    return np.asarray(2 * precision * recall / np.maximum(precision + recall, 1e-12))


def match_counts(edges_HW: NDArray[np.float32], outlines_AHW: NDArray[np.bool_]) -> Counts:
    """Match thin edges with each person's outlines, one pixel to one pixel, at all thresholds.

    Returns:
        int64 `[99, 4]`, for each threshold: edge pixels that match somebody's outline; edge pixels; outline pixels that
        are matched, summed over the people; outline pixels of all people.
    """
    height, width = edges_HW.shape
    radius = TOLERANCE * np.hypot(height, width)
    points_P2 = np.argwhere(edges_HW >= THRESHOLDS[0])
    strengths_P = edges_HW[tuple(points_P2.T)]
    order_P = np.argsort(-strengths_P, kind="stable")
    points_P2, strengths_P = points_P2[order_P], strengths_P[order_P]
    matched_AP = np.stack([_matched(points_P2, np.argwhere(one_HW), radius) for one_HW in outlines_AHW])
    kept_TP = strengths_P >= THRESHOLDS[:, None].astype(np.float32)
    right_T = (kept_TP & matched_AP.any(axis=0)).sum(axis=1)
    found_T = (kept_TP * matched_AP.sum(axis=0)).sum(axis=1)
    return np.stack([right_T, kept_TP.sum(axis=1), found_T, np.full(len(THRESHOLDS), outlines_AHW.sum())], axis=1)


def _matched(points_P2: NDArray[np.int64], outline_Q2: NDArray[np.int64], radius: float) -> NDArray[np.bool_]:
    """Which points, strongest first, have a partner in a one-to-one matching that is largest for every first n of them.

    Each point in turn is matched if the partners of earlier points can be moved so that one becomes free for it (an
    augmenting path). Places of a failed search never lead to a free one later, so they are not searched again.
    """
    matched_P = np.zeros(len(points_P2), np.bool_)
    if len(points_P2) == 0 or len(outline_Q2) == 0:
        return matched_P
    near = cKDTree(points_P2).query_ball_tree(cKDTree(outline_Q2), radius)
    partner, held = [-1] * len(outline_Q2), [-1] * len(points_P2)
    dead = [False] * len(outline_Q2)
    for point in range(len(points_P2)):
        matched_P[point] = _augment(point, near, partner, held, dead)
    return matched_P


def _augment(start: int, near: list[list[int]], partner: list[int], held: list[int], dead: list[bool]) -> bool:
    """Find a free place for `start`, moving others if need be; the places of a failed search are marked dead."""
    came_from: dict[int, int] = {}
    queue = [start]
    for point in queue:  # grows while it is walked: breadth first
        for place in near[point]:
            if dead[place] or place in came_from:
                continue
            came_from[place] = point
            if partner[place] >= 0:
                queue.append(partner[place])
                continue
            while place >= 0:
                mover = came_from[place]
                partner[place], held[mover], place = mover, place, held[mover]  # noqa: PLW2901
            return True
    for place in came_from:
        dead[place] = True
    return False
