"""Loss and confusion of the network on a pass over windows, counted over all workers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import TrainingError
from pipeline.evaluation.metrics import mean_iou, per_class_iou, pixel_accuracy
from pipeline.imaging.classes import VOID
from pipeline.models.checkpoint import Preprocessing

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all workers, in place; the identity with one worker."""


@dataclass(frozen=True)
class Metrics:
    """Figures of an epoch. Accuracies are fractions of the labelled pixels, void left out."""

    crops: int
    loss: float
    pixel_accuracy: float
    mean_iou: float
    iou: list[float | None]
    """Of each class; None for one that neither occurs nor was found."""


@dataclass(frozen=True)
class Feed:
    """What training and validation share: the network's input, its precision, and the other workers."""

    preprocessing: Preprocessing
    num_classes: int
    autocast: torch.dtype | None = None
    """The lower precision of the network's arithmetic; None: float32."""
    rank: int = 0
    """Number of this worker."""
    workers: int = 1
    reduce: Reduce = lambda tensor: tensor


def window_loss(scores_NCHW: Tensor, labels_NHW: Tensor) -> Tensor:
    """Softmax cross-entropy, the mean over labelled pixels, in float32 at least; label 255 is ignored.

    It is 0 if every pixel is void.
    """
    scores_NCHW = scores_NCHW.to(torch.promote_types(scores_NCHW.dtype, torch.float32))
    total = F.cross_entropy(scores_NCHW, labels_NHW.long(), ignore_index=VOID, reduction="sum")
    return total / (labels_NHW != VOID).sum().clamp(min=1)


class Meter:
    """Runs the network on crops, and counts loss and confusion.

    Args:
        net: the network; the counts are kept on its device.
        feed: how it is fed.
        counted: `totals` of an earlier process, if it counted the first part of the pass.
    """

    def __init__(self, net: nn.Module, feed: Feed, counted: dict[str, Any] | None = None) -> None:
        self._feed = feed
        self._device = next(net.parameters()).device
        self._confusion = torch.zeros(feed.num_classes, feed.num_classes, dtype=torch.int64, device=self._device)
        self._loss_and_crops = torch.zeros(2, dtype=torch.float64, device=self._device)
        if counted is not None and feed.rank == 0:  # it is the sum over all workers
            self._confusion += self._confusion.new_tensor(counted["confusion"])
            self._loss_and_crops += self._loss_and_crops.new_tensor(counted["loss_and_crops"])

    def count(self, net: nn.Module, crops_N3HW: Tensor, labels_NHW: Tensor) -> Tensor:
        """Mean loss of some crops, which are added to the counts.

        Args:
            net: the network, or DistributedDataParallel around it.
            crops_N3HW: RGB, uint8.
            labels_NHW: uint8, 255 for void.
        """
        labels_NHW = labels_NHW.to(self._device)
        crops_N3HW = crops_N3HW.to(self._device, memory_format=torch.channels_last)
        autocast = self._feed.autocast
        with torch.autocast(self._device.type, dtype=autocast, enabled=autocast is not None):
            scores_NCHW = net(self._feed.preprocessing(crops_N3HW))
        loss = window_loss(scores_NCHW, labels_NHW)
        crops = len(crops_N3HW)
        self._loss_and_crops += torch.stack([loss.detach().double() * crops, loss.new_tensor(crops).double()])
        self._confusion += confusion_of(scores_NCHW.detach(), labels_NHW)
        return loss

    def reset(self) -> None:
        """Start counting from 0 again."""
        self._confusion.zero_()
        self._loss_and_crops.zero_()

    def totals(self) -> dict[str, Any]:
        """The counts over all workers, as JSON values; all workers must call it."""
        return {
            "loss_and_crops": self._feed.reduce(self._loss_and_crops.clone()).tolist(),
            "confusion": self._feed.reduce(self._confusion.clone()).tolist(),
        }

    def metrics(self) -> Metrics:
        """The figures over all workers; all workers must call it.

        Raises:
            TrainingError: nothing was counted, or the loss is not a finite number.
        """
        loss, crops = self._feed.reduce(self._loss_and_crops.clone()).tolist()
        if crops == 0:
            raise TrainingError("no examples: the training set is empty, or smaller than one batch")
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss}; lower the learning rate")
        confusion = self._feed.reduce(self._confusion.clone()).cpu().numpy()
        return Metrics(
            crops=int(crops),
            loss=loss / crops,
            pixel_accuracy=pixel_accuracy(confusion),
            mean_iou=mean_iou(confusion),
            iou=[None if math.isnan(iou) else float(iou) for iou in per_class_iou(confusion)],
        )


def confusion_of(scores_NCHW: Tensor, labels_NHW: Tensor) -> Tensor:
    """Confusion matrix int64 `[C, C]` of arg-max labels, truth in rows, void left out."""
    num_classes = scores_NCHW.shape[1]
    known = labels_NHW != VOID
    predicted_NHW = scores_NCHW.permute(0, 2, 3, 1).contiguous().argmax(-1)  # 10 times faster on CPUs
    pairs = labels_NHW[known].long() * num_classes + predicted_NHW[known]
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)
