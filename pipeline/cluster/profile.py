"""How long each stage takes for an image, measured on a few before the run to size the pools by. No Ray here."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from pipeline.stages.rows import STAGES, Work, start_rows

PROBED = 4
"""Images; the first only warms up caches and kernels."""


@dataclass(frozen=True)
class Works:
    """What each stage does to a table of rows; what an actor does is made inside the actor."""

    decode: Work
    propose: Work
    make_predict: Callable[[], Work]
    make_refine: Callable[[], Work]


def sample(manifest: pa.Table) -> pa.Table:
    """`PROBED` images spread over a manifest: neighbours are often alike."""
    return manifest.take([i * len(manifest) // PROBED for i in range(PROBED)])


def probe(images: pa.Table, works: Works) -> dict[str, float]:
    """Seconds that one process takes for an image in each stage: the median, the first image left out.

    Args:
        images: `image_id` and `uri` of at least two images.
        works: the stages.

    Returns:
        A value for each of `rows.STAGES`.

    Raises:
        ValueError: no image came through all stages.
    """
    stages = [works.decode, works.propose, works.make_predict(), works.make_refine()]
    seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for number in range(len(images)):
        table = start_rows(images.slice(number, 1))
        for work in stages:
            table = work(table)
        (row,) = table.select([f"seconds_{stage}" for stage in STAGES]).to_pylist()
        if number > 0 and None not in row.values():
            for stage in STAGES:
                seconds[stage].append(row[f"seconds_{stage}"])
    if not seconds[STAGES[0]]:
        raise ValueError("none of the images that were tried came through all stages")
    return {stage: statistics.median(values) for stage, values in seconds.items()}
