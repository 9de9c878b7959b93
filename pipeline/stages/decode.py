"""The decode stage: read an image and scale it to working size. No torch here."""

from __future__ import annotations

from contextlib import closing
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import DecodeConfig
from pipeline.imaging.images import decode_at_working_size
from pipeline.inputs.reading import read_ahead
from pipeline.outputs.schema import OK
from pipeline.stages import rows as r
from pipeline.stages.load import Process
from pipeline.stages.rows import Row, Work, pack


def load(process: Process) -> Work:
    """`decode_stage` with the run's settings."""
    return partial(decode_stage, config=process.config.decode)


def decode_stage(table: pa.Table, config: DecodeConfig) -> pa.Table:
    """Read each image and scale it to working size; while one is decoded, the next ones are read.

    Raises:
        StoreAwayError: the images' store gives no answer.
    """
    rows = table.select(["uri", "status"]).to_pylist()
    with closing(read_ahead([row["uri"] for row in rows if row["status"] == OK])) as reads:

        def work(row: Row) -> None:
            read = next(reads)
            row.update(image_columns(*decode_at_working_size(read(), config.max_megapixels, config.max_side)))

        return r.run_rows(table, "decode", work)


def image_columns(working_HW3: NDArray[np.uint8], size: tuple[int, int]) -> Row:
    """The columns of a row that hold its image.

    Args:
        working_HW3: at working size, RGB, uint8.
        size: height and width of the whole image, in pixels.
    """
    work_height, work_width = working_HW3.shape[:2]
    return {
        "height": size[0], "width": size[1], "work_height": work_height, "work_width": work_width,
        "image": pack(working_HW3),
    }  # fmt: skip
