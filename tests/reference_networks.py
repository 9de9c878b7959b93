"""DeconvNet and FCN-8s once more, from their layer tables and raw Caffe blobs: nothing of `pipeline` is used."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Blobs = dict[str, list[np.ndarray]]

# Block: output channels of its layers (paper, figure 2 and table; the release's prototxt).
ENCODER = [(1, [64, 64]), (2, [128, 128]), (3, [256, 256, 256]), (4, [512, 512, 512]), (5, [512, 512, 512])]
DECODER = [(5, [512, 512, 512]), (4, [512, 512, 256]), (3, [256, 256, 128]), (2, [128, 64]), (1, [64, 64])]
BN_EPS = 1e-9


def narrow(channels: int, divisor: int) -> int:
    """Channels of a small copy of the network; divisors are powers of two."""
    return max(8, channels // divisor)


def vgg_rows(divisor: int) -> list[tuple[str, tuple[int, ...]]]:
    """Name and weight shape of VGG-16's layers as convolutions, every channel count divided."""
    rows, channels = [], 3
    for block, outputs in ENCODER:
        for i, out in enumerate(outputs, start=1):
            rows.append((f"conv{block}_{i}", (narrow(out, divisor), channels, 3, 3)))
            channels = narrow(out, divisor)
    fc = narrow(4096, divisor)
    return [*rows, ("fc6", (fc, channels, 7, 7)), ("fc7", (fc, fc, 1, 1))]


def deconvnet_rows(divisor: int, classes: int = 21) -> list[tuple[str, tuple[int, ...], str]]:
    """Name, weight shape ([in, out, h, w] for deconvolutions) and batch normalisation of DeconvNet's layers."""
    rows = [(name, shape, f"bn{name.removeprefix('conv')}") for name, shape in vgg_rows(divisor)]
    channels = narrow(512, divisor)
    rows.append(("fc6-deconv", (narrow(4096, divisor), channels, 7, 7), "fc6-deconv-bn"))
    for block, outputs in DECODER:
        for i, out in enumerate(outputs, start=1):
            rows.append((f"deconv{block}_{i}", (channels, narrow(out, divisor), 3, 3), f"debn{block}_{i}"))
            channels = narrow(out, divisor)
    return [*rows, ("seg-score-voc", (classes, channels, 1, 1), "")]


def fcn8s_rows(divisor: int, classes: int = 21) -> list[tuple[str, tuple[int, ...]]]:
    """Name and weight shape of the layers of `voc-fcn8s`."""
    score = [("score_fr", 4096), ("score_pool4", 512), ("score_pool3", 256)]
    up = [("upscore2", 4), ("upscore_pool4", 4), ("upscore8", 16)]
    return [
        *vgg_rows(divisor),
        *((name, (classes, narrow(channels, divisor), 1, 1)) for name, channels in score),
        *((name, (classes, classes, kernel, kernel)) for name, kernel in up),
    ]


def random_weight(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Keeps activations at the same size from layer to layer."""
    return (rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)


def random_deconvnet(divisor: int, classes: int = 21, seed: int = 0) -> Blobs:
    """Blobs of a trained-looking DeconvNet; batch normalisation as scale, shift, mean, variance."""
    rng = np.random.default_rng(seed)
    blobs: Blobs = {}
    for name, shape, norm in deconvnet_rows(divisor, classes):
        out = shape[1] if "deconv" in name else shape[0]
        blobs[name] = [random_weight(rng, shape), rng.normal(0, 0.1, out).astype(np.float32)]
        if norm:
            ranges = ((0.5, 1.5), (-0.5, 0.5), (-0.3, 0.3), (1e-5, 2.0))
            blobs[norm] = [rng.uniform(*one, out).astype(np.float32) for one in ranges]
    return blobs


def random_fcn8s(divisor: int, classes: int = 21, seed: int = 0) -> Blobs:
    """Blobs of an FCN-8s; the upsampling layers have weights of both signs and no bias."""
    rng = np.random.default_rng(seed)
    blobs: Blobs = {}
    for name, shape in fcn8s_rows(divisor, classes):
        blobs[name] = [random_weight(rng, shape)]
        if not name.startswith("upscore"):
            blobs[name].append(rng.normal(0, 0.1, shape[0]).astype(np.float32))
    return blobs


def folded(norm: list[np.ndarray]) -> list[np.ndarray]:
    """Scale and shift with the statistics in them, as the release's third step computes them."""
    scale, shift, mean, variance = (one.astype(np.float64) for one in norm)
    factor = scale / np.sqrt(variance + BN_EPS)
    return [factor.astype(np.float32), (shift - factor * mean).astype(np.float32)]


def deconvnet_scores(blobs: Blobs, input_N3HW: Tensor) -> Tensor:
    """Score maps of the network that `blobs` describe, as exact as the input; batch normalisation in either form.

    Two cells of a pooling window may be equal up to float32's rounding, and another sum then moves a value to another
    place. Float64 leaves no such pairs, so networks are compared in it.
    """

    def layer(name: str, norm: str, x: Tensor, padding: int) -> Tensor:
        weight, bias = tensors(blobs[name], x)
        run = F.conv_transpose2d if "deconv" in name else F.conv2d
        x = run(x, weight, bias, padding=padding)
        scale, shift = tensors(blobs[norm] if len(blobs[norm]) == 2 else folded(blobs[norm]), x)
        return (x * scale[:, None, None] + shift[:, None, None]).clamp(min=0)

    x, places = input_N3HW, {}
    for block, outputs in ENCODER:
        for i in range(1, len(outputs) + 1):
            x = layer(f"conv{block}_{i}", f"bn{block}_{i}", x, 1)
        x, places[block] = pooled(x)
    x = layer("fc6", "bnfc6", x, 0)
    x = layer("fc7", "bnfc7", x, 0)
    x = layer("fc6-deconv", "fc6-deconv-bn", x, 0)
    for block, outputs in DECODER:
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3) * places[block]
        for i in range(1, len(outputs) + 1):
            x = layer(f"deconv{block}_{i}", f"debn{block}_{i}", x, 1)
    weight, bias = tensors(blobs["seg-score-voc"], x)
    return F.conv2d(x, weight, bias)


def tensors(blobs: list[np.ndarray], like: Tensor) -> list[Tensor]:
    """Blobs as tensors of another's precision."""
    return [torch.from_numpy(blob).to(like.dtype) for blob in blobs]


def pooled(x: Tensor) -> tuple[Tensor, Tensor]:
    """2x2 maxima, and a map of the input's size that is 1 where each stood (the first of equals) and 0 elsewhere."""
    n, c, h, w = x.shape
    cells = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 2, 4, 3, 5).reshape(n, c, h // 2, w // 2, 4)
    one_hot = F.one_hot(torch.from_numpy(cells.numpy().argmax(-1)), 4).to(x.dtype)
    places = one_hot.reshape(n, c, h // 2, w // 2, 2, 2).permute(0, 1, 2, 4, 3, 5).reshape(x.shape)
    return cells.amax(-1), places


def fcn8s_scores(blobs: Blobs, image_N3HW: Tensor) -> Tensor:
    """Score maps of FCN-8s; the crops' offsets are worked out from kernels, strides and paddings."""

    def conv(name: str, x: Tensor, padding: int = 0) -> Tensor:
        weight, bias = map(torch.from_numpy, blobs[name])
        return F.conv2d(x, weight, bias, padding=padding)

    def up(name: str, x: Tensor, stride: int) -> Tensor:
        weight, *bias = map(torch.from_numpy, blobs[name])
        return F.conv_transpose2d(x, weight, bias[0] if bias else None, stride=stride)

    height, width = image_N3HW.shape[2:]
    x, maps = image_N3HW, {}
    for block, outputs in ENCODER:
        for i in range(1, len(outputs) + 1):
            x = conv(f"conv{block}_{i}", x, 100 if (block, i) == (1, 1) else 1).clamp(min=0)
        odd_h, odd_w = x.shape[2] % 2, x.shape[3] % 2
        x = F.pad(x, (0, odd_w, 0, odd_h), value=-torch.inf)
        x = maps[block] = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2))
    x = conv("fc7", conv("fc6", x).clamp(min=0)).clamp(min=0)
    offset4, offset3, offset_score = crop_offsets()
    x = up("upscore2", conv("score_fr", x), 2)
    x = x + conv("score_pool4", maps[4])[:, :, offset4 : offset4 + x.shape[2], offset4 : offset4 + x.shape[3]]
    x = up("upscore_pool4", x, 2)
    x = x + conv("score_pool3", maps[3])[:, :, offset3 : offset3 + x.shape[2], offset3 : offset3 + x.shape[3]]
    x = up("upscore8", x, 8)
    return x[:, :, offset_score : offset_score + height, offset_score : offset_score + width]


def crop_offsets() -> tuple[int, int, int]:
    """Where the upsampled maps begin in pool4, in pool3, and where the image begins in the last map.

    A map's element i has its centre at `step * i + start` in the image.
    """
    step, start = 1.0, 0.0
    maps = {}
    for block, outputs in ENCODER:
        for i in range(1, len(outputs) + 1):
            start += step * (1 - (100 if (block, i) == (1, 1) else 1))  # a 3x3 kernel's middle, less the padding
        step, start = step * 2, start + step * 0.5
        maps[block] = (step, start)
    start += step * 3  # fc6: 7x7
    offsets = []
    for kernel, stride, other in ((4, 2, maps[4]), (4, 2, maps[3]), (16, 8, None)):
        step, start = step / stride, start - step / stride * (kernel - 1) / 2
        if other is not None:
            offsets.append((start - other[1]) / other[0])
            assert step == other[0]
    offsets.append(-start / step)
    assert all(one.is_integer() for one in offsets)
    return tuple(int(one) for one in offsets)
