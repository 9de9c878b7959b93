"""Dealing the windows of a pass out to the training workers.

Needs no torch, as the tasks that cut the windows need none: each would take three seconds more to start.
"""

from __future__ import annotations

from functools import partial

import ray

from pipeline.config import TrainConfig
from pipeline.config.training import TrainingStage
from pipeline.training.windows.index import index_uri, read_index
from pipeline.training.windows.order import blocks, epoch_rows, examples_of, first_rows
from pipeline.training.windows.packing import pack_size, packs_of_rows

CUT_CPUS = 0.5
"""Of a task that cuts windows: from one block to the next it waits for Ray Data, 0.2 s each time; two fill a CPU."""


@ray.remote(num_cpus=0, max_restarts=-1)
class Sharder:
    """Makes the data set of each pass and splits it among the workers.

    Ray Train's own data sets run the same plan again each epoch; these start at any epoch and position. The plan runs
    beside the workers, in an actor that Ray Data starts, and not in a training process.
    """

    def __init__(self, config: TrainConfig, stage: TrainingStage) -> None:
        self._config, self._stage = config, stage
        self._dealt: dict[str, tuple[str, list[ray.data.DataIterator]]] = {}

    def share(self, call: str, split: str, epoch: int, seen: int, rank: int, nodes: list[str]) -> ray.data.DataIterator:
        """A worker's share of a pass, of as many packs (`training.packs`) as the others'.

        Args:
            call: the same for all workers that share a pass, and another for every pass.
            split: `train` or `val`.
            epoch: number of the epoch.
            seen: examples of it that were shown before.
            rank: number of the worker.
            nodes: ids of the machines of all workers; windows made there stay there if they can.
        """
        if self._dealt.get(split, ("", []))[0] != call:
            ray.data.DataContext.get_current().enable_progress_bars = False
            packs = _packs(self._config, self._stage, split, epoch, seen, len(nodes))
            self._dealt[split] = call, packs.streaming_split(len(nodes), equal=True, locality_hints=nodes)
        return self._dealt[split][1][rank]


def _packs(
    config: TrainConfig, stage: TrainingStage, split: str, epoch: int, seen: int, workers: int
) -> ray.data.Dataset:
    """Windows of an index in packs, each image decoded once a pass.

    Args:
        config: the settings.
        stage: 1 or 2.
        split: `train`: an epoch in its own order, from the example `seen` on; `val`: the first windows of the index.
        epoch: number of the epoch (`train` only).
        seen: examples of it that were shown before (`train` only).
        workers: that share them.
    """
    index = read_index(index_uri(config.training_set, stage, split))
    if split == "val":  # a window a pack: shares differ by one at most
        rows = ray.data.from_arrow(blocks(first_rows(index, config.val_windows)))
        return cut_windows(rows, stage, 1).limit(config.val_windows)
    left = epoch_rows(index, seed=config.seed, epoch=epoch, seen=seen)
    return cut_windows(ray.data.from_arrow(blocks(left)), stage, pack_size(examples_of(left), workers))


def cut_windows(rows: ray.data.Dataset, stage: TrainingStage, size: int) -> ray.data.Dataset:
    """The windows of rows of an index as packs, see `packs.packs_of_rows`; a block of rows is a task."""
    cut = partial(packs_of_rows, stage=stage, size=size)
    return rows.map_batches(cut, batch_size=None, batch_format="pyarrow", num_cpus=CUT_CPUS)
