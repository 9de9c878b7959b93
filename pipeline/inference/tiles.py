"""Images too large for a network, in tiles that overlap: a pixel's scores come from tiles that it lies well inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.models.members import WholeImageNetwork

STEP = 32
"""Tiles begin at multiples of this: the usual stride of a network, whose coarse maps then lie on the same pixels."""

OVERLAP = 3 / 8
"""What neighbours share at least, as a part of a tile. With a quarter, a network with a wide view (`voc-fcn`, tiles of
1024 pixels) differed along the seams in five times as many pixels; with half, in hardly fewer, for 1.6 times the
work."""
MARGIN = 3 / 8
"""The part of an overlap, next to a tile's edge, where the tile does not count: the network lacks what is around."""


@dataclass(frozen=True)
class Tiled:
    """A network that gets images with a side longer than `tile` pixels in tiles; smaller ones as they are."""

    network: WholeImageNetwork
    tile: int

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The network's."""
        return self.network.class_names

    @property
    def num_classes(self) -> int:
        """The network's."""
        return self.network.num_classes

    @property
    def fingerprint(self) -> str:
        """The network's: the size of tiles is one of a run's settings."""
        return self.network.fingerprint

    def to(self, device: torch.device, dtype: torch.dtype) -> Tiled:
        """The same with the network on a device."""
        return replace(self, network=self.network.to(device, dtype))

    def scores(self, image_3HW: Tensor) -> Tensor:
        """Score maps before softmax, float32 `[C, H, W]`, of an RGB uint8 image."""
        return scores_in_tiles(self.network.scores, image_3HW, self.tile)


def in_tiles(network: WholeImageNetwork, tile: int) -> WholeImageNetwork:
    """The network for images of any size; with `tile` 0, as it is."""
    return Tiled(network, tile) if tile else network


@torch.inference_mode()
def scores_in_tiles(scores: Callable[[Tensor], Tensor], image_3HW: Tensor, tile: int) -> Tensor:
    """Weighted mean of the scores of overlapping tiles, float32 `[C, H, W]`.

    Where tiles overlap, the weight of one is 0 next to its edge (`MARGIN`), and rises from there to 1, as fast as its
    neighbour's falls.

    Args:
        scores: from an image to its score maps, both of one size.
        image_3HW: the image.
        tile: longest side of a tile, in pixels.
    """
    height, width = image_3HW.shape[1:]
    if max(height, width) <= tile:
        return scores(image_3HW)
    overlap = int(tile * OVERLAP)
    sum_CHW, weight_HW = None, torch.zeros(height, width, device=image_3HW.device)
    for top, bottom in spans(height, tile, overlap):
        for left, right in spans(width, tile, overlap):
            found_CHW = scores(image_3HW[:, top:bottom, left:right])
            rows_H = ramp(top, bottom, height, overlap).to(found_CHW.device)
            columns_W = ramp(left, right, width, overlap).to(found_CHW.device)
            part_HW = rows_H[:, None] * columns_W
            if sum_CHW is None:
                sum_CHW = found_CHW.new_zeros(len(found_CHW), height, width)
            sum_CHW[:, top:bottom, left:right] += found_CHW * part_HW
            weight_HW[top:bottom, left:right] += part_HW
    assert sum_CHW is not None
    return sum_CHW.div_(weight_HW)


def spans(length: int, tile: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Beginnings and ends of tiles along a side, at most `tile` long, so evenly that they overlap as much everywhere.

    Args:
        length: of the side, in pixels.
        tile: longest tile, in pixels.
        overlap: what neighbours share at least, in pixels.
    """
    if length <= tile:
        yield 0, length
        return
    last = -(-(length - tile) // STEP) * STEP  # the first multiple from which a tile reaches the end
    tiles = 1 + -(-last // ((tile - overlap) // STEP * STEP))
    for number in range(tiles):
        begin = last * number // (tiles - 1) // STEP * STEP
        yield begin, min(begin + tile, length)


def ramp(begin: int, end: int, length: int, overlap: int) -> Tensor:
    """Weights of the pixels of a tile along a side, float32 0..1: 1, but towards other tiles.

    Args:
        begin: of the tile, in pixels of the side.
        end: of the tile.
        length: of the side; its own ends are no seams.
        overlap: of tiles, in pixels.
    """
    places = torch.arange(begin, end) + 0.5
    inside = torch.full_like(places, float("inf"))
    if begin > 0:
        inside = torch.minimum(inside, places - begin)
    if end < length:
        inside = torch.minimum(inside, end - places)
    return ((inside - overlap * MARGIN) / (overlap * (1 - 2 * MARGIN))).clamp(0, 1)
