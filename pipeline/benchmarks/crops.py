"""The way from boxes to score maps against the network alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.benchmarks.network import measure, random_network
from pipeline.config import PredictConfig
from pipeline.config.benchmarks import Crops
from pipeline.inference.predictor import Predictor, choose_device
from pipeline.models.deconvnet import CROP_SIZE
from pipeline.models.inference_form import inference_form
from pipeline.models.weights import Checkpoint, CheckpointInfo

PROPOSALS = 50


def run(config: Crops) -> list[dict[str, Any]]:
    """50 proposals of an image cut, through the network and aggregated, against the network alone on as many crops."""
    device, micro_batch = choose_device(config.device), config.micro_batch
    net = random_network(config.width, config.classes)
    info = CheckpointInfo(tuple(str(i) for i in range(config.classes)), config.width)
    settings = PredictConfig(device=config.device, micro_batch=micro_batch)
    predictor = Predictor(Checkpoint(net, info, "0" * 16), settings, label_threshold=0.0)
    folded = inference_form(net, device, torch.float32)
    random = np.random.default_rng(0)
    image_HW3 = random.integers(0, 256, (375, 500, 3), dtype=np.uint8)
    sides_N2 = random.uniform(112, 375, (PROPOSALS, 2))
    corners_N2 = random.uniform(0, 1, (PROPOSALS, 2)) * (np.array([500, 375]) - sides_N2)
    boxes_N4 = np.concatenate([corners_N2, corners_N2 + sides_N2], axis=1)
    sizes = [min(micro_batch, PROPOSALS - start) for start in range(0, PROPOSALS, micro_batch)]
    batches = [torch.randn(n, 3, CROP_SIZE, CROP_SIZE, device=device) for n in sizes]
    batches = [batch.contiguous(memory_format=torch.channels_last) for batch in batches]

    def alone() -> Tensor:
        return [folded(batch) for batch in batches][-1]  # type: ignore[no-any-return]

    with torch.inference_mode():
        network_alone = measure(alone, config.seconds)
        whole = measure(lambda: predictor.aggregate([image_HW3], [boxes_N4])[0], config.seconds)
    return [
        {"what": name, "ms an image": taken.median * 1e3, "spread": taken.iqr / taken.median,
         "network's share": network_alone.median / taken.median}
        for name, taken in (("network alone", network_alone), ("crops, network, aggregation", whole))
    ]  # fmt: skip
