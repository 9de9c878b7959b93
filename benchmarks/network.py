"""The network compared with the processor's own matrix rate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.config import Network
from benchmarks.timing import fast_dtypes, matrix_product, measure
from pipeline.imaging.geometry import CROP
from pipeline.inference.form import InferenceNet, inference_form
from pipeline.inference.predictor import choose_device, fastest_form
from pipeline.models.deconvnet import DeconvNet
from pipeline.models.initialise import initialise


def run(config: Network) -> list[dict[str, Any]]:
    """Forward passes of one micro-batch in several forms; labels are compared with the first form's.

    The floor is the time of a large matrix product of the same type for as many operations, in the same run.
    """
    device, crops = choose_device(config.device), config.micro_batch
    net = random_network(config.width, config.classes)
    x_NCHW = torch.randn(crops, 3, CROP, CROP, generator=torch.Generator().manual_seed(1)).to(device)
    with torch.inference_mode():
        works = _forms(net, device, x_NCHW)
        reference_NHW = works["float32, as written"]().argmax(dim=1)
        equal = {
            name: (forward().argmax(dim=1) == reference_NHW).float().mean().item() for name, forward in works.items()
        }
        products = {name: matrix_product(device, dtype) for name, dtype in fast_dtypes(device).items()}
        taken = measure(works | {name: product for name, (product, _) in products.items()}, config.seconds)
    flops = forward_flops(net, crops)
    rows = []
    for name in works:
        dtype = name.split(",")[0]
        floor = flops * taken[dtype].median / products[dtype][1]
        rows.append({
            "form": name, "ms a crop": taken[name].median / crops * 1e3, "spread": taken[name].spread,
            "floor, ms": floor / crops * 1e3, "of the floor": floor / taken[name].median,
            "GFLOP/s": flops / taken[name].median / 1e9,
            "speed": taken["float32, as written"].median / taken[name].median, "equal labels": equal[name],
        })  # fmt: skip
    return rows


def _forms(net: DeconvNet, device: torch.device, x_NCHW: Tensor) -> dict[str, Callable[[], Tensor]]:
    as_written = net.to(device)
    forms: dict[str, Callable[[], Tensor]] = {"float32, as written": lambda: as_written(x_NCHW)}
    for name, dtype in fast_dtypes(device).items():
        last_NCHW = x_NCHW.to(dtype).contiguous(memory_format=torch.channels_last)
        if device.type == "cuda":
            plain = InferenceNet(net).to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
            forms[f"{name}, inference form without kernels"] = partial(plain, last_NCHW)
            kernels = inference_form(net, device, dtype)
            forms[f"{name}, inference form without graph"] = partial(kernels, last_NCHW)
        forms[f"{name}, inference form"] = partial(fastest_form(net, device, dtype), last_NCHW)
    return forms


def forward_flops(net: DeconvNet, crops: int) -> float:
    """Floating-point operations of a forward pass, counted without computing them."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        DeconvNet(net.num_classes, net.width).eval()(torch.empty(crops, 3, CROP, CROP))
    return float(counter.get_total_flops())


def random_network(width: float, classes: int) -> DeconvNet:
    """A random network in evaluation mode whose scores differ between classes."""
    net = DeconvNet(classes, width)
    initialise(net, seed=0)
    torch.nn.init.normal_(net.seg_score.weight, generator=torch.Generator().manual_seed(0))
    return net.eval()
