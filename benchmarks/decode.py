"""Decoding, with the checks of the job, compared with the libraries alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.benchmark import Timer

from benchmarks.config import Decode
from pipeline.config import DecodeConfig
from pipeline.imaging.images import decode_at_working_size, decode_image, working_size
from pipeline.inputs.manifest import build_manifest
from pipeline.inputs.reading import read_image


def run(config: Decode) -> list[dict[str, Any]]:
    """JPEG bytes to upright RGB, whole and at working size, one thread; the last two are the libraries."""
    from torchvision.io import ImageReadMode, decode_jpeg  # takes seconds, and no other benchmark needs it

    cv2.setNumThreads(1)
    files = [read_image(uri) for uri in build_manifest(config.input, config.limit)["uri"].to_pylist()]
    megapixels, max_side = DecodeConfig().max_megapixels, DecodeConfig().max_side
    decoders: dict[str, Callable[[bytes], Any]] = {
        "pipeline, with all its checks": lambda data: decode_image(data, megapixels),
        "the same, then to working size": lambda data: working_size(decode_image(data, megapixels), max_side),
        "straight to working size (the job's)": lambda data: decode_at_working_size(data, megapixels, max_side),
        "torchvision": lambda data: decode_jpeg(
            torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB
        ),
        "OpenCV": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB),
    }
    rows: list[dict[str, Any]] = []
    for name, decoder in decoders.items():
        timer = Timer("for data in files: decoder(data)", globals={"files": files, "decoder": decoder})
        taken = timer.blocked_autorange(min_run_time=config.seconds)
        rows.append({"what": name, "ms an image": taken.median / len(files) * 1e3, "spread": taken.iqr / taken.median})
    fastest = min(row["ms an image"] for row in rows[-2:])
    return [row | {"speed, of the fastest library": fastest / row["ms an image"]} for row in rows]
