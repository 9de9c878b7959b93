"""Steps of SGD, and validation: plain torch, no Ray (paper sections 4 and 6)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import TrainingError
from pipeline.imaging.geometry import CROP, MAX_OFFSET
from pipeline.training.loop.metrics import Feed, Meter, Metrics
from pipeline.training.seeds import seed_of

Batch = tuple[Tensor, Tensor]
"""Windows uint8 `[N, 3, 250, 250]` and their labels uint8 `[N, 250, 250]` (255 is void)."""

EXPLODED = 10.0
"""A loss above this many times ln(classes), the loss of an untrained network, counts as exploded."""
EXPLODED_STEPS = 20


def as_batch(windows: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> Batch:
    """Windows uint8 `[N, 250, 250, 3]` and their labels as tensors that share the memory."""
    images_NHW3, labels_NHW = map(torch.from_numpy, windows)
    return images_NHW3.permute(0, 3, 1, 2), labels_NHW


def random_crops(windows: Batch, generator: torch.Generator) -> Batch:
    """A random 224x224 crop of each 250x250 window, half of them mirrored (section 6); labels likewise."""
    images_NCHW, labels_NHW = windows
    n = len(images_NCHW)
    offsets = torch.randint(0, MAX_OFFSET + 1, (n, 2), generator=generator).tolist()
    flips = (torch.rand(n, generator=generator) < 0.5).tolist()
    crops, labels = [], []
    for i, ((x, y), flip) in enumerate(zip(offsets, flips, strict=True)):
        crop = images_NCHW[i, :, y : y + CROP, x : x + CROP]
        label = labels_NHW[i, y : y + CROP, x : x + CROP]
        crops.append(crop.flip(-1) if flip else crop)
        labels.append(label.flip(-1) if flip else label)
    return torch.stack(crops), torch.stack(labels)


def central_crops(windows: Batch) -> Batch:
    """The central 224x224 of each 250x250 window, as at inference."""
    middle = slice(MAX_OFFSET // 2, MAX_OFFSET // 2 + CROP)
    return windows[0][..., middle, middle], windows[1][..., middle, middle]


def share_of_batch(batch_size: int, rank: int, workers: int) -> int:
    """How many examples of each step a worker gets; over all workers they add up to the batch.

    Args:
        batch_size: examples per step, over all workers.
        rank: number of the worker.
        workers: how many there are.
    """
    return batch_size // workers + (rank < batch_size % workers)


def micro_batches(batch: Batch, size: int) -> Iterator[tuple[Batch, bool]]:
    """A batch in pieces of `size` examples, each with a flag that says whether it is the last.

    A single example that would be left over goes into the piece before: for one crop `fc6` gives a single value per
    channel, which has no variance for batch normalisation.
    """
    examples = len(batch[0])
    start = 0
    for end in (*range(size, examples - 1, size), examples):
        yield (batch[0][start:end], batch[1][start:end]), end == examples
        start = end


class Health:
    """Stops a training that no longer learns; all workers see the same losses and so decide the same."""

    def __init__(self, num_classes: int) -> None:
        self._limit = EXPLODED * math.log(num_classes)
        self._last: deque[float] = deque(maxlen=EXPLODED_STEPS)

    def check(self, loss: float) -> None:
        """Check the loss of a step, before the weights are changed.

        Raises:
            TrainingError: it is not a finite number, or the median of the last steps is above the limit.
        """
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss}; lower the learning rate")
        self._last.append(loss)
        if len(self._last) == EXPLODED_STEPS and median(self._last) > self._limit:
            raise TrainingError(
                f"the loss exploded: half of the last {EXPLODED_STEPS} steps lost more than {self._limit:.1f}, "
                f"{EXPLODED:g} times what a network that knows nothing loses; lower the learning rate"
            )


@dataclass(frozen=True)
class Step:
    """A step that was taken; the same on every worker."""

    examples: int
    """Examples in the step, over all workers."""
    loss: float
    """Their mean loss, before the weights changed."""
    due: bool
    """Whether some worker wants a checkpoint now."""


def train_steps(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    *,
    feed: Feed,
    meter: Meter,
    micro_batch: int,
    seed: tuple[int, ...],
    seen: int = 0,
    due: Callable[[], bool] = lambda: False,
) -> Iterator[Step]:
    """Steps of SGD, one for each element of `batches`, until some worker has none left.

    A batch goes through the network in micro-batches whose gradients add up, so that memory does not limit its size.
    Every example has the same weight in a step, whichever worker has it: N workers take the same step as one worker.
    Crops and flips are drawn for each step from `seed`, position and worker, so a resumed run only has to know its
    position.

    Args:
        net: the network, or DistributedDataParallel around it.
        optimizer: that of its parameters.
        batches: this worker's shares.
        feed: how the network is fed.
        meter: counts loss and confusion.
        micro_batch: examples that go through the network at once.
        seed: numbers that identify the pass, such as run, stage and epoch.
        seen: examples of this pass that all workers together have seen before.
        due: whether this worker wants a checkpoint.

    Raises:
        TrainingError: see `Health`.
    """
    net.train()
    health = Health(feed.num_classes)
    device = next(net.parameters()).device
    mine = iter(batches)
    while True:
        batch = next(mine, None)
        counts = torch.tensor([0 if batch is None else len(batch[0]), batch is None], device=device)
        examples, lacking = feed.reduce(counts).tolist()
        if batch is None or lacking:
            return
        generator = torch.Generator().manual_seed(seed_of(*seed, seen, feed.rank))
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros(2, dtype=torch.float64, device=device)
        for windows, last in micro_batches(batch, micro_batch):
            # Workers exchange gradients once per step, with its last micro-batch, and average them, hence `workers`.
            with nullcontext() if last else _without_exchange(net):
                loss = meter.count(net, *random_crops(windows, generator))
                (loss * (len(windows[0]) * feed.workers / examples)).backward()
            total[0] += loss.detach() * len(windows[0])
        total[1] = float(due())
        loss_sum, wanted = feed.reduce(total).tolist()
        health.check(loss_sum / examples)
        optimizer.step()
        seen += examples
        yield Step(examples, loss_sum / examples, wanted > 0)


@torch.inference_mode()
def validate(net: nn.Module, batches: Iterable[Batch], *, feed: Feed) -> Metrics:
    """Loss, pixel accuracy and mean IoU over the central crops of validation windows.

    Args:
        net: the network itself; with DistributedDataParallel, workers with more batches would wait for the others.
        batches: this worker's share, which may be empty.
        feed: how the network is fed.
    """
    net.eval()
    meter = Meter(net, feed)
    for batch in batches:
        meter.count(net, *central_crops(batch))
    return meter.metrics()


def _without_exchange(net: nn.Module) -> AbstractContextManager[None]:
    return net.no_sync() if isinstance(net, DistributedDataParallel) else nullcontext()
