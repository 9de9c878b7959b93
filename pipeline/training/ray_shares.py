"""Dealing the windows of a pass out to the training workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import ray
import ray.train
import torch.distributed as dist
from ray.train.collective import broadcast_from_rank_zero
from torch import Tensor

from pipeline.training.steps import Batch

Windows = Callable[[str, int, int], ray.data.Dataset]
"""Makes the windows of a pass: split, epoch, examples seen of it."""


@ray.remote(num_cpus=0, max_restarts=-1)
class Dealer:
    """Makes the data set of each pass and splits it among the workers.

    Ray Train's own data sets run the same plan again each epoch; these start at any epoch and position. The plan runs
    beside the workers, in an actor that Ray Data starts, and not in a training process.
    """

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self._dealt: dict[str, tuple[str, list[ray.data.DataIterator]]] = {}

    def share(self, call: str, split: str, epoch: int, seen: int, rank: int, nodes: list[str]) -> ray.data.DataIterator:
        """A worker's share of a pass, of the same number of windows as the others'.

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
            windows = self._windows(split, epoch, seen)
            self._dealt[split] = call, windows.streaming_split(len(nodes), equal=True, locality_hints=nodes)
        return self._dealt[split][1][rank]


def my_share(dealer: Any, split: str, *, epoch: int = 0, seen: int = 0) -> ray.data.DataIterator:
    """This worker's share of a pass; every worker must ask. Gone through again, it shows the same windows.

    Args:
        dealer: a handle of a `Dealer`.
        split: `train` or `val`.
        epoch: number of the epoch.
        seen: examples of it that were shown before.
    """
    context = ray.train.get_context()
    rank = context.get_world_rank()
    call = broadcast_from_rank_zero(uuid4().hex if rank == 0 else None)
    nodes = [ray.get_runtime_context().get_node_id()]
    if dist.is_initialized():
        nodes = nodes * context.get_world_size()
        dist.all_gather_object(nodes, ray.get_runtime_context().get_node_id())
    share: ray.data.DataIterator = ray.get(dealer.share.remote(call, split, epoch, seen, rank, nodes))
    return share


def training_batches(share: ray.data.DataIterator, batch_size: int, shuffle: int, seed: int) -> Iterator[Batch]:
    """Whole batches of a share, drawn at random from `shuffle` windows at a time."""
    batches = share.iter_torch_batches(
        batch_size=batch_size, drop_last=True, device="cpu",
        local_shuffle_buffer_size=shuffle, local_shuffle_seed=seed,
    )  # fmt: skip
    return map(_as_batch, batches)


def validation_batches(share: ray.data.DataIterator, batch_size: int) -> Iterator[Batch]:
    """All of a share in batches; the last may be smaller."""
    return map(_as_batch, share.iter_torch_batches(batch_size=batch_size, device="cpu"))


def _as_batch(columns: dict[str, Tensor]) -> Batch:
    return columns["window"].permute(0, 3, 1, 2), columns["label"]
