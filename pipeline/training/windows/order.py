"""Which images an epoch shows, in which order, and what is left of it after a stop."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.training.seeds import seed_of

IMAGES_A_BLOCK = 16
"""Images that a task cuts into windows. Small, so that blocks are used up nearly in order: what an epoch has shown is
then the first part of its order, give or take the blocks in work."""


def examples_of(index: pa.Table) -> int:
    """Examples that an epoch over an index shows: its windows, repeats counted."""
    return int(pc.sum(pc.list_flatten(index["repeats"])).as_py() or 0)


def epoch_rows(index: pa.Table, *, seed: int, epoch: int, seen: int) -> pa.Table:
    """The rows of an index in the order of an epoch, without those whose examples were seen.

    The order is a permutation that follows from seed and epoch. The first rows whose examples add up to no more than
    `seen` are left out; nothing of them has to be read.
    """
    order = np.random.default_rng(seed_of(seed, epoch)).permutation(len(index))
    rows = index.take(order)
    examples = np.cumsum(pc.list_flatten(rows["repeats"]).to_numpy())
    ends = examples[_last_windows(rows)]
    return rows.slice(int(np.searchsorted(ends, seen, side="right")))


def first_rows(index: pa.Table, windows: int) -> pa.Table:
    """The first rows of an index that have so many windows together, if there are so many."""
    return index.slice(0, int(np.searchsorted(_last_windows(index) + 1, windows)) + 1)


def blocks(rows: pa.Table) -> list[pa.Table]:
    """Rows in pieces of `IMAGES_A_BLOCK`, at least one, each with its own memory."""
    starts = range(0, max(len(rows), 1), IMAGES_A_BLOCK)
    return [rows.slice(start, IMAGES_A_BLOCK).combine_chunks() for start in starts]


def _last_windows(rows: pa.Table) -> NDArray[np.integer]:
    """Number of each row's last window, counted over all rows; a row has at least one."""
    return np.cumsum(pc.list_value_length(rows["repeats"]).to_numpy()) - 1
