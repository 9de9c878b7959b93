"""Training of the learned edge detector."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config.edges import TrainEdgesConfig
from pipeline.datasets.bsds import Outlined
from pipeline.models.edgenet import EdgeNet
from pipeline.proposals.detectors.learned import network_input

FloatArray = NDArray[np.float32]

LINE_WEIGHT = 4.0
"""How much more the loss of a pixel that all people drew counts than that of one nobody drew; lines are rare."""
SCALES = (0.75, 1.35)
"""Range of the random scale."""
GAIN, SHIFT = 0.2, 0.1
"""Largest random change of contrast (a factor) and of each Lab channel (on the network's input)."""
EVERY = 200
"""Steps between two lines of the log."""


def target(outlined: Outlined) -> FloatArray:
    """Share of the people who drew a line within one pixel, 0..1, `[H, W]`: a ridge where they agree.

    People's lines differ by a pixel or two, so a map of exact agreement would have holes, and rotation would break it.
    """
    near_AHW = [cv2.dilate(one_HW.astype(np.float32), np.ones((3, 3), np.uint8)) for one_HW in outlined.outlines_AHW]
    return np.asarray(np.mean(near_AHW, axis=0), np.float32)


def crop(
    image_HW3: NDArray[np.uint8], target_HW: FloatArray, side: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """A random square: rotated by any angle, scaled, maybe mirrored, with slightly changed colours.

    Args:
        image_HW3: RGB, uint8.
        target_HW: of `target`, float32, 0..1.
        side: the square's side, in pixels; even.
        rng: the randomness.

    Returns:
        The network's input `[12, side/2, side/2]` and the target `[side, side]`, both float32; beyond its border the
        image is mirrored.
    """
    height, width = image_HW3.shape[:2]
    angle, scale = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(*np.log(SCALES)))
    turn_22 = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if rng.random() < 0.5:
        turn_22[:, 0] *= -1
    centre_2 = rng.uniform([side / 4, side / 4], [width - side / 4, height - side / 4])
    shift_2 = np.full(2, side / 2) - turn_22 @ centre_2
    matrix_23 = np.concatenate([turn_22, shift_2[:, None]], axis=1)
    turned_HW3 = cv2.warpAffine(
        image_HW3, matrix_23, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    lines_HW = cv2.warpAffine(target_HW, matrix_23, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    x_CHW = network_input(turned_HW3.astype(np.uint8))
    gain, shifts_3 = np.exp(rng.uniform(-GAIN, GAIN)), rng.uniform(-SHIFT, SHIFT, 3)
    return (x_CHW * gain + np.repeat(shifts_3, 4)[:, None, None]).astype(np.float32), lines_HW


def loss_of(logits_NHW: Tensor, target_NHW: Tensor) -> Tensor:
    """Mean weighted cross-entropy; the target is the share of people, 0..1."""
    return F.binary_cross_entropy_with_logits(logits_NHW, target_NHW, weight=1 + LINE_WEIGHT * target_NHW)


def train(data: Sequence[Outlined], config: TrainEdgesConfig) -> EdgeNet:
    """Train from random weights; the same data and seed give the same network on the same machine."""
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    net = EdgeNet().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(net.parameters(), config.learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, config.steps, pct_start=0.1)
    pairs = [(one.image_HW3, target(one)) for one in data]
    losses = []
    for step in range(1, config.steps + 1):
        chosen = rng.integers(len(pairs), size=config.batch_size)
        inputs, targets = zip(
            *(crop(pairs[index][0], pairs[index][1], config.crop, rng) for index in chosen), strict=True
        )
        x_NCHW = torch.from_numpy(np.stack(inputs)).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            logits_NHW = net(x_NCHW)
        loss = loss_of(logits_NHW.float(), torch.from_numpy(np.stack(targets)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if step % EVERY == 0:
            print(f"step {step} of {config.steps}: loss {np.mean(losses[-EVERY:]):.4f}", flush=True)  # noqa: T201
    return net.eval()
