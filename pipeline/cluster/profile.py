"""Times and weighs each stage on a few images before the run, to size pools and batches. No Ray here."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline.stages.load import Loads
from pipeline.stages.rows import start_rows

PROBED = 4
"""Number of images; the first one only warms up caches and kernels."""


@dataclass(frozen=True)
class Probed:
    """What the stages did with a few images, by the name of the stage; empty: not known.

    Attributes:
        seconds: per image, of one process.
        row_bytes: of the largest row that left the stage.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    row_bytes: dict[str, int] = field(default_factory=dict)


def sample(manifest: pa.Table) -> pa.Table:
    """`PROBED` images, spread over a manifest because neighbours are often similar."""
    return manifest.take([i * len(manifest) // PROBED for i in range(PROBED)])


def probe(images: pa.Table, loads: Loads) -> Probed:
    """Seconds per image of one process in each stage: the median, without the first image; and the rows' sizes.

    All but the first go through together, as in the run: then they wait together for a store, and share micro-batches.

    Args:
        images: `image_id` and `uri` of at least two images.
        loads: the stages.

    Raises:
        ValueError: no image came through all stages.
    """
    functions = {stage: load() for stage, load in loads.items()}
    row_bytes = {}
    for part in (images[:1], images[1:]):
        table = start_rows(part)
        for stage, function in functions.items():
            table = function(table)
            row_bytes[stage] = max(table.slice(row, 1).nbytes for row in range(len(table)))
    rows = table.select([f"seconds_{stage}" for stage in loads]).to_pylist()
    through = [row for row in rows if None not in row.values()]
    if not through:
        failure = next((f": {why}" for why in table["error_message"].to_pylist() if why), "")
        raise ValueError(f"none of the images that were tried came through all stages{failure}")
    seconds = {stage: statistics.median(row[f"seconds_{stage}"] for row in through) for stage in loads}
    return Probed(seconds, row_bytes)
