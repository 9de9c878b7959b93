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

    Args:
        images: `image_id` and `uri` of at least two images.
        loads: the stages.

    Returns:
        Seconds by the name of the stage.

    Raises:
        ValueError: no image came through all stages.
    """
    functions = [load() for load in loads.values()]
    seconds: dict[str, list[float]] = {stage: [] for stage in loads}
    through, failure = 0, ""
    for number in range(len(images)):
        table = start_rows(images.slice(number, 1))
        for function in functions:
            table = function(table)
        (row,) = table.select([f"seconds_{stage}" for stage in loads]).to_pylist()
        failure = next((f": {why}" for why in table["error_message"].to_pylist() if why), failure)
        if number > 0 and None not in row.values():
            through += 1
            for stage in loads:
                seconds[stage].append(row[f"seconds_{stage}"])
    if not through:
        raise ValueError(f"none of the images that were tried came through all stages{failure}")
    return {stage: statistics.median(values) for stage, values in seconds.items()}
