"""The connected parts of the classes in a mask, which formats of objects take for objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.imaging.classes import VOID

MOST_REGIONS = 254
"""Of an image: what `build-training-set` reads back, and more than people can look at."""


class Region(NamedTuple):
    """A part of a mask with one label."""

    label: int
    left: int
    top: int
    mask_hw: NDArray[np.bool_]
    """Which pixels of its bounding box belong to it."""
    area: int
    """In pixels."""

    @property
    def box(self) -> list[int]:
        """Left, top, width and height of the bounding box."""
        height, width = self.mask_hw.shape
        return [self.left, self.top, width, height]

    @property
    def transposed(self) -> Region:
        """The region with rows for columns."""
        return self._replace(left=self.top, top=self.left, mask_hw=self.mask_hw.T)

    def runs(self, height: int, width: int) -> list[int]:
        """`run_lengths` of the region in an image of that size, row by row. Only its own rows are looked at."""
        rows, columns = self.mask_hw.shape
        strip_hW = np.zeros((rows, width), np.bool_)
        strip_hW[:, self.left : self.left + columns] = self.mask_hw
        runs = run_lengths(strip_hW.ravel())
        runs[0] += self.top * width
        below = (height - self.top - rows) * width
        if len(runs) % 2:  # the last one is outside
            runs[-1] += below
        elif below:
            runs.append(below)
        return runs


def regions_of(labels_HW: NDArray[np.uint8], classes: int, most: int = MOST_REGIONS) -> list[Region]:
    """The 8-connected parts of each class but the background, in order of their labels.

    Together they are the mask: no pixel is left out and none is in two. Where there are more than `most`, the smallest
    of each class are one region, so that no image has more.

    Args:
        labels_HW: uint8 `[H, W]`.
        classes: how many there are; labels beyond are void and in no region.
        most: at least the number of classes.
    """
    found: list[tuple[int, NDArray[np.int32], NDArray[np.int32]]] = []
    for label in np.unique(labels_HW).tolist():
        if 0 < label < classes:
            inside_HW = (labels_HW == label).astype(np.uint8)
            _, parts_HW, stats, _ = cv2.connectedComponentsWithStats(inside_HW, connectivity=8)
            found.append((label, np.asarray(parts_HW), np.asarray(stats[1:])))  # part 0 is what is outside
    smallest = _smallest_kept([stats[:, cv2.CC_STAT_AREA] for *_, stats in found], most)
    regions: list[Region] = []
    for label, parts_HW, stats in found:
        alone = stats[:, cv2.CC_STAT_AREA] >= smallest
        regions += [
            Region(label, left, top, parts_HW[top : top + height, left : left + width] == part, area)
            for part, (left, top, width, height, area) in enumerate(stats.tolist(), start=1) if alone[part - 1]
        ]  # fmt: skip
        if not alone.all():
            regions.append(region_of(label, np.isin(parts_HW, np.flatnonzero(~alone) + 1)))
    return regions


def without_specks(labels_HW: NDArray[np.uint8], least: int) -> NDArray[np.uint8]:
    """The mask with all 8-connected parts of a class of fewer than `least` pixels made background."""
    cleaned_HW = labels_HW.copy()
    for label in np.unique(labels_HW).tolist():
        if label not in {0, VOID}:
            inside_HW = (labels_HW == label).astype(np.uint8)
            _, parts_HW, stats, _ = cv2.connectedComponentsWithStats(inside_HW, connectivity=8)
            small = np.flatnonzero(stats[:, cv2.CC_STAT_AREA] < least)
            cleaned_HW[np.isin(parts_HW, small[small > 0])] = 0
    return cleaned_HW


def _smallest_kept(areas: Sequence[NDArray[np.int32]], most: int) -> int:
    """The area from which a part is a region of its own, so that these and one more a class are at most `most`."""
    everything = np.sort(np.concatenate([*areas, np.zeros(0, np.int32)]))[::-1]
    if len(everything) <= most:
        return 0
    return int(everything[most - len(areas)]) + 1  # equal ones are joined alike


def region_of(label: int, mask_HW: NDArray[np.bool_]) -> Region:
    """All of a mask, which holds a pixel at least, as one region."""
    rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
    top, left = int(rows[0]), int(columns[0])
    mask_hw = mask_HW[top : rows[-1] + 1, left : columns[-1] + 1]
    return Region(label, left, top, mask_hw, int(mask_hw.sum()))


def run_lengths(pixels_N: NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of a flat mask, those outside and those inside by turns, beginning with one outside.

    The first is 0 where the mask begins inside; the others are at least 1.
    """
    bounds = np.flatnonzero(np.diff(pixels_N, prepend=False, append=False))
    ends = [*bounds.tolist()] if len(bounds) and bounds[-1] == len(pixels_N) else [*bounds.tolist(), len(pixels_N)]
    return [int(length) for length in np.diff([0, *ends])]
