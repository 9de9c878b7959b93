"""From boxes to aggregated score maps, compared with the network alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.config import Crops
from benchmarks.network import random_network
from benchmarks.timing import DTYPES, measure
from pipeline.config import PredictConfig
from pipeline.imaging.geometry import CROP
from pipeline.inference.predictor import Predictor, choose_device, fastest_form
from pipeline.models.checkpoint import Checkpoint, CheckpointInfo


def run(config: Crops) -> list[dict[str, Any]]:
    """Crops, network and aggregation for an image's proposals, and the network alone on as many crops."""
    device, micro_batch = choose_device(config.device), config.micro_batch
    net = random_network(config.width, config.classes)
    info = CheckpointInfo(tuple(str(i) for i in range(config.classes)), config.width)
    settings = PredictConfig(device=config.device, micro_batch=micro_batch, precision=config.precision)
    predictor = Predictor(Checkpoint(net, info, "0" * 16), settings, label_threshold=0.0)
    form = fastest_form(net, device, DTYPES[config.precision])
    image_HW3 = np.random.default_rng(0).integers(0, 256, (*config.image, 3), dtype=np.uint8)
    boxes_N4 = some_boxes(config.proposals, *config.image)
    sizes = [min(micro_batch, config.proposals - start) for start in range(0, config.proposals, micro_batch)]
    batches = [torch.randn(n, 3, CROP, CROP, device=device).to(DTYPES[config.precision]) for n in sizes]
    batches = [batch.contiguous(memory_format=torch.channels_last) for batch in batches]
    works = {
        "network alone": lambda: [form(batch) for batch in batches][-1],
        "crops, network, aggregation": lambda: predictor.aggregate([image_HW3], [boxes_N4])[0],
    }
    with torch.inference_mode():
        taken = measure(works, config.seconds)
    floor = taken["network alone"].median
    return [
        {"what": name, "ms an image": one.median * 1e3, "spread": one.spread, "floor, ms": floor * 1e3,
         "network's share": floor / one.median}
        for name, one in taken.items()
    ]  # fmt: skip


def some_boxes(count: int, height: int, width: int) -> NDArray[np.float64]:
    """Boxes inside an image, `[count, 4]`; their sides are at least 112 pixels, or the image's shorter side if less."""
    random = np.random.default_rng(0)
    shorter = min(height, width)
    sides_N2 = random.uniform(min(112, shorter), shorter, (count, 2))
    corners_N2 = random.uniform(0, 1, (count, 2)) * (np.array([width, height]) - sides_N2)
    return np.concatenate([corners_N2, corners_N2 + sides_N2], axis=1)
