"""A run's report as one page of HTML: no script, and nothing that is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import storage
from pipeline.report.page.parts import Step, images, page
from pipeline.report.run_page.facts import Confidence, RunFacts
from pipeline.report.run_page.gallery import Shown, show

SECTIONS = (
    ("run", "What was run"), ("audit", "Audit"), ("stages", "Stages"), ("errors", "Errors"), ("classes", "Classes"),
    ("confidence", "Confidence"), ("gallery", "Worth a look"), ("next", "What to do next"),
)  # fmt: skip
CHART_WIDTH, CHART_HEIGHT = 600, 140
"""Of the histogram's bars, in its own units."""


LEAST_SURE = "Images in which something was found, lowest confidence first."
NOTHING_FOUND = (
    "Images in which all is background, lowest confidence first: an object may have been missed. In all: {}."
)


@dataclass(frozen=True)
class Column:
    """A bar of the histogram as it is drawn, in the chart's units, and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    words: str


@dataclass(frozen=True)
class Gallery:
    """Pictures under a title."""

    title: str
    words: str
    images: tuple[Shown, ...]


FOLDER = Path(__file__).parent
"""Has the page's template."""


def render(facts: RunFacts, steps: Sequence[Step]) -> str:
    """The page. Reads the photographs and masks of the gallery; a photograph that cannot be read is left out.

    Args:
        facts: what it says.
        steps: what to do next.

    Raises:
        ResultsError: a file of results cannot be read any more.
    """
    candidates = [*facts.least_sure, *facts.nothing_found]
    linked = facts.about.masks and storage.is_local(facts.output)
    labels = [one.label for one in facts.classes]
    shown = show(candidates, labels, facts.about.max_megapixels, masks=linked)
    return page(
        FOLDER,
        "Segmentation report",
        SECTIONS,
        facts=facts,
        about=facts.about,
        audit=facts.audit,
        found=sorted((one for one in facts.classes[1:] if one.images), key=lambda one: (-one.images, -one.area)),
        not_found=[one.label for one in facts.classes[1:] if not one.images],
        columns=columns(facts.confidence),
        chart=(CHART_WIDTH, CHART_HEIGHT),
        galleries=[
            Gallery(title, words, tuple(shown[one] for one in some))
            for title, words, some in (
                ("Least sure", LEAST_SURE, facts.least_sure),
                ("Nothing found", NOTHING_FOUND.format(images(facts.without_object)), facts.nothing_found),
            )
            if some
        ],
        steps=steps,
    )


def columns(confidence: Confidence) -> list[Column]:
    """The histogram's bars, side by side, the highest as high as the chart."""
    highest = max((bar.images for bar in confidence.bars), default=0)
    width = CHART_WIDTH / max(len(confidence.bars), 1)
    drawn = []
    for place, bar in enumerate(confidence.bars):
        height = max(2.0, CHART_HEIGHT * bar.images / highest) if bar.images else 0.0
        words = f"{bar.low:.3g} to {bar.high:.3g}: {images(bar.images)}"
        drawn.append(Column(place * width, CHART_HEIGHT - height, width, height, words))
    return drawn
