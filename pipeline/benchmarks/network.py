"""The network against the processor's own matrix rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import Measurement, Timer
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config.benchmarks import Network
from pipeline.inference.predictor import choose_device
from pipeline.models.deconvnet import CROP_SIZE, DeconvNet
from pipeline.models.inference_form import inference_form
from pipeline.models.initialise import initialise

MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}


def run(config: Network) -> list[dict[str, Any]]:
    """Forward passes of one micro-batch in several forms; labels are held against the first form's."""
    device, crops, seconds = choose_device(config.device), config.micro_batch, config.seconds
    net = random_network(config.width, config.classes)
    folded, half = (inference_form(net, device, dtype) for dtype in (torch.float32, torch.bfloat16))
    net = net.to(device)
    x_NCHW = torch.randn(crops, 3, CROP_SIZE, CROP_SIZE, generator=torch.Generator().manual_seed(1)).to(device)
    last_NCHW = x_NCHW.contiguous(memory_format=torch.channels_last)

    forms: dict[str, tuple[Callable[[], Tensor], torch.dtype]] = {
        "float32, as written": (lambda: net(x_NCHW), torch.float32),
        "float32, folded, channels last": (lambda: folded(last_NCHW), torch.float32),
        "bfloat16, folded, channels last": (lambda: half(last_NCHW.bfloat16()), torch.bfloat16),
    }
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            reference = net(x_NCHW).argmax(dim=1)
        flops = counter.get_total_flops()
        rates = {dtype: _matrix_rate(device, dtype, seconds) for dtype in (torch.float32, torch.bfloat16)}
        rows = []
        for name, (forward, dtype) in forms.items():
            equal = (forward().argmax(dim=1) == reference).float().mean().item()
            taken = measure(forward, seconds)
            rows.append({
                "form": name, "ms a crop": taken.median / crops * 1e3, "spread": taken.iqr / taken.median,
                "GFLOP/s": flops / taken.median / 1e9, "matrix GFLOP/s": rates[dtype] / 1e9,
                "of it": flops / taken.median / rates[dtype], "equal labels": equal,
            })  # fmt: skip
    for row in rows:
        row["speed"] = rows[0]["ms a crop"] / row["ms a crop"]
    return rows


def random_network(width: float, classes: int) -> DeconvNet:
    """A network in evaluation mode, with scores that differ from class to class."""
    net = DeconvNet(classes, width)
    initialise(net, seed=0)
    torch.nn.init.normal_(net.seg_score.weight, generator=torch.Generator().manual_seed(0))
    return net.eval()


def _matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """Floating-point operations a second of a large matrix product."""
    side = MATRIX_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / measure(lambda: a @ b, seconds).median


def measure(work: Callable[[], Any], seconds: float) -> Measurement:
    """Time calls of `work` for some seconds, after a first one; waits for the device."""
    work()
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=seconds)
