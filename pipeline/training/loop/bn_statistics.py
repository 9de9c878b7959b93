"""Batch normalisation's statistics over the training set, as the authors' third step computes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from pipeline.training.loop.metrics import Feed
from pipeline.training.loop.steps import Batch, micro_batches, random_crops


def recompute_statistics(net: nn.Module, batches: Iterable[Batch], *, feed: Feed, micro_batch: int, seed: int) -> int:
    """Replace the running means and variances by the mean over the batches, with the current weights.

    Training keeps averages over its last steps, while the weights still change; these are the statistics of the
    network that is exported. Each micro-batch has the same weight; its variance is the unbiased one.

    Args:
        net: changed in place.
        batches: training windows; random crops and flips are applied, as in training.
        feed: how the network is fed.
        micro_batch: windows that go through the network at once.
        seed: seed of crops and flips.

    Returns:
        How many windows there were.
    """
    seen = 0
    device = next(net.parameters()).device
    generator = torch.Generator().manual_seed(seed)

    def inputs() -> Iterator[Tensor]:
        nonlocal seen
        for batch in batches:
            seen += len(batch[0])
            for windows, _ in micro_batches(batch, micro_batch):
                crops_N3HW = random_crops(windows, generator)[0].to(device, memory_format=torch.channels_last)
                yield feed.preprocessing(crops_N3HW)

    with torch.autocast(device.type, dtype=feed.autocast, enabled=feed.autocast is not None):
        update_bn(inputs(), net)
    net.eval()
    return seen
