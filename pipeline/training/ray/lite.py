"""How the training of the light DeconvNet differs from the FCN's, for `training.ray.fcn`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline import storage
from pipeline.config.lite import TrainLiteConfig
from pipeline.models.checkpoint_header import read_info
from pipeline.models.litefcn import folded
from pipeline.training.lite.loop import Taught, loss_of_stage, new_training
from pipeline.training.lite.teacher import load_teacher
from pipeline.training.lite.windows import cut
from pipeline.training.ray.fcn import Method


def _network(config: TrainLiteConfig, num_classes: int) -> Taught:
    variant = read_info(storage.read_bytes(config.fcn), config.fcn).encoder
    assert variant is not None  # the job has checked it
    teacher = None if config.teacher is None else load_teacher(config.teacher)
    return Taught(folded(num_classes, variant), teacher, all_layers=config.backbone_factor > 0)


def _cut(
    config: TrainLiteConfig, step: int, image_HW3: NDArray[np.uint8], mask_HW: NDArray[np.uint8], label: int,
    rng: np.random.Generator,
) -> tuple[Any, Any]:  # fmt: skip
    return cut(image_HW3, mask_HW, label, config.stage(step), rng)


def _scorer(net: Taught, config: TrainLiteConfig) -> Callable[[Tensor], Tensor]:
    del config
    return net.scores


LITE = Method(_network, new_training, _cut, loss_of_stage, _scorer)
