"""The decode stage: read an image and scale it to working size. No torch here."""

from __future__ import annotations

from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.config import DecodeConfig
from pipeline.imaging.images import decode_image, working_size
from pipeline.stages import rows as r
from pipeline.stages.load import Process
from pipeline.stages.rows import Row, Work, pack


def load(process: Process) -> Work:
    """`decode_stage` with the run's settings."""
    return partial(decode_stage, config=process.config.decode)


def decode_stage(table: pa.Table, config: DecodeConfig) -> pa.Table:
    """Read each image and scale it to working size.

    Raises:
        StoreAwayError: the images' store gives no answer.
    """

    def work(row: Row) -> None:
        image_HW3 = decode_image(storage.read_image(row["uri"]), config.max_megapixels)
        row.update(image_columns(image_HW3, config))

    return r.run_rows(table, "decode", work)


def image_columns(image_HW3: NDArray[np.uint8], config: DecodeConfig) -> Row:
    """The columns of a row that hold its image, RGB uint8 `[H, W, 3]`, at working size."""
    working_HW3 = working_size(image_HW3, config.max_side)
    height, width = image_HW3.shape[:2]
    work_height, work_width = working_HW3.shape[:2]
    return {
        "height": height, "width": width, "work_height": work_height, "work_width": work_width,
        "image": pack(working_HW3),
    }  # fmt: skip
