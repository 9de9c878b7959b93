"""The filter stage: which images are worth segmenting. No torch here."""

from __future__ import annotations

from functools import partial

import pyarrow as pa

from pipeline.config import FilterConfig
from pipeline.stages import rows as r
from pipeline.stages.load import Process
from pipeline.stages.rows import Row, Work


def load(process: Process) -> Work:
    """`filter_stage` with the run's settings."""
    return partial(filter_stage, config=process.config.filter)


def filter_stage(table: pa.Table, config: FilterConfig) -> pa.Table:
    """Skip the images that have too few pixels at their original size."""

    def work(row: Row) -> None:
        height, width = row["height"], row["width"]
        if height * width < config.min_pixels:
            r.skip(row, "filter", f"{height} x {width} pixels, fewer than --min-pixels {config.min_pixels}")

    return r.run_rows(table, "filter", work)
