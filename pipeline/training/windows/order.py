"""Which images an epoch shows, in which order, and which are left after a stop."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.training.seeds import seed_of

IMAGES_A_BLOCK = 16
"""Images that one task cuts into windows. Blocks are small so that they are used nearly in order: the examples shown
so far are then the first part of the epoch's order, except for the blocks in progress."""


def examples_of(index: pa.Table) -> int:
    """Examples that an epoch over an index shows: its windows, repeats counted."""
    return int(pc.sum(pc.list_flatten(index["repeats"])).as_py() or 0)


def epoch_rows(index: pa.Table, *, seed: int, epoch: int, seen: int) -> pa.Table:
    """The rows of an index in the order of an epoch, without those whose examples were seen.

    The order is a permutation that follows from seed and epoch. The first rows whose examples add up to no more than
    `seen` are left out and need not be read.

    Args:
        index: an index (`index.INDEX_SCHEMA`).
        seed: the run's seed.
        epoch: number of the epoch.
        seen: examples of the epoch that were shown before.
    """
    order = np.random.default_rng(seed_of(seed, epoch)).permutation(len(index))
    rows = index.take(order)
    examples = np.cumsum(pc.list_flatten(rows["repeats"]).to_numpy())
    ends = examples[_last_windows(rows)]
    return rows.slice(int(np.searchsorted(ends, seen, side="right")))


def first_rows(index: pa.Table, windows: int) -> pa.Table:
    """The first rows of an index that together have at least `windows` windows; all rows if they have fewer."""
    return index.slice(0, int(np.searchsorted(_last_windows(index) + 1, windows)) + 1)


def blocks(rows: pa.Table) -> list[pa.Table]:
    """Rows in pieces of `IMAGES_A_BLOCK`, at least one piece, each with its own memory."""
    starts = range(0, max(len(rows), 1), IMAGES_A_BLOCK)
    return [rows.slice(start, IMAGES_A_BLOCK).combine_chunks() for start in starts]


def _last_windows(rows: pa.Table) -> NDArray[np.integer]:
    """Number of each row's last window, counted over all rows; a row has at least one."""
    return np.cumsum(pc.list_value_length(rows["repeats"]).to_numpy()) - 1
