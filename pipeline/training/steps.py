"""One epoch of training and of validation: plain torch, no Ray (paper sections 4 and 6)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.classes import VOID
from pipeline.evaluation import mean_iou, pixel_accuracy
from pipeline.geometry import CROP, MAX_OFFSET
from pipeline.models.weights import Preprocessing

Batch = tuple[Tensor, Tensor]
"""Windows uint8 `[N, 3, 250, 250]` and their labels uint8 `[N, 250, 250]` (255 is void)."""


Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all workers; the identity for one."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why."""


@dataclass(frozen=True)
class Metrics:
    """What an epoch gave. Accuracies are fractions of the labelled pixels, void left out."""

    crops: int
    loss: float
    pixel_accuracy: float
    mean_iou: float


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


def window_loss(scores_NCHW: Tensor, labels_NHW: Tensor) -> Tensor:
    """Softmax cross-entropy, the mean over labelled pixels; label 255 is ignored (0 where every pixel is void)."""
    total = F.cross_entropy(scores_NCHW.float(), labels_NHW.long(), ignore_index=VOID, reduction="sum")
    return total / (labels_NHW != VOID).sum().clamp(min=1)


def make_optimizer(net: nn.Module, learning_rate: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """SGD with momentum and weight decay on every parameter (section 6)."""
    return torch.optim.SGD(net.parameters(), lr=learning_rate, momentum=momentum, weight_decay=weight_decay)


def make_schedule(optimizer: torch.optim.SGD, patience: int) -> torch.optim.lr_scheduler.ReduceLROnPlateau:
    """Learning rate divided by 10 when validation accuracy stops improving (section 6); step it with that accuracy."""
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.1, patience=patience)


def micro_batches(batch: Batch, size: int) -> Iterator[tuple[Batch, bool]]:
    """A batch in pieces of at most `size` examples, each with whether it is the last."""
    examples = len(batch[0])
    for start in range(0, examples, size):
        end = start + size
        yield (batch[0][start:end], batch[1][start:end]), end >= examples


@dataclass(frozen=True)
class Feed:
    """What training and validation have in common."""

    preprocessing: Preprocessing
    num_classes: int
    autocast: torch.dtype | None = None
    """Lower precision of the network's arithmetic, or None for float32."""
    reduce: Reduce = lambda tensor: tensor


def train_epoch(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    *,
    feed: Feed,
    micro_batch: int,
    generator: torch.Generator,
) -> Metrics:
    """One pass over the training windows; a step for each element of `batches`.

    A batch goes through the network in micro-batches whose gradients add up, so that memory does not set the batch.

    Raises:
        TrainingError: the loss is no longer a finite number, or there was no batch.
    """
    net.train()
    tally = _Tally(net, feed)
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        for windows, last in micro_batches(batch, micro_batch):
            # Workers exchange gradients once a step, with its last micro-batch.
            with nullcontext() if last else _without_exchange(net):
                loss = tally.count(net, *random_crops(windows, generator))
                (loss * (len(windows[0]) / len(batch[0]))).backward()
        optimizer.step()
    return tally.metrics()


@torch.inference_mode()
def validate(net: nn.Module, batches: Iterable[Batch], *, feed: Feed) -> Metrics:
    """Loss, pixel accuracy and mean IoU over the central crops of validation windows."""
    net.eval()
    tally = _Tally(net, feed)
    for batch in batches:
        tally.count(net, *central_crops(batch))
    return tally.metrics()


def _without_exchange(net: nn.Module) -> AbstractContextManager[None]:
    return net.no_sync() if isinstance(net, DistributedDataParallel) else nullcontext()


class _Tally:
    """Runs the network on crops and keeps count of loss and confusion."""

    def __init__(self, net: nn.Module, feed: Feed) -> None:
        self._feed = feed
        self._device = next(net.parameters()).device
        self._confusion = torch.zeros(feed.num_classes, feed.num_classes, dtype=torch.int64, device=self._device)
        self._loss_and_crops = torch.zeros(2, dtype=torch.float64, device=self._device)

    def count(self, net: nn.Module, crops_N3HW: Tensor, labels_NHW: Tensor) -> Tensor:
        labels_NHW = labels_NHW.to(self._device)
        crops_N3HW = crops_N3HW.to(self._device, memory_format=torch.channels_last)
        autocast = self._feed.autocast
        with torch.autocast(self._device.type, dtype=autocast, enabled=autocast is not None):
            scores_NCHW = net(self._feed.preprocessing(crops_N3HW))
        loss = window_loss(scores_NCHW, labels_NHW)
        if not math.isfinite(loss.item()):
            raise TrainingError("the loss is not finite any more; lower the learning rate and start from a checkpoint")
        crops = len(crops_N3HW)
        self._loss_and_crops += torch.tensor([loss.item() * crops, crops], dtype=torch.float64, device=self._device)
        self._confusion += confusion_of(scores_NCHW.detach(), labels_NHW)
        return loss

    def metrics(self) -> Metrics:
        loss, crops = self._feed.reduce(self._loss_and_crops).tolist()
        if crops == 0:
            raise TrainingError("no examples: the training set is empty, or smaller than one batch a worker")
        confusion = self._feed.reduce(self._confusion).cpu().numpy()
        return Metrics(
            crops=int(crops),
            loss=loss / crops,
            pixel_accuracy=pixel_accuracy(confusion),
            mean_iou=mean_iou(confusion),
        )


def confusion_of(scores_NCHW: Tensor, labels_NHW: Tensor) -> Tensor:
    """Confusion matrix int64 `[C, C]` of arg-max labels, truth in rows, void left out."""
    num_classes = scores_NCHW.shape[1]
    known = labels_NHW != VOID
    predicted_NHW = scores_NCHW.permute(0, 2, 3, 1).contiguous().argmax(-1)  # over neighbours: 10 times faster on CPUs
    pairs = labels_NHW[known].long() * num_classes + predicted_NHW[known]
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)
