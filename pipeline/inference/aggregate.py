"""Combining the score maps of an image's proposals (paper section 5, equations 1 and 2), by one of `RULES`.

On a GPU, `aggregate_gpu` does the same in one kernel, for the rules that it knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config.stages import Aggregation
from pipeline.imaging.geometry import covered_pixels


@dataclass(frozen=True)
class Rule:
    """How overlapping score maps become one.

    Attributes:
        paste: adds a region of a score map, float32 `[C, h, w]`, to the same part of the canvas, in place.
        finish: makes the scores from the canvas `[C, H, W]` and the number of proposals that cover each pixel `[H, W]`.
    """

    paste: Callable[[Tensor, Tensor], object]
    finish: Callable[[Tensor, Tensor], Tensor] = lambda canvas_CHW, _cover_HW: canvas_CHW


RULES: dict[Aggregation, Rule] = {
    "max": Rule(lambda part, region: torch.maximum(part, region, out=part)),
    "sum": Rule(Tensor.add_),
    "average": Rule(Tensor.add_, lambda canvas_CHW, cover_HW: canvas_CHW / cover_HW.clamp(min=1)),
}


class Canvas:
    """The aggregated score map of one image, filled proposal by proposal.

    Every score map counts as zero outside its rectangle, so the canvas starts at zero: with `max`, a score below
    zero never wins (equation 1; the release does the same). `sum` is equation 2: the more proposals cover a pixel, the
    more certain its class. `average` is the sum divided, at each pixel, by the number of proposals that cover it.

    Args:
        num_classes: background included.
        height: the image's at working size, in pixels.
        width: the image's at working size, in pixels.
        aggregation: one of `RULES`.
        device: that of the score maps.
    """

    def __init__(
        self, num_classes: int, height: int, width: int, aggregation: Aggregation, device: torch.device
    ) -> None:
        self._rule = RULES[aggregation]
        self._scores_CHW = torch.zeros(num_classes, height, width, device=device)
        self._cover_HW = torch.zeros(height, width, device=device)

    def paste(self, scores_CSS: Tensor, rectangle_4: NDArray[np.float64]) -> None:
        """Add one proposal's score map `[C, S, S]`, resized bilinearly back to its fed rectangle."""
        height, width = self._scores_CHW.shape[1:]
        r0, r1, c0, c1 = covered_pixels(rectangle_4, height, width)
        if r1 <= r0 or c1 <= c0:
            return
        x0, y0, x1, y1 = (float(v) for v in rectangle_4)
        xs = _places_in_crop(c0, c1, x0, x1, scores_CSS.device)
        ys = _places_in_crop(r0, r1, y0, y1, scores_CSS.device)
        grid_1HW2 = torch.stack([xs.expand(r1 - r0, -1), ys[:, None].expand(-1, c1 - c0)], dim=-1)[None]
        # "border": the map is constant between the centres of the outermost crop pixels and the rectangle's edge.
        region_CHW = F.grid_sample(
            scores_CSS[None].float(), grid_1HW2, mode="bilinear", padding_mode="border", align_corners=False
        )[0]
        self._rule.paste(self._scores_CHW[:, r0:r1, c0:c1], region_CHW)
        self._cover_HW[r0:r1, c0:c1] += 1

    def scores(self) -> Tensor:
        """The aggregated score map, float32 `[C, H, W]`."""
        return self._rule.finish(self._scores_CHW, self._cover_HW)


def _places_in_crop(first: int, last: int, low: float, high: float, device: torch.device) -> Tensor:
    """Where the centres of image pixels `first..last` lie in the crop along one axis, in `grid_sample`'s -1..1."""
    centres = torch.arange(first, last, device=device, dtype=torch.float64) + 0.5
    return ((centres - low) * (2 / (high - low)) - 1).float()


def probabilities(scores_CHW: Tensor) -> Tensor:
    """Softmax over the classes of an aggregated score map (section 5); uniform where no proposal scored above zero."""
    return scores_CHW.softmax(dim=0)
