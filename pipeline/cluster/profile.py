"""Times each stage on a few images before the run, to size the pools. No Ray here."""

from __future__ import annotations

import statistics

import pyarrow as pa

from pipeline.stages.load import Loads
from pipeline.stages.rows import start_rows

PROBED = 4
"""Number of images; the first one only warms up caches and kernels."""


def sample(manifest: pa.Table) -> pa.Table:
    """`PROBED` images, spread over a manifest because neighbours are often similar."""
    return manifest.take([i * len(manifest) // PROBED for i in range(PROBED)])


def probe(images: pa.Table, loads: Loads) -> dict[str, float]:
    """Seconds per image of one process in each stage: the median, without the first image.

    All but the first go through together, as in the run: then they wait together for a store, and share micro-batches.

    Args:
        images: `image_id` and `uri` of at least two images.
        loads: the stages.

    Returns:
        Seconds by the name of the stage.

    Raises:
        ValueError: no image came through all stages.
    """
    functions = [load() for load in loads.values()]
    for part in (images[:1], images[1:]):
        table = start_rows(part)
        for function in functions:
            table = function(table)
    rows = table.select([f"seconds_{stage}" for stage in loads]).to_pylist()
    through = [row for row in rows if None not in row.values()]
    if not through:
        failure = next((f": {why}" for why in table["error_message"].to_pylist() if why), "")
        raise ValueError(f"none of the images that were tried came through all stages{failure}")
    return {stage: statistics.median(row[f"seconds_{stage}"] for row in through) for stage in loads}
