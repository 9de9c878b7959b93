"""Background's score in the exported network: softmax ignores an offset common to all classes, the maximum does not.

Training sees scores only through a softmax over the classes, so adding the same function to all classes changes
nothing. Aggregation by maximum (equation 1) compares scores of different windows, where such an offset does count. With
the scores as training leaves them, one window out of fifty that is sure of background beats the window that sees the
object.
"""

from __future__ import annotations

import torch

from pipeline.models.deconvnet import DeconvNet

BACKGROUND = 0


@torch.no_grad()
def hold_back_background(net: DeconvNet, share: float) -> None:
    """Subtract a share of the background's score from the scores of all classes, in the last layer's weights.

    The probabilities of each single window stay the same.

    Args:
        net: changed in place.
        share: 0..1. 0 changes nothing; at 1 the background's score is 0 everywhere, and the other scores are log-odds
            against it.
    """
    layer = net.seg_score
    assert layer.bias is not None
    layer.weight -= share * layer.weight[BACKGROUND].clone()
    layer.bias -= share * layer.bias[BACKGROUND].clone()
