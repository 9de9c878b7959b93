"""A training step compared with the processor's own matrix rate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.config import Step
from benchmarks.network import forward_flops, random_network
from benchmarks.timing import fast_dtypes, matrix_product, measure
from pipeline.imaging.geometry import CROP
from pipeline.inference.predictor import choose_device


def run(config: Step) -> list[dict[str, Any]]:
    """Forward, backward and SGD on one micro-batch, channels last, in float32, and in bfloat16 if that is fast here.

    The backward pass counts as two forward passes.
    """
    device = choose_device(config.device)
    net = random_network(config.width, config.classes).train().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    # As in `training.loop.steps`, which needs packages that this benchmark does not use.
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6, momentum=0.9, weight_decay=0.0005)
    crops_N3HW = torch.randn(config.micro_batch, 3, CROP, CROP, device=device)
    crops_N3HW = crops_N3HW.contiguous(memory_format=torch.channels_last)
    labels_NHW = torch.randint(config.classes, (config.micro_batch, CROP, CROP), device=device)

    def step(dtype: torch.dtype) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            scores_NCHW = net(crops_N3HW)
        loss = F.cross_entropy(scores_NCHW.float(), labels_NHW)
        loss.backward()
        optimizer.step()
        return loss.detach()

    works: dict[str, Callable[[], Tensor]] = {name: partial(step, dtype) for name, dtype in fast_dtypes(device).items()}
    products = {
        f"product, {name}": matrix_product(device, dtype, config.matrix_side)
        for name, dtype in fast_dtypes(device).items()
    }
    taken = measure(works | {name: product for name, (product, _) in products.items()}, config.seconds)
    flops = 3 * forward_flops(net, config.micro_batch)
    rows = []
    for name in works:
        floor = flops * taken[f"product, {name}"].median / products[f"product, {name}"][1]
        rows.append({
            "step": name, "ms a crop": taken[name].median / config.micro_batch * 1e3, "spread": taken[name].spread,
            "floor, ms": floor / config.micro_batch * 1e3, "of the floor": floor / taken[name].median,
            "GFLOP/s": flops / taken[name].median / 1e9, "speed": taken["float32"].median / taken[name].median,
        })  # fmt: skip
    return rows
