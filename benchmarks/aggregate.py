"""Aggregation compared with a plain copy of as many bytes on the same device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.config import Aggregate
from benchmarks.crops import some_boxes
from benchmarks.timing import DTYPES, measure
from pipeline.imaging.geometry import CROP, fed_rectangles
from pipeline.inference.aggregate import Canvas
from pipeline.inference.predictor import choose_device
from pipeline.inference.self_test import gathering_works


def run(config: Aggregate, *, interpreted: bool = False) -> list[dict[str, Any]]:
    """The maximum over an image's proposals; bytes: each map read once, the canvas written once.

    Args:
        config: sizes and device.
        interpreted: include the kernel on a CPU, in Triton's interpreter, to try this function.
    """
    device, (height, width) = choose_device(config.device), config.image
    rectangles_N4 = fed_rectangles(some_boxes(config.proposals, height, width), "250-224")
    maps_NCSS = torch.randn(config.proposals, config.classes, CROP, CROP, device=device).to(DTYPES[config.precision])
    maps_NCSS = maps_NCSS.contiguous(memory_format=torch.channels_last)
    canvas_CHW = torch.zeros(config.classes, height, width, device=device)
    moved = maps_NCSS.nbytes + canvas_CHW.nbytes
    source, target = (torch.zeros(moved // 2, dtype=torch.uint8, device=device) for _ in range(2))

    def one_by_one() -> Tensor:
        canvas = Canvas(config.classes, height, width, "max", device)
        for scores_CSS, rectangle_4 in zip(maps_NCSS, rectangles_N4, strict=True):
            canvas.paste(scores_CSS, rectangle_4)
        return canvas.scores()

    works: dict[str, Callable[[], Tensor]] = {"copy": lambda: target.copy_(source), "window by window": one_by_one}
    if interpreted or gathering_works(device, DTYPES[config.precision], config.classes, "max"):
        from pipeline.inference.aggregate_gpu import gather

        works["one kernel"] = lambda: gather(maps_NCSS, rectangles_N4, canvas_CHW, "max")
    with torch.inference_mode():
        expected_CHW = one_by_one()
        off = {name: (work() - expected_CHW).abs().max().item() for name, work in list(works.items())[1:]}
        taken = measure(works, config.seconds)
    floor = taken["copy"].median
    return [
        {"what": name, "ms an image": one.median * 1e3, "spread": one.spread, "GB/s": moved / one.median / 1e9,
         "floor, ms": floor * 1e3, "of the floor": floor / one.median, "largest difference": off.get(name, 0.0)}
        for name, one in taken.items()
    ]  # fmt: skip
