"""EDeconvNet: DeconvNet's scores and those of a fully convolutional network, combined (paper section 5)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.config.stages import EnsembleRule
from pipeline.models.members import WholeImageNetwork


def combine(deconvnet_CHW: Tensor, fcn_CHW: Tensor, rule: EnsembleRule, weight: float = 0.5) -> Tensor:
    """A score map whose softmax is the ensemble's probability map.

    `mean` is the paper's rule: the mean of the two probability maps. The scores are logarithms of the probability
    relative to chance, 1/C. So a class is above 0 where it is more likely than chance, and all are 0 where neither
    network has evidence; `inference.labels.keep_labels` relies on that.

    `product` is the release's rule: the product of the two score maps, with the FCN's clamped at 0. With `max`,
    DeconvNet's aggregated scores are 0 or more; where no proposal has evidence, the FCN does not count either.

    Args:
        deconvnet_CHW: aggregated scores before softmax, float32.
        fcn_CHW: scores before softmax, of the same size, classes in the same order.
        rule: how to combine them.
        weight: DeconvNet's weight in the mean, 0..1; 0.5 in the paper.

    Returns:
        float32 `[C, H, W]`.
    """
    if rule == "product":
        return deconvnet_CHW * fcn_CHW.clamp(min=0)
    mean_CHW = weight * deconvnet_CHW.softmax(dim=0) + (1 - weight) * fcn_CHW.softmax(dim=0)
    return (mean_CHW * len(mean_CHW)).log()


@dataclass(frozen=True)
class Ensemble:
    """The other network of an ensemble, and how its scores are used."""

    member: WholeImageNetwork
    rule: EnsembleRule
    weight: float = 0.5
    """DeconvNet's weight in the mean, 0..1."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Ensemble:
        """The same ensemble on a device; see `WholeImageNetwork.to`."""
        return replace(self, member=self.member.to(device, dtype))

    def combine(self, deconvnet_CHW: Tensor, other_CHW: Tensor) -> Tensor:
        """Scores of the ensemble: `combine` with its rule and weight."""
        return combine(deconvnet_CHW, other_CHW, self.rule, self.weight)
