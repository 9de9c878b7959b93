"""Which classes go on to the CRF: its time and the rows' size grow with each. In torch, to run on the device."""

from __future__ import annotations

from torch import Tensor


def keep_labels(probabilities_CHW: Tensor, evidence_HW: Tensor, threshold: float) -> Tensor:
    """Class ids to hand to the CRF: those whose probability reaches `threshold` on some pixel with evidence.

    Where no proposal scored above zero, all scores are 0 and the softmax is uniform, 1/C for every class. That is no
    evidence for any class, yet could reach the threshold (1/21 > 0.01) for all. So such pixels do not count.

    Args:
        probabilities_CHW: floating point, 0..1, background first.
        evidence_HW: bool, True where some proposal scored above zero.
        threshold: 0..1; 0 keeps every class.

    Returns:
        int64 `[K]`, ascending, on the same device; background (0) is always among them.
    """
    keep_C = probabilities_CHW.masked_fill(~evidence_HW, 0).amax(dim=(1, 2)) >= threshold
    keep_C[0] = True
    return keep_C.nonzero().squeeze(1)
