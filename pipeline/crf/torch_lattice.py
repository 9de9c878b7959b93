"""The CRF's mean field in torch: several images in one permutohedral lattice, on any device.

The lattice is pydensecrf's (Adams, Baek and Davis 2010): the same simplices, the same points, the same order of
blurring. Each step is a sum of weighted rows: for a pixel over the points of its simplex (slice), for a point over
itself and its two neighbours (blur), for a point over the pixels around it (splat). The last ones differ much in
length, up to thousands of pixels for a point in a uniform area, so they are cut into pieces. No sum depends on the
order in which threads arrive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from pipeline.config import RefineConfig

PIECE = 32
"""Most rows in one sum; longer ones are cut into pieces."""
PIXELS_AT_ONCE = 4
"""pydensecrf takes this many pixels at once and fills up the last ones of an image with pixels whose features are 0.
Their lattice points carry no value but pass on the values of others, so they are placed here too."""


@dataclass(frozen=True)
class Lattice:
    """A kernel between all pixels of each image, none between images.

    Attributes:
        splat: from pixels to points.
        blur: from points to points, one step per direction.
        slice_: from points to pixels, times the kernel's weight.
    """

    splat: Sums
    blur: tuple[Sums, ...]
    slice_: Sums

    def filter(self, values_NK: Tensor) -> Tensor:
        """Weighted sums of all pixels' values at each pixel, float32 `[N, K]`."""
        values_MK = self.splat(values_NK)
        for step in self.blur:
            values_MK = step(values_MK)
        return self.slice_(values_MK)


@dataclass(frozen=True)
class Sums:
    """Weighted sums of rows: sum i takes `rows[starts[i]:starts[i + 1]]`."""

    rows: Tensor
    starts: Tensor
    weights: Tensor
    then: Sums | None = None
    """Sums of these sums."""

    def __call__(self, values: Tensor) -> Tensor:
        """Sum rows of `values`, float32 `[N, K]`: float32 `[number of sums, K]`."""
        sums: Tensor = embedding_bag(self.rows, values, self.starts, mode="sum", per_sample_weights=self.weights)
        return sums if self.then is None else self.then(sums)


def mean_fields(
    images: Sequence[NDArray[np.uint8]], logs: Sequence[NDArray[np.float32]], config: RefineConfig, device: str
) -> list[NDArray[np.float32]]:
    """Marginals of images of any sizes and numbers of labels, computed together.

    Args:
        images: RGB `[H, W, 3]`.
        logs: log-probabilities `[K, H, W]`; minus infinity for an impossible label; one label of each pixel is finite.
        config: kernels and iterations.
        device: any torch device.

    Returns:
        float32 `[K, H, W]` for each image.

    Raises:
        ValueError: the kernels are too narrow for images of this size.
    """
    if not images:
        return []
    with torch.inference_mode():
        # Labels that an image does not have are impossible there and stay so.
        log_NK = torch.full((sum(image_HW3.size // 3 for image_HW3 in images), max(map(len, logs))), -torch.inf)
        spans, end = [], 0
        for log_KHW in logs:
            start, end = end, end + log_KHW[0].size
            log_NK[start:end, : len(log_KHW)] = torch.from_numpy(log_KHW).flatten(1).T
            spans.append(slice(start, end))
        log_NK = log_NK.to(device)
        widths = (config.gaussian_sxy,), (config.bilateral_sxy, config.bilateral_srgb)
        normalized = config.crf_normalization == "symmetric"
        kernels = [
            _lattice(_features(images, of_kernel, device), weight, normalized)
            for of_kernel, weight in zip(widths, (config.gaussian_weight, config.bilateral_weight), strict=True)
        ]
        q_NK = log_NK.softmax(dim=1)
        for _ in range(config.crf_iterations):
            q_NK = sum((kernel.filter(q_NK) for kernel in kernels), log_NK).softmax(dim=1)
        found_KN = q_NK.T.contiguous().cpu().numpy()
    return [
        np.ascontiguousarray(found_KN[: len(log_KHW), span]).reshape(log_KHW.shape)
        for log_KHW, span in zip(logs, spans, strict=True)
    ]


@dataclass(frozen=True)
class _Features:
    """The kernel's features of all pixels of all images, padding as pydensecrf's included.

    Attributes:
        values_ND: float32, in standard deviations.
        image_N: int64, number of the image.
        real_N: bool, False for padding.
    """

    values_ND: Tensor
    image_N: Tensor
    real_N: Tensor


def _features(images: Sequence[NDArray[np.uint8]], widths: tuple[float, ...], device: str) -> _Features:
    """Position, and colour if there is a second width, divided by the widths."""
    values, lengths = [], []
    for image_HW3 in images:
        height, width = image_HW3.shape[:2]
        y_HW, x_HW = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        parts = [torch.stack([x_HW, y_HW], dim=2).float() / widths[0]]
        if len(widths) > 1:
            parts.append(torch.from_numpy(np.array(image_HW3)).float() / widths[1])
        own = torch.cat(parts, dim=2).flatten(0, 1)
        filling = -len(own) % PIXELS_AT_ONCE > 0
        values += [own, own.new_zeros(int(filling), own.shape[1])]
        lengths += [len(own), int(filling)]
    image_N = torch.arange(len(images)).repeat_interleave(torch.tensor(lengths).view(-1, 2).sum(dim=1))
    real_N = torch.tensor([True, False] * len(images)).repeat_interleave(torch.tensor(lengths))
    return _Features(torch.cat(values).to(device), image_N.to(device), real_N.to(device))


def _lattice(features: _Features, weight: float, normalized: bool) -> Lattice:
    keys_NP, weights_NP, steps = _simplices(features)
    real_N = features.real_N
    keys_M, points_NP = keys_NP.unique(return_inverse=True)
    points_NP, weights_NP = points_NP[real_N], weights_NP[real_N]
    blur = tuple(_neighbours(keys_M, step) for step in steps)
    gain = 1 + 2.0 ** -(points_NP.shape[1] - 1)
    if normalized:
        plain = Lattice(_pixels_of(points_NP, weights_NP, len(keys_M)), blur, _rows(points_NP, weights_NP / gain))
        sums_N1 = plain.filter(torch.ones(len(points_NP), 1, device=points_NP.device))
        weights_NP = weights_NP / (sums_N1 + 1e-20).sqrt()
    return Lattice(_pixels_of(points_NP, weights_NP, len(keys_M)), blur, _rows(points_NP, weights_NP * (weight / gain)))


def _simplices(features: _Features) -> tuple[Tensor, Tensor, list[int]]:
    """Keys and barycentric weights of the points around each pixel, and the steps from a key to its neighbours.

    Pages 5 and 10 of the lattice's paper. The operations are pydensecrf's, in its order, so that a pixel between two
    simplices falls into the same one.
    """
    values_ND, dimensions = features.values_ND, features.values_ND.shape[1]
    points = dimensions + 1
    deviation = np.float32(np.sqrt(2 / 3) * points)
    total_N, elevated = torch.zeros_like(values_ND[:, 0]), []
    for i in range(dimensions, 0, -1):
        scaled_N = values_ND[:, i - 1] * float(np.float32(1 / np.sqrt((i + 1) * i) * deviation))
        elevated.append(total_N - i * scaled_N)
        total_N = total_N + scaled_N
    elevated_NP = torch.stack([total_N, *reversed(elevated)], dim=1)
    down = float(np.float32(1) / np.float32(points))
    rounded_NP = (elevated_NP * down).round()
    if not (rounded_NP.abs() < 2**15 / points).all():
        raise ValueError("the kernels are too narrow for an image of this size")
    origin_NP = rounded_NP * points
    rank_NP = _ranks(elevated_NP - origin_NP) + rounded_NP.sum(dim=1, keepdim=True).long()
    off_NP = (rank_NP < 0).long() - (rank_NP > dimensions).long()  # back onto the plane where coordinates sum to 0
    rank_NP, origin_NP = rank_NP + off_NP * points, origin_NP + off_NP * points

    sorted_NP = torch.zeros_like(origin_NP).scatter_(1, dimensions - rank_NP, (elevated_NP - origin_NP) * down)
    weights_NP = torch.cat([sorted_NP[:, :1] + (1 - sorted_NP[:, -1:]), sorted_NP.diff(dim=1)], dim=1)

    origin_ND = origin_NP[:, :-1].long()
    origin_ND = origin_ND - origin_ND.amin(dim=0) + 2 * points  # room for the simplex's other points and neighbours
    strides = _strides([int(most) + 2 * points for most in origin_ND.amax(dim=0)], int(features.image_N[-1]) + 1)
    stride_D = torch.tensor(strides[:-1], device=values_ND.device)
    keys = [
        ((origin_ND + remainder - points * (rank_NP[:, :-1] > dimensions - remainder)) * stride_D).sum(dim=1)
        for remainder in range(points)
    ]
    keys_NP = torch.stack(keys, dim=1) + (features.image_N * strides[-1])[:, None]
    steps = [sum((points * (i == axis) - 1) * strides[i] for i in range(dimensions)) for axis in range(points)]
    return keys_NP, weights_NP, steps


def _ranks(values_NP: Tensor) -> Tensor:
    """Rank of each value in its row: 0 for the largest; of equal values the earlier comes first."""
    order_NP = values_NP.argsort(dim=1, descending=True, stable=True)
    return order_NP.argsort(dim=1)


def _strides(ranges: Sequence[int], images: int) -> list[int]:
    """Factor of each coordinate in a point's key, followed by that of the image's number.

    Raises:
        ValueError: the keys need more than 63 bits.
    """
    strides = [1]
    for extent in ranges:
        strides.append(strides[-1] * (extent + 1))
    if strides[-1] * images >= 2**63:
        raise ValueError("the kernels are too narrow for images of this size; with fewer images at once they may do")
    return strides


def _neighbours(keys_M: Tensor, step: int) -> Sums:
    """Sums of each point and half of its two neighbours in a direction, where they exist."""
    own_M = torch.arange(len(keys_M), device=keys_M.device)
    next_M = torch.searchsorted(keys_M, keys_M + step).clamp_(max=len(keys_M) - 1)
    has_next_M = keys_M[next_M] == keys_M + step
    next_M = torch.where(has_next_M, next_M, own_M)
    previous_M, has_previous_M = own_M.clone(), torch.zeros_like(has_next_M)
    previous_M[next_M[has_next_M]] = own_M[has_next_M]
    has_previous_M[next_M[has_next_M]] = True
    weights_M3 = torch.stack([torch.ones_like(own_M), has_previous_M, has_next_M], dim=1).float()
    weights_M3[:, 1:] /= 2
    return _rows(torch.stack([own_M, previous_M, next_M], dim=1), weights_M3)


def _rows(rows_NP: Tensor, weights_NP: Tensor) -> Sums:
    """Sums of P rows each."""
    starts_N = torch.arange(0, rows_NP.numel(), rows_NP.shape[1], device=rows_NP.device)
    return Sums(rows_NP.flatten().int(), starts_N.int(), weights_NP.flatten())


def _pixels_of(points_NP: Tensor, weights_NP: Tensor, size: int) -> Sums:
    """Sums over the pixels around each point, in pieces where there are many pixels."""
    flat, order = points_NP.flatten().sort(stable=True)
    counts_M = flat.bincount(minlength=size)
    pieces_M = (counts_M + PIECE - 1) // PIECE
    first_M, first_piece_M = counts_M.cumsum(0) - counts_M, pieces_M.cumsum(0) - pieces_M
    point_of_piece = torch.arange(size, device=flat.device).repeat_interleave(pieces_M)
    number = torch.arange(len(point_of_piece), device=flat.device)
    starts = first_M[point_of_piece] + PIECE * (number - first_piece_M[point_of_piece])
    then = Sums(number.int(), first_piece_M.int(), torch.ones(len(number), device=flat.device))
    return Sums((order // points_NP.shape[1]).int(), starts.int(), weights_NP.flatten()[order], then)
