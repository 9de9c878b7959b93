"""The decode stage: read an image and bring it to working size. No torch here."""

from __future__ import annotations

from functools import partial

import pyarrow as pa

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
    """Read each image and bring it to working size.

    Raises:
        StoreAwayError: the images' store does not answer.
    """

    def work(row: Row) -> None:
        image_HW3 = decode_image(storage.read_image(row["uri"]), config.max_megapixels)
        row["height"], row["width"] = image_HW3.shape[:2]
        working_HW3 = working_size(image_HW3, config.max_side)
        row["work_height"], row["work_width"] = working_HW3.shape[:2]
        row["image"] = pack(working_HW3)

    return r.run_rows(table, "decode", work)
