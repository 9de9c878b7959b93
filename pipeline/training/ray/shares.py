"""A training worker's share of a pass, as batches."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, takewhile
from typing import Any
from uuid import uuid4

import ray
import ray.train
import torch.distributed as dist
from ray.train.collective import broadcast_from_rank_zero

from pipeline.training.loop.steps import Batch, as_batch
from pipeline.training.windows.cut import Window
from pipeline.training.windows.packing import Windows, batches_in_order, mixed_batches, windows_of_packs


def my_share(sharder: Any, split: str, *, epoch: int = 0, seen: int = 0) -> ray.data.DataIterator:
    """This worker's share of a pass; all workers must call it. A second iteration gives the same windows.

    Args:
        sharder: the handle of a `sharder.Sharder` actor.
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
    share: ray.data.DataIterator = ray.get(sharder.share.remote(call, split, epoch, seen, rank, nodes))
    return share


def training_batches(share: ray.data.DataIterator, batch_size: int, pool: int, seed: int) -> Iterator[Batch]:
    """Whole batches of a share, drawn at random; the next one is made while one is in use.

    Args:
        share: of packs.
        batch_size: examples of this worker in each batch.
        pool: windows to draw from at a time.
        seed: seed of the draws.
    """
    batches = mixed_batches(windows_of_share(share), batch_size, pool, seed)
    return map(as_batch, _one_ahead(takewhile(lambda windows: len(windows[0]) == batch_size, batches)))


def validation_batches(share: ray.data.DataIterator, batch_size: int) -> Iterator[Batch]:
    """All of a share in batches; the last may be smaller."""
    return map(as_batch, batches_in_order(windows_of_share(share), batch_size))


def windows_of_share(share: ray.data.DataIterator) -> Iterator[Window]:
    """All windows of a share of packs, in the order in which they come."""
    tables = share.iter_batches(batch_size=None, batch_format="pyarrow")  # type: ignore[arg-type]  # as they come
    return chain.from_iterable(map(windows_of_packs, tables))


def _one_ahead(batches: Iterator[Windows]) -> Iterator[Windows]:
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch
