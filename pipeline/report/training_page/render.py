"""A training's report as one page of HTML: no script, and nothing that is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.report.page.parts import Step, page
from pipeline.report.training_page.charts import HEIGHT, LEFT, RIGHT, WIDTH, Chart, chart
from pipeline.report.training_page.facts import Point, TrainingFacts

SECTIONS = (
    ("training", "What was trained"), ("curves", "Curves"), ("classes", "Classes"), ("samples", "What it sees"),
    ("next", "What to do next"),
)  # fmt: skip
MOST_ROWS = 100
"""Validations in the table; of more, some are left out, evenly."""


def render(facts: TrainingFacts, steps: Sequence[Step]) -> str:
    """The page.

    Args:
        facts: what it says.
        steps: what to do next.
    """
    known = [one for one in facts.classes if one.iou is not None]
    return page(
        Path(__file__).parent,
        "Training report",
        [one for one in SECTIONS if one[0] != "samples" or facts.samples],
        facts=facts,
        charts=charts(facts),
        size=(WIDTH, HEIGHT, LEFT, RIGHT),
        rows=shown(facts.points),
        ranked=sorted(known, key=lambda one: one.iou or 0.0),
        unseen=[one.label for one in facts.classes if one.iou is None],
        steps=steps,
    )


def charts(facts: TrainingFacts) -> list[Chart]:
    """Loss, pixel accuracy and mean IoU over the steps."""
    points = facts.points
    measured: tuple[tuple[str, list[float | None], list[float | None]], ...] = (
        ("loss", [one.train_loss for one in points], [one.val_loss for one in points]),
        ("pixel accuracy", [one.train_accuracy for one in points], [one.accuracy for one in points]),
        ("mean IoU", [one.train_iou for one in points], [one.iou for one in points]),
    )
    steps = [one.steps for one in points]
    drawn = (
        chart(title, steps, {"training": trained, "validation": validated}, facts.stages)
        for title, trained, validated in measured
    )
    return [one for one in drawn if one is not None]


def shown(points: Sequence[Point]) -> list[Point]:
    """The validations of the table, the last one among them."""
    each = -(-len(points) // MOST_ROWS) or 1
    return list(points[::-1][::each][::-1])
