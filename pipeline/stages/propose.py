"""The propose stage: object proposals of an image. No torch here."""

from __future__ import annotations

import pyarrow as pa

from pipeline.config import ProposeConfig
from pipeline.proposals.edgeboxes import propose
from pipeline.stages import rows as r
from pipeline.stages.rows import Row, pack


def propose_stage(table: pa.Table, config: ProposeConfig) -> pa.Table:
    """Give each image its object proposals."""

    def work(row: Row) -> None:
        proposals = propose(r.image_of(row), config)
        row["boxes"] = pack(proposals.boxes_N4)
        row["num_proposals"] = len(proposals.boxes_N4)

    return r.run_rows(table, "propose", work)
