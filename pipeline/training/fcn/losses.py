"""The loss of the FCN's training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.imaging.classes import VOID

JACCARD = 0.5
"""Weight of `jaccard` relative to cross-entropy."""


def loss_of(scores_NChw: Tensor, labels_NHW: Tensor, phase: int) -> Tensor:
    """Cross-entropy at half of the labels' resolution and the Jaccard loss at the scores' own.

    With cross-entropy alone, the network never predicts a class of few and small objects: it only costs a few pixels.

    Args:
        scores_NChw: scores before softmax at a quarter of the labels' resolution.
        labels_NHW: int64; `VOID` does not count.
        phase: 0 or 1, alternating: which of every two pixels counts. Only one of them would teach maps that are
            shifted by half a pixel.
    """
    half_NHW = labels_NHW[:, phase::2, phase::2]
    scores_NCHW = F.interpolate(scores_NChw, half_NHW.shape[1:], mode="bilinear", align_corners=False)
    # Divided by at least 1: a batch of only void pixels has loss 0, not 0 / 0.
    entropy = F.cross_entropy(scores_NCHW, half_NHW, ignore_index=VOID, reduction="sum")
    entropy = entropy / (half_NHW != VOID).sum().clamp(min=1)
    return entropy + JACCARD * jaccard(scores_NChw.softmax(dim=1), labels_NHW[:, 1 + phase :: 4, 1 + phase :: 4])


def jaccard(probabilities_NCHW: Tensor, labels_NHW: Tensor) -> Tensor:
    """Lovász extension of 1 - IoU (Berman et al., CVPR 2018), mean over the classes in the labels; 0 without labels."""
    counts_P = labels_NHW.flatten() != VOID
    labels_P = labels_NHW.flatten()[counts_P]
    probabilities_CP = probabilities_NCHW.transpose(0, 1).flatten(1)[:, counts_P]
    losses = []
    for label in labels_P.unique().tolist():
        is_P = (labels_P == label).float()
        errors_P, order_P = (is_P - probabilities_CP[label]).abs().sort(descending=True)
        is_P = is_P[order_P]
        missed_P = is_P.sum() - is_P.cumsum(0)
        loss_P = 1 - missed_P / (is_P.sum() + (1 - is_P).cumsum(0))
        losses.append(errors_P @ torch.diff(loss_P, prepend=loss_P.new_zeros(1)))
    return torch.stack(losses).mean() if losses else probabilities_NCHW.sum() * 0
