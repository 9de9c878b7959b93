"""Figures drawn with matplotlib, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def line_figure(points: Sequence[tuple[float, float]], x: str, y: str) -> bytes:
    """A line through points, over axes called `x` and `y`."""
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*points, strict=True), marker="o", markersize=4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    return png(figure)


def png(figure: Figure, dpi: int = 100) -> bytes:
    """The figure's PNG file; no window and no display are needed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
