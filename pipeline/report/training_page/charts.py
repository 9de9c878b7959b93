"""Curves of a training as lines in a drawing: plain arithmetic, in the drawing's units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 8, 22
"""Room beside the curves, for their axes."""
TICKS = 4  # of an axis, about
MOST_DOTS = 60


@dataclass(frozen=True)
class Dot:
    """A value as it is drawn, and in words."""

    x: float
    y: float
    words: str


@dataclass(frozen=True)
class Line:
    """A curve: the class it has in the style, and its dots; `joined` for `points` of a polyline."""

    style: str
    dots: tuple[Dot, ...]

    @property
    def joined(self) -> str:
        """The dots as a polyline has them."""
        return " ".join(f"{dot.x:.1f},{dot.y:.1f}" for dot in self.dots)

    @property
    def dotted(self) -> bool:
        """Whether they are few enough to be told apart."""
        return len(self.dots) <= MOST_DOTS


@dataclass(frozen=True)
class Chart:
    """Curves of one measure.

    Attributes:
        title: the measure.
        words: what the curves show, for who cannot see them.
        lines: the curves.
        across: height and label of each line across.
        down: place and label of each mark of the steps.
        stages: places where a stage begins.
    """

    title: str
    words: str
    lines: tuple[Line, ...]
    across: tuple[tuple[float, str], ...]
    down: tuple[tuple[float, str], ...]
    stages: tuple[float, ...]


def chart(
    title: str, steps: Sequence[int], curves: dict[str, Sequence[float | None]], stages: Sequence[int] = ()
) -> Chart | None:
    """Draw curves over steps.

    Args:
        title: the measure.
        steps: of each value.
        curves: values by the name of the curve, `training` or `validation`; None or not finite: no value.
        stages: steps at which a stage begins.

    Returns:
        The chart; None if there is no value.
    """
    finite = {
        name: [(step, one) for step, one in zip(steps, values, strict=True) if one is not None and math.isfinite(one)]
        for name, values in curves.items()
    }
    values = [one for some in finite.values() for _, one in some]
    if not values:
        return None
    ticks = ticks_for(min(values), max(values))
    last = max(steps)

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / max(last, 1)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (ticks[-1] - value) / (ticks[-1] - ticks[0])

    lines = tuple(
        Line(name, tuple(Dot(x(step), y(one), f"step {step:,}, {name}: {one:.4g}") for step, one in some))
        for name, some in finite.items()
        if some
    )
    said = "; ".join(
        f"{name} {some[0][1]:.3g} at step {some[0][0]:,}, {some[-1][1]:.3g} at step {some[-1][0]:,}"
        for name, some in finite.items()
        if some
    )
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    return Chart(
        title,
        f"{title}: {said}",
        lines,
        tuple((y(one), f"{one:.{digits}f}") for one in ticks),
        tuple((x(step), f"{step:,}") for step in sorted({0, last // 2, last})),
        tuple(x(step) for step in stages),
    )


def ticks_for(low: float, high: float) -> list[float]:
    """Round values, equally far apart, from at most `low` to at least `high`."""
    spread = max(high - low, 0.02 * abs(high), 1e-6)
    size = 10 ** math.floor(math.log10(spread / TICKS))
    step = next(factor * size for factor in (1, 2, 5, 10) if factor * size * TICKS >= spread)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]
