"""The losses of the light DeconvNet's training."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pipeline.imaging.classes import VOID
from pipeline.training.fcn.losses import JACCARD, jaccard


def loss_of(scores_NChw: Tensor, labels_NHW: Tensor, phase: int) -> Tensor:
    """Cross-entropy and the Jaccard loss (`training.fcn.losses`) against the labels.

    Args:
        scores_NChw: scores before softmax at half of the labels' resolution.
        labels_NHW: int64; `VOID` does not count.
        phase: 0 or 1, alternating: which of every two pixels counts. Only one of them would teach maps that are
            shifted by half a pixel.
    """
    half_Nhw = labels_NHW[:, phase::2, phase::2]
    entropy = F.cross_entropy(scores_NChw, half_Nhw, ignore_index=VOID, reduction="sum")
    entropy = entropy / (half_Nhw != VOID).sum().clamp(min=1)
    coarse = (..., slice(phase, None, 2), slice(phase, None, 2))
    return entropy + JACCARD * jaccard(scores_NChw[coarse].softmax(dim=1), half_Nhw[coarse])


def distance(scores_NChw: Tensor, teacher_NCqq: Tensor) -> Tensor:
    """Kullback-Leibler divergence from the teacher's probabilities, mean over its pixels.

    Args:
        scores_NChw: scores before softmax.
        teacher_NCqq: those of the teacher, at half the resolution.
    """
    own = F.avg_pool2d(scores_NChw, 2).log_softmax(dim=1).transpose(0, 1).flatten(1).t()
    wanted = teacher_NCqq.log_softmax(dim=1).transpose(0, 1).flatten(1).t()
    return F.kl_div(own, wanted, reduction="batchmean", log_target=True)
