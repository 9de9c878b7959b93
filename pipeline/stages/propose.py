"""The propose stage: object proposals of an image. No torch here."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa

from pipeline.config import ProposeConfig
from pipeline.outputs.schema import OK
from pipeline.proposals.edgeboxes import Proposals, choose, propose
from pipeline.proposals.given import are_windows, given_proposals
from pipeline.stages import rows as r
from pipeline.stages.load import Process
from pipeline.stages.rows import Row, Work, pack

NO_BOXES = np.zeros((0, 4), np.float32)


def load(process: Process) -> Work:
    """`propose_stage` with the run's settings."""
    return partial(propose_stage, config=process.config.propose)


def propose_stage(table: pa.Table, config: ProposeConfig) -> pa.Table:
    """Add to each image its object proposals; none if the settings ask for none."""
    given = _given(table, config.proposals_from) if config.proposals_from is not None else {}

    def work(row: Row) -> None:
        if config.proposals == 0:
            boxes_N4 = NO_BOXES
        elif config.proposals_from is None:
            boxes_N4 = propose(r.image_of(row), config).boxes_N4
        else:
            boxes_N4 = _chosen(given[row["image_id"]], row, config).boxes_N4
        row["boxes"] = pack(boxes_N4)
        row["num_proposals"] = len(boxes_N4)

    return r.run_rows(table, "propose", work)


def _given(table: pa.Table, uri: str) -> dict[str, Proposals | Exception]:
    """The proposals from files for all images of the table, read at once."""
    columns = table.select(["image_id", "height", "width", "status"]).to_pylist()
    good = [row for row in columns if row["status"] == OK]
    ids = [row["image_id"] for row in good]
    return dict(zip(ids, given_proposals(uri, ids, [(row["height"], row["width"]) for row in good]), strict=True))


def _chosen(found: Proposals | Exception, row: Row, config: ProposeConfig) -> Proposals:
    """The windows that the network sees, in pixels at working size."""
    if isinstance(found, Exception):
        raise found
    height, width = row["work_height"], row["work_width"]
    scale = (width / row["width"], height / row["height"])
    scaled = replace(found, boxes_N4=(found.boxes_N4 * (scale * 2)).astype("float32"))
    if config.proposals_from is not None and are_windows(config.proposals_from):
        config = replace(config, extend=1.0, window_shape="box", min_side_of="shorter")
    return choose(scaled, height, width, config)
