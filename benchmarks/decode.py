"""Decoding, with the checks of the job, compared with the libraries alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.benchmark import Timer
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.config import Decode
from pipeline import storage
from pipeline.config import DecodeConfig
from pipeline.imaging.images import decode_image
from pipeline.inputs.manifest import build_manifest


def run(config: Decode) -> list[dict[str, Any]]:
    """JPEG bytes to upright RGB, one thread."""
    cv2.setNumThreads(1)
    files = [storage.read_bytes(uri) for uri in build_manifest(config.input, config.limit)["uri"].to_pylist()]
    megapixels = DecodeConfig().max_megapixels
    decoders: dict[str, Callable[[bytes], Any]] = {
        "pipeline, with all its checks": lambda data: decode_image(data, megapixels),
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
    fastest = min(row["ms an image"] for row in rows[1:])
    return [row | {"speed, of the fastest library": fastest / row["ms an image"]} for row in rows]
