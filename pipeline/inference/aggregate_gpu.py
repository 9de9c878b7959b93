"""Aggregation on a GPU: one kernel that reads the score maps of all windows once and writes the canvas once.

`aggregate.Canvas` goes window by window and reads and writes the covered part of the canvas for each of them. Here each
Triton program computes one tile of the image for all classes, from all the windows that touch it. It needs the score
maps of all of an image's windows at once: 105 MB for 50 windows of 21 classes in bfloat16.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config.stages import Aggregation
from pipeline.imaging.geometry import CROP, covered_pixels

TILE_ROWS, TILE_COLUMNS = 4, 16
KNOWN: tuple[Aggregation, ...] = ("max", "sum", "average")
"""The rules that the kernel has; for other rules there is `aggregate.Canvas`."""


class GatheredCanvas:
    """Like `aggregate.Canvas`, for a known number of score maps; they are kept until the last one is pasted.

    Args:
        num_classes: background included.
        height: the image's at working size, in pixels.
        width: the image's at working size, in pixels.
        aggregation: one of `KNOWN`.
        device: that of the score maps, a GPU.
        windows: how many score maps will be pasted.
    """

    def __init__(
        self, num_classes: int, height: int, width: int, aggregation: Aggregation, device: torch.device, windows: int
    ) -> None:
        self._scores_CHW = torch.zeros(num_classes, height, width, device=device)
        self._aggregation = aggregation
        self._windows = windows
        self._maps_NCSS: Tensor | None = None
        self._rectangles: list[NDArray[np.float64]] = []

    def paste(self, scores_CSS: Tensor, rectangle_4: NDArray[np.float64]) -> None:
        """Take one proposal's score map `[C, 224, 224]`; with the last one, all are aggregated."""
        if self._maps_NCSS is None:
            # Channels last, as the network gives them: the classes of a pixel are neighbours.
            self._maps_NCSS = torch.empty(
                (self._windows, *scores_CSS.shape), dtype=scores_CSS.dtype, device=scores_CSS.device,
                memory_format=torch.channels_last,
            )  # fmt: skip
        self._maps_NCSS[len(self._rectangles)] = scores_CSS
        self._rectangles.append(rectangle_4)
        if len(self._rectangles) == self._windows:
            gather(self._maps_NCSS, np.stack(self._rectangles), self._scores_CHW, self._aggregation)
            self._maps_NCSS = None

    def scores(self) -> Tensor:
        """The aggregated score map, float32 `[C, H, W]`.

        Raises:
            ValueError: fewer score maps were pasted than announced.
        """
        if len(self._rectangles) != self._windows:
            raise ValueError(f"{len(self._rectangles)} of {self._windows} score maps were pasted")
        return self._scores_CHW


def gather(
    maps_NCSS: Tensor, rectangles_N4: NDArray[np.float64], canvas_CHW: Tensor, aggregation: Aggregation
) -> Tensor:
    """Aggregate all score maps of an image (equations 1 and 2); NaNs spread as in `aggregate.Canvas`.

    Args:
        maps_NCSS: floating point, channels last, `[N, C, 224, 224]`, with at least one map.
        rectangles_N4: fed rectangles, in the image's pixels.
        canvas_CHW: float32, contiguous; overwritten.
        aggregation: one of `KNOWN`.

    Returns:
        The canvas.

    Raises:
        ValueError: the kernel has no such rule.
    """
    if aggregation not in KNOWN:
        raise ValueError(f"the kernel aggregates by {', '.join(KNOWN)}, not {aggregation}")
    classes, height, width = canvas_CHW.shape
    device = canvas_CHW.device
    places_N8 = torch.from_numpy(_places(rectangles_N4, height, width))
    if device.type == "cuda":
        places_N8 = places_N8.pin_memory().to(device, non_blocking=True)
    grid = (triton.cdiv(height, TILE_ROWS), triton.cdiv(width, TILE_COLUMNS))
    _gather_kernel[grid](
        maps_NCSS, places_N8, canvas_CHW, len(maps_NCSS), height, width,
        SUM=aggregation != "max", AVERAGE=aggregation == "average", C=classes,
        CLASSES=triton.next_power_of_2(classes), SIDE=CROP, ROWS=TILE_ROWS, COLUMNS=TILE_COLUMNS,
    )  # fmt: skip
    return canvas_CHW


def _places(rectangles_N4: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """For each window: x0, y0, crop pixels per image pixel along x and y; its pixels r0, r1, c0, c1, half-open."""
    corners, sizes = rectangles_N4[:, :2], rectangles_N4[:, 2:] - rectangles_N4[:, :2]
    covered = np.array([covered_pixels(rectangle, height, width) for rectangle in rectangles_N4], dtype=np.float64)
    return np.concatenate([corners, CROP / sizes, covered], axis=1)


@triton.jit
def _between(first, place_ptr, low, scale, SIDE: tl.constexpr):
    """The two crop pixels around the centres of image pixels along one axis, and the weight of the second.

    In float64: far from the origin, float32's error would exceed the tolerance of the results.
    """
    place = (first + 0.5 - tl.load(place_ptr + low)) * tl.load(place_ptr + scale) - 0.5
    place = tl.minimum(tl.maximum(place, 0.0), SIDE - 1.0)
    whole = place.to(tl.int32)
    return whole, tl.minimum(whole + 1, SIDE - 1), (place - whole).to(tl.float32)


@triton.jit
def _gather_kernel(
    maps_ptr, places_ptr, canvas_ptr, windows, height, width, SUM: tl.constexpr, AVERAGE: tl.constexpr,
    C: tl.constexpr, CLASSES: tl.constexpr, SIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row0, column0 = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS
    pixel = tl.arange(0, ROWS * COLUMNS)
    row, column = row0 + pixel // COLUMNS, column0 + pixel % COLUMNS
    classes = tl.arange(0, CLASSES)
    total = tl.zeros([ROWS * COLUMNS, CLASSES], tl.float32)
    cover = tl.zeros([ROWS * COLUMNS], tl.float32)
    for window in range(windows):
        place_ptr = places_ptr + window * 8
        r0, r1 = tl.load(place_ptr + 4), tl.load(place_ptr + 5)
        c0, c1 = tl.load(place_ptr + 6), tl.load(place_ptr + 7)
        if (row0 < r1) & (row0 + ROWS > r0) & (column0 < c1) & (column0 + COLUMNS > c0):
            covered = (row >= r0) & (row < r1) & (column >= c0) & (column < c1)
            left, right, u = _between(column, place_ptr, 0, 2, SIDE)
            top, bottom, v = _between(row, place_ptr, 1, 3, SIDE)
            inside = covered[:, None] & (classes < C)[None, :]
            map_ptr = maps_ptr + window * tl.full((), SIDE * SIDE * C, tl.int64) + classes[None, :]
            upper = _mix(map_ptr, (top * SIDE + left) * C, (top * SIDE + right) * C, u, inside)
            lower = _mix(map_ptr, (bottom * SIDE + left) * C, (bottom * SIDE + right) * C, u, inside)
            value = upper + (lower - upper) * v[:, None]
            if SUM:
                total += tl.where(inside, value, 0.0)
                cover += covered.to(tl.float32)
            else:
                total = tl.maximum(total, tl.where(inside, value, 0.0), propagate_nan=tl.PropagateNan.ALL)
    if AVERAGE:
        total = total / tl.maximum(cover, 1.0)[:, None]
    at = classes[None, :].to(tl.int64) * height * width + (row * width + column)[:, None]
    tl.store(canvas_ptr + at, total, mask=((row < height) & (column < width))[:, None] & (classes < C)[None, :])


@triton.jit
def _mix(map_ptr, at, beside, weight, inside):
    one = tl.load(map_ptr + at[:, None], mask=inside).to(tl.float32)
    other = tl.load(map_ptr + beside[:, None], mask=inside).to(tl.float32)
    return one + (other - one) * weight[:, None]
