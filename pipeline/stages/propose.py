"""The propose stage: object proposals of an image. No torch here."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.config import ProposeConfig
from pipeline.proposals.edgeboxes import propose
from pipeline.stages import rows as r
from pipeline.stages.rows import Row, pack

NO_BOXES = np.zeros((0, 4), np.float32)


def propose_stage(table: pa.Table, config: ProposeConfig) -> pa.Table:
    """Give each image its object proposals; none where the settings ask for none."""

    def work(row: Row) -> None:
        boxes_N4 = NO_BOXES if config.proposals == 0 else propose(r.image_of(row), config).boxes_N4
        row["boxes"] = pack(boxes_N4)
        row["num_proposals"] = len(boxes_N4)

    return r.run_rows(table, "propose", work)
