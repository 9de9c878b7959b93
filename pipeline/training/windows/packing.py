"""Training windows on their way to the trainer: each is sent once, with its number of repeats, and mixed there.

A window has 250 KB, so copying its repeats from process to process would cost more than cutting it. Windows travel in
packs of equally many examples, so that workers with equally many packs get equally many examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config.training import TrainingStage
from pipeline.imaging.geometry import RESIZED
from pipeline.training.windows.cut import Window, windows_of_rows

PACK_SCHEMA = pa.schema(
    [
        pa.field("images", pa.binary(), nullable=False),
        pa.field("labels", pa.binary(), nullable=False),
        pa.field("repeats", pa.list_(pa.int32()), nullable=False),
    ]
)
"""One row is one pack of N windows: the bytes of uint8 `[N, 250, 250, 3]` and `[N, 250, 250]`, and N counts."""

Windows = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Windows `[N, 250, 250, 3]` and their labels `[N, 250, 250]`."""
LARGEST = 64
"""Most examples in a pack: 16 MB if no window repeats."""
PARCELS_A_WORKER = 64
"""Fewest packs per worker in a pass, if there are enough examples; workers may differ by one pack."""
POOL = 1024
"""Windows that a trainer draws its batches from: 256 MB."""
TABLE = 64
"""Windows in one table: Ray Data's overhead is per table."""


def pack_size(examples: int, workers: int) -> int:
    """Examples in each pack, if `examples` are distributed to `workers`."""
    return min(LARGEST, max(1, examples // (workers * PARCELS_A_WORKER)))


def packs_of_rows(rows: pa.Table, stage: TrainingStage, size: int) -> Iterator[pa.Table]:
    """The windows of some images, in packs of `size` examples; the last pack may hold fewer.

    Args:
        rows: rows of an index (`training.windows.index`).
        stage: its label rule applies, see `windows.cut.windows_of_row`.
        size: examples of a pack, repeats counted.

    Yields:
        Tables of `PACK_SCHEMA`, of one pack or more.
    """
    waiting: list[list[Window]] = []
    for pack in _packed(windows_of_rows(rows.to_pylist(), stage), size):
        waiting.append(pack)
        if sum(map(len, waiting)) >= TABLE:
            yield _table(waiting)
            waiting = []
    if waiting:
        yield _table(waiting)


def _packed(windows: Iterable[Window], size: int) -> Iterator[list[Window]]:
    pack: list[Window] = []
    room = size
    for window in windows:
        left = window.repeats
        while left:
            shown = min(left, room)
            pack.append(window._replace(repeats=shown))
            left, room = left - shown, room - shown
            if not room:
                yield pack
                pack, room = [], size
    if pack:
        yield pack


def _table(packs: Sequence[Sequence[Window]]) -> pa.Table:
    windows = [window for pack in packs for window in pack]
    starts = np.cumsum([0, *map(len, packs)], dtype=np.int32)
    columns = [
        _binary(np.stack([window.image_HW3 for window in windows]), starts),
        _binary(np.stack([window.label_HW for window in windows]), starts),
        pa.ListArray.from_arrays(starts, pa.array([window.repeats for window in windows], pa.int32())),
    ]
    return pa.Table.from_arrays(columns, schema=PACK_SCHEMA)


def _binary(pixels: NDArray[np.uint8], starts: NDArray[np.int32]) -> pa.Array:
    """An array as one value per pack, not copied."""
    offsets = starts * np.int32(pixels[0].nbytes)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(pixels)]
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers)


def windows_of_packs(packs: pa.Table) -> Iterator[Window]:
    """The windows of a table of `PACK_SCHEMA`, one by one, not copied."""
    for images, labels, repeats in zip(*packs.columns, strict=True):
        images_NHW3 = np.frombuffer(images.as_buffer(), np.uint8).reshape(-1, RESIZED, RESIZED, 3)
        labels_NHW = np.frombuffer(labels.as_buffer(), np.uint8).reshape(-1, RESIZED, RESIZED)
        yield from map(Window, images_NHW3, labels_NHW, repeats.as_py())


def mixed_batches(windows: Iterable[Window], batch_size: int, pool: int, seed: int) -> Iterator[Windows]:
    """Each window as often as it repeats, in batches drawn at random from a pool; the last batch may be smaller.

    Args:
        windows: in any order.
        batch_size: examples of a batch.
        pool: number of windows to draw from, held in memory (250 KB each) until all their repeats were shown.
        seed: seed of the draws.
    """
    images_PHW3 = np.empty((pool, RESIZED, RESIZED, 3), np.uint8)
    labels_PHW = np.empty((pool, RESIZED, RESIZED), np.uint8)
    left_P = np.zeros(pool, np.int64)
    generator = np.random.default_rng(seed)
    arriving = iter(windows)
    while True:
        free = np.flatnonzero(left_P == 0)
        for place, window in zip(free, arriving, strict=False):
            images_PHW3[place], labels_PHW[place], left_P[place] = window
        examples = np.repeat(np.arange(pool), left_P)
        if not len(examples):
            return
        picked = generator.choice(examples, min(batch_size, len(examples)), replace=False)
        np.subtract.at(left_P, picked, 1)
        yield images_PHW3[picked], labels_PHW[picked]


def batches_in_order(windows: Iterable[Window], batch_size: int) -> Iterator[Windows]:
    """Each window once, in batches; the last may be smaller."""
    arriving = iter(windows)
    while some := list(islice(arriving, batch_size)):
        yield np.stack([one.image_HW3 for one in some]), np.stack([one.label_HW for one in some])
