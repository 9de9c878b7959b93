"""Distributes the windows of a pass to the training workers.

Without torch, like the tasks that cut the windows: with it, each would take three seconds longer to start.
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
"""CPUs of a task that cuts windows: between two blocks it waits 0.2 s for Ray Data, so two tasks fill a CPU."""


@ray.remote(num_cpus=0, max_restarts=-1)
class Sharder:
    """Makes the data set of each pass and splits it among the workers.

    Ray Train's own data sets run the same plan each epoch; these can start at any epoch and position. The plan runs
    in an actor that Ray Data starts, not in a training process.
    """

    def __init__(self, config: TrainConfig, stage: TrainingStage) -> None:
        self._config, self._stage = config, stage
        self._dealt: dict[str, tuple[str, list[ray.data.DataIterator]]] = {}

    def share(self, call: str, split: str, epoch: int, seen: int, rank: int, nodes: list[str]) -> ray.data.DataIterator:
        """A worker's share of a pass; all shares have the same number of packs (`training.windows.packing`).

        Args:
            call: equal for all workers that share a pass, and different for every pass.
            split: `train` or `val`.
            epoch: number of the epoch.
            seen: examples of the epoch that were shown before.
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
    """Windows of an index in packs; each image is decoded once per pass.

    Args:
        config: the settings.
        stage: 1 or 2.
        split: `train`: an epoch in its own order, from the example `seen` on; `val`: the first windows of the index.
        epoch: number of the epoch (`train` only).
        seen: examples of it that were shown before (`train` only).
        workers: how many workers share them.
    """
    index = read_index(index_uri(config.training_set, stage, split))
    if split == "val":  # one window per pack, so that shares differ by at most one
        rows = ray.data.from_arrow(blocks(first_rows(index, config.val_windows)))
        return cut_windows(rows, stage, 1).limit(config.val_windows)
    left = epoch_rows(index, seed=config.seed, epoch=epoch, seen=seen)
    return cut_windows(ray.data.from_arrow(blocks(left)), stage, pack_size(examples_of(left), workers))


def cut_windows(rows: ray.data.Dataset, stage: TrainingStage, size: int) -> ray.data.Dataset:
    """The windows of rows of an index as packs, see `windows.packing.packs_of_rows`; each block of rows is one task.

    Args:
        rows: rows of the index.
        stage: 1 or 2.
        size: examples of a pack, repeats counted.
    """
    cut = partial(packs_of_rows, stage=stage, size=size)
    return rows.map_batches(cut, batch_size=None, batch_format="pyarrow", num_cpus=CUT_CPUS)
