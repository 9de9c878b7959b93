"""Figures drawn with matplotlib, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

if TYPE_CHECKING:  # it needs torch, which the other figures do without
    from pipeline.report.activations import Activation

UInt8Array = NDArray[np.uint8]


def line_figure(points: Sequence[tuple[float, float]], x: str, y: str) -> bytes:
    """A line through points, over axes called `x` and `y`."""
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*points, strict=True), marker="o", markersize=4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    return png(figure)


def activation_figure(crop_HW3: UInt8Array, activations: Sequence[Activation]) -> bytes:
    """The crop and one heat map an activation, in two rows, coarse to fine.

    Black is 0, the brightest colour the 99th percentile of what is above 0: a few extreme values would darken the rest.
    """
    columns = -(-(len(activations) + 1) // 2)
    figure = Figure(figsize=(2.4 * columns, 5.3), layout="constrained")
    axes = figure.subplots(2, columns).ravel()
    axes[0].imshow(crop_HW3)
    axes[0].set_title("crop", fontsize=9)
    for ax, one in zip(axes[1:], activations, strict=False):
        positive = one.map_HW[one.map_HW > 0]
        ax.imshow(one.map_HW, cmap="inferno", vmin=0, vmax=np.percentile(positive, 99) if positive.size else 1)
        size = f"{one.map_HW.shape[1]}x{one.map_HW.shape[0]}"
        ax.set_title(f"{one.layer}, {size}, channel {one.channel}", fontsize=9)
    for ax in axes:
        ax.axis("off")
    return png(figure)


def png(figure: Figure, dpi: int = 100) -> bytes:
    """The figure's PNG file; no window and no display are needed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
