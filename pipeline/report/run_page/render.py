"""A run's report as one page of HTML: no script, and nothing that is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline import storage
from pipeline.report.run_page.facts import Confidence, RunFacts
from pipeline.report.run_page.gallery import Shown, show

TEMPLATE = "page.html.j2"
CHART_WIDTH, CHART_HEIGHT = 600, 140
"""Of the histogram's bars, in its own units."""


LEAST_SURE = "Images in which something was found, lowest confidence first."
NOTHING_FOUND = (
    "Images in which all is background, lowest confidence first: an object may have been missed. In all: {}."
)


@dataclass(frozen=True)
class Step:
    """Something to do next: why, and the command for it."""

    why: str
    command: str


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
    # Names are data: all that is filled in is escaped.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "number": number,
        "images": images,
        "percent": percent,
        "duration": duration,
        "seconds": seconds,
    }
    return environment.get_template(TEMPLATE).render(
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
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
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


def number(value: int) -> str:
    """12,345."""
    return f"{value:,}"


def images(value: int) -> str:
    """12,345 images."""
    return f"{number(value)} image{'' if value == 1 else 's'}"


def percent(share: float) -> str:
    """A share of 0..1 in per cent."""
    if 0 < share < 0.0005:
        return "under 0.1 %"
    return f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"


def seconds(value: float) -> str:
    """Seconds, to three digits of those that count."""
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def duration(value: float) -> str:
    """Seconds as people say them."""
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{value:.1f} s"
