"""The network compared with the processor's own matrix rate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from benchmarks.config import Network
from benchmarks.timing import fast_dtypes, matrix_product, measure
from pipeline.imaging.geometry import CROP
from pipeline.inference.form import InferenceNet
from pipeline.inference.layer_ops import TORCH, Steps
from pipeline.inference.predictor import choose_device, fastest_form
from pipeline.inference.self_test import steps_work
from pipeline.models.deconvnet import DeconvNet
from pipeline.models.initialise import initialise

NetT = TypeVar("NetT", bound=torch.nn.Module)


def run(config: Network, *, interpreted: bool = False) -> list[dict[str, Any]]:
    """Forward passes of one micro-batch in several forms; labels are compared with the first form's.

    The floor is the time of a large matrix product of the same type for as many operations, in the same run.

    Args:
        config: sizes and device.
        interpreted: include the kernels on a CPU, in Triton's interpreter, to try this function.
    """
    device, crops = choose_device(config.device), config.micro_batch
    net = random_network(config.width, config.classes)
    x_NCHW = torch.randn(crops, 3, CROP, CROP, generator=torch.Generator().manual_seed(1)).to(device)
    with torch.inference_mode():
        works = _forms(net, device, x_NCHW, interpreted=interpreted)
        reference_NHW = works["float32, as written"]().argmax(dim=1)
        equal = {
            name: (forward().argmax(dim=1) == reference_NHW).float().mean().item() for name, forward in works.items()
        }
        products = {
            name: matrix_product(device, dtype, config.matrix_side) for name, dtype in fast_dtypes(device).items()
        }
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


def _forms(
    net: DeconvNet, device: torch.device, x_NCHW: Tensor, *, interpreted: bool
) -> dict[str, Callable[[], Tensor]]:
    as_written = net.to(device)
    forms: dict[str, Callable[[], Tensor]] = {"float32, as written": lambda: as_written(x_NCHW)}
    for name, dtype in fast_dtypes(device).items():
        last_NCHW = x_NCHW.to(dtype).contiguous(memory_format=torch.channels_last)
        if interpreted or device.type == "cuda":
            forms[f"{name}, inference form without kernels"] = _form(net, TORCH, last_NCHW)
        if interpreted or steps_work(device, dtype, net.width):
            from pipeline.inference import kernels

            forms[f"{name}, inference form without graph"] = _form(net, kernels.STEPS, last_NCHW)
        forms[f"{name}, inference form"] = partial(fastest_form(net, device, dtype), last_NCHW)
    return forms


def _form(net: DeconvNet, steps: Steps, x_NCHW: Tensor) -> Callable[[], Tensor]:
    form = InferenceNet(net, steps).to(x_NCHW.device, x_NCHW.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return partial(form, x_NCHW)


def forward_flops(net: DeconvNet, crops: int) -> float:
    """Floating-point operations of a forward pass, counted without computing them."""
    from torch.utils.flop_counter import FlopCounterMode  # it imports torch's compiler, for two seconds

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        DeconvNet(net.num_classes, net.width).eval()(torch.empty(crops, 3, CROP, CROP))
    return float(counter.get_total_flops())


def random_network(width: float, classes: int) -> DeconvNet:
    """A random network in evaluation mode whose scores differ between classes."""
    net = DeconvNet(classes, width)
    initialise(net, seed=0)
    torch.nn.init.normal_(net.seg_score.weight, generator=torch.Generator().manual_seed(0))
    return net.eval()


def trained_looking(net: NetT, seed: int = 0) -> NetT:
    """Random weights that keep activations at the same size, so that every layer shows in the scores."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            torch.nn.init.normal_(module.weight, std=(2 / module.weight[0].numel()) ** 0.5, generator=generator)
            if module.bias is not None:
                torch.nn.init.normal_(module.bias, std=0.1, generator=generator)
        if isinstance(module, torch.nn.BatchNorm2d):
            for name, low, high in (("weight", 0.5, 1.5), ("bias", -0.5, 0.5), ("running_mean", -0.3, 0.3),
                                    ("running_var", 0.3, 2.0)):  # fmt: skip
                getattr(module, name).data.uniform_(low, high, generator=generator)
    return net.eval()
