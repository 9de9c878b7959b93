"""What a run's report says, as plain values: `gather` counts them, `render` lays them out."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.outputs.audit import Audit
from pipeline.report.page.parts import Label, Setting


@dataclass(frozen=True)
class About:
    """What was run and on what; texts are empty where the output does not say.

    Attributes:
        source: the input's address.
        weights: the network's address; `other` that of an ensemble's second one.
        fingerprint: of all networks together.
        recipe: the name that the settings start from.
        settings: all of them, by the names of the command line.
        masks: whether the masks are also files of their own.
        max_megapixels: larger photographs were refused.
        version: of this project.
        machines: in words; likewise `processes`.
        ended: when the last call did, ISO 8601.
        seconds: of work, all calls together; None: the output does not say. Likewise `images_per_second`.
        price: what an hour of the whole cluster costs; None: not given.
        faults: what went wrong and was borne, and how often.
    """

    source: str
    weights: str
    other: str
    fingerprint: str
    recipe: str
    settings: tuple[Setting, ...]
    masks: bool
    max_megapixels: float
    version: str
    machines: str
    processes: str
    ended: str
    seconds: float | None
    images_per_second: float | None
    price: float | None
    faults: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class StageTimes:
    """The time that a stage took for the images in the results.

    Attributes:
        name: of the stage.
        images: that passed it.
        seconds: an image, on average.
        longest: seconds of the image that took longest.
        alone: seconds an image of one process, timed before the run; None: it was not.
        slowest: whether no stage takes longer on average.
    """

    name: str
    images: int
    seconds: float
    longest: float
    alone: float | None
    slowest: bool


@dataclass(frozen=True)
class ErrorKind:
    """Failures of one stage and type.

    Attributes:
        stage: where they happened.
        kind: the error's type.
        images: how many failed so.
        examples: a few of them as image id, address and message.
    """

    stage: str
    kind: str
    images: int
    examples: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class SkipKind:
    """Images that one stage left out: how many, and an example as image id and reason."""

    stage: str
    images: int
    example: tuple[str, str]


@dataclass(frozen=True)
class ClassFigures:
    """What the results hold of a class.

    Attributes:
        label: which class.
        images: with at least one pixel of it.
        area: its share of all pixels of all images, 0..1.
        area_where_found: its share of an image's pixels, on average over the images that have it; 0 if none has.
        probability: mean probability of its pixels; None if it has none.
    """

    label: Label
    images: int
    area: float
    area_where_found: float
    probability: float | None


@dataclass(frozen=True)
class Bar:
    """Images whose mean confidence lies from `low` to below `high` (the last bar's `high` included)."""

    low: float
    high: float
    images: int


@dataclass(frozen=True)
class Confidence:
    """How sure the network is of its images.

    Attributes:
        bars: a histogram up to 1, without gaps; the first begins at 0, however wide the others are.
        values: of all images, lowest first, if they are few; otherwise empty.
        median: half of the images lie below, to 0.001; None without images. Likewise `low`: 5 % lie below.
        unknown: images without a value.
    """

    bars: tuple[Bar, ...]
    values: tuple[float, ...]
    median: float | None
    low: float | None
    unknown: int


@dataclass(frozen=True)
class Candidate:
    """An image of the results that is worth a look.

    Attributes:
        confidence: its mean, 0..1; None: unknown.
        image_id: its id.
        uri: where the photograph was.
        part: the file of results that holds its mask.
        pixel_counts: pixels of each class.
    """

    confidence: float | None
    image_id: str
    uri: str
    part: str
    pixel_counts: tuple[int, ...]


@dataclass(frozen=True)
class RunFacts:
    """All that the report says, without its pictures.

    Attributes:
        output: the output's address.
        about: what was run.
        audit: the output held against the manifest.
        stages: in order.
        errors: most frequent first; `error_kinds` is how many kinds there are in all.
        skipped: by stage.
        classes: all of them, in order, the background first.
        confidence: of all images.
        least_sure: images with an object, lowest confidence first.
        nothing_found: images without any object, lowest confidence first; `without_object` is how many there are.
    """

    output: str
    about: About
    audit: Audit
    stages: tuple[StageTimes, ...]
    errors: tuple[ErrorKind, ...]
    error_kinds: int
    skipped: tuple[SkipKind, ...]
    classes: tuple[ClassFigures, ...]
    confidence: Confidence
    least_sure: tuple[Candidate, ...]
    nothing_found: tuple[Candidate, ...]
    without_object: int
