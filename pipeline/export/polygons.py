"""Outlines of the parts of a mask, for formats that know nothing but one ring of points for each.

The points are pixels of the part itself, as OpenCV's contours are. A program that fills a polygon and draws its outline
(OpenCV's `fillPoly`, which the YOLO tools use) gets the part back. A hole is joined with the ring around it by the
shortest line between the two, there and back; that line has only pixels of the part, or passes them closely.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.int32]
"""`[N, 2]`, x and y of pixels."""
LEAST = 3
"""Points of a ring; smaller parts repeat their last one."""
ROWS = 1024
"""Of a matrix of distances, for the memory."""


def rings_of(mask_HW: NDArray[np.bool_]) -> list[Points]:
    """One closed ring of points for each 8-connected part of a mask, its holes joined in."""
    contours, hierarchy = cv2.findContours(mask_HW.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if hierarchy is None:
        return []
    holes: dict[int, list[Points]] = {}
    for number, (*_, parent) in enumerate(hierarchy[0].tolist()):
        if parent >= 0:
            holes.setdefault(parent, []).append(_points(contours[number]))
    return [
        _without_middles(_joined(_points(contours[number]), holes.get(number, [])))
        for number, (*_, parent) in enumerate(hierarchy[0].tolist()) if parent < 0
    ]  # fmt: skip


def _points(contour: NDArray[np.int32]) -> Points:
    return np.asarray(contour, np.int32).reshape(-1, 2)


def _joined(ring: Points, holes: list[Points]) -> Points:
    """The ring with its holes, always the nearest one first: the line to it then crosses no other."""
    if not holes:
        return ring
    points_N2 = np.concatenate(holes)
    hole_N = np.repeat(np.arange(len(holes)), [len(hole) for hole in holes])
    squares_N, nearest_N2 = _nearest(points_N2, ring)
    for _ in holes:
        end = int(squares_N.argmin())
        hole = holes[hole_N[end]]
        at, first = (_find(points, point) for points, point in ((ring, nearest_N2[end]), (hole, points_N2[end])))
        there_and_back = np.concatenate([hole[first:], hole[: first + 1]])
        ring = np.concatenate([ring[: at + 1], there_and_back, ring[at:]])
        closer_N, where_N2 = _nearest(points_N2, hole)
        better_N = (closer_N < squares_N) & np.isfinite(squares_N)
        squares_N[better_N], nearest_N2[better_N] = closer_N[better_N], where_N2[better_N]
        squares_N[hole_N == hole_N[end]] = np.inf
    return ring


def _find(points: Points, point: Points) -> int:
    return int((points == point).all(1).argmax())


def _nearest(points_N2: Points, others: Points) -> tuple[NDArray[np.float64], Points]:
    """The squared distance of each point to the nearest of others, and that one."""
    squares_N, at_N = np.empty(len(points_N2)), np.empty(len(points_N2), np.int64)
    x, y = others.astype(np.float64).T
    for first in range(0, len(points_N2), ROWS):
        part = points_N2[first : first + ROWS]
        squares_NN = (part[:, :1] - x) ** 2 + (part[:, 1:] - y) ** 2
        at_N[first : first + ROWS] = squares_NN.argmin(1)
        squares_N[first : first + ROWS] = squares_NN.min(1)
    return squares_N, others[at_N]


def _without_middles(ring: Points) -> Points:
    """The ring without the points in the middle of straight lines; at least `LEAST` points."""
    steps = np.diff(ring, axis=0, append=ring[:1])
    kept = ring[(steps != np.roll(steps, 1, axis=0)).any(1)]
    ring = kept if len(kept) else ring[:1]
    return np.concatenate([ring, np.repeat(ring[-1:], max(0, LEAST - len(ring)), axis=0)])
