"""The CRF: its backends, and the effect of leaving out improbable classes on labels and time.

On a network's scores, or on synthetic ones, which need only torch and numpy.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.config import Crf
from pipeline.config import ConfigError, DecodeConfig, RefineConfig
from pipeline.crf.refine import check_backend, refine_batch, refine_logs
from pipeline.inference.predictor import Prediction, prune

THRESHOLDS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5)
CLASSES = 21
"""Of synthetic scores: VOC's."""

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class _Form:
    """A backend, its device, and how many images it computes at once."""

    crf: Literal["native", "pydensecrf", "torch"]
    device: str = "cpu"
    batch: int = 1

    def __str__(self) -> str:
        return f"torch {self.device} x{self.batch}" if self.crf == "torch" else self.crf


def run(config: Crf) -> list[dict[str, Any]]:
    """Each backend with all classes and with those that reach the threshold, and one backend with every threshold.

    The others are compared with the first row: pydensecrf with all classes, if it is installed.
    """
    images, scores = zip(
        *(made_up(config.limit, *config.image) if config.input is None else _predicted(config)), strict=True
    )
    torch.set_num_threads(1)  # for the CRF; the scores may have been computed with more
    forms = list(_installed(config))
    plans = [(form, threshold) for form in forms for threshold in (0.0, config.refine.label_threshold)]
    ours = next((form for form in forms if form.crf == config.refine.crf), forms[-1])
    plans += [(ours, threshold) for threshold in THRESHOLDS if (ours, threshold) not in plans]
    rows: list[dict[str, Any]] = []
    reference_seconds = 0.0
    reference: list[NDArray[np.int64]] = []
    for form, threshold in plans:
        kept = [prune(scores_CHW, threshold, log_probabilities=config.refine.exact_unaries) for scores_CHW in scores]
        labels, seconds = _measure(images, kept, replace(config.refine, crf=form.crf), form)
        reference, reference_seconds = reference or labels, reference_seconds or sum(seconds)
        equal = [float((a == b).mean()) for a, b in zip(labels, reference, strict=True)]
        rows.append({
            "backend": str(form), "threshold": threshold,
            "classes": statistics.mean(len(one.class_ids_K) for one in kept),
            "equal labels": statistics.mean(equal), "equal, worst image": min(equal),
            "seconds": statistics.median(seconds), "spread": max(seconds) - min(seconds),
            "speed": reference_seconds / sum(seconds),
        })  # fmt: skip
    return rows


def _installed(config: Crf) -> Iterator[_Form]:
    forms = [_Form("pydensecrf"), _Form("native"), _Form("torch", batch=config.batch)]
    if torch.cuda.is_available():
        forms += [_Form("torch", "cuda"), _Form("torch", "cuda", config.batch)]
    for form in forms:
        try:
            check_backend(RefineConfig(crf=form.crf))
        except ConfigError as error:
            print(f"crf: without {form}: {error.__cause__ or error}")  # noqa: T201
        else:
            yield form


def _measure(
    images: Sequence[Image], kept: Sequence[Prediction], config: RefineConfig, form: _Form
) -> tuple[list[NDArray[np.int64]], list[float]]:
    """Labels of all images, and seconds per image for each batch, from and to the CPU's memory."""
    labels, seconds = [], []
    for start in range(0, len(images), form.batch):
        part = slice(start, start + form.batch)
        if start == 0 and form.device == "cuda":
            _refine(images[part], kept[part], config, form.device)  # loads the kernels
        started = time.perf_counter()
        refined = _refine(images[part], kept[part], config, form.device)
        taken = (time.perf_counter() - started) / len(refined)
        seconds += [taken] * len(refined)
        labels += [one.class_ids_K[r.argmax(axis=0)] for one, r in zip(kept[part], refined, strict=True)]
    return labels, seconds


def _refine(
    images: Sequence[Image], kept: Sequence[Prediction], config: RefineConfig, device: str
) -> list[NDArray[np.float32]]:
    logs = [one.log_probabilities_KHW for one in kept if one.log_probabilities_KHW is not None]
    if config.exact_unaries:
        return refine_logs(images, logs, config, device)
    return refine_batch(images, [one.probabilities_KHW for one in kept], config, device)


def made_up(count: int, height: int, width: int) -> Iterator[tuple[Image, Tensor]]:
    """Smooth score maps of 21 classes, in which a few win, and images whose colours follow them."""
    classes = CLASSES
    for seed in range(count):
        random = torch.Generator().manual_seed(seed)

        def smooth(channels: int, cells: int, random: torch.Generator = random) -> Tensor:
            coarse = torch.randn(1, channels, cells, cells, generator=random)
            return interpolate(coarse, (height, width), mode="bicubic")[0]

        scores_CHW = 2 * smooth(classes, 8) - 12 * torch.rand(classes, 1, 1, generator=random)
        scores_CHW[0] = 2 + smooth(1, 8)
        colours_C3 = 255 * torch.rand(classes, 3, generator=random)
        sharp_CHW = (scores_CHW + smooth(classes, 40) / 2).mul(4).softmax(dim=0)  # with other edges than the scores
        image_HW3 = torch.einsum("chw,cn->hwn", sharp_CHW, colours_C3) + 20 * smooth(3, 90).permute(1, 2, 0)
        noisy_HW3 = image_HW3 + 3 * torch.randn(height, width, 3, generator=random)
        yield noisy_HW3.clamp(0, 255).byte().numpy(), scores_CHW


def _predicted(config: Crf) -> Iterator[tuple[Image, Tensor]]:
    """Images and a network's aggregated score maps. Only this needs OpenCV and Arrow."""
    import cv2

    from pipeline import storage
    from pipeline.checkpoints.bundled import weights_uri
    from pipeline.imaging.images import decode_at_working_size
    from pipeline.inference.predictor import Predictor
    from pipeline.inputs.manifest import build_manifest
    from pipeline.inputs.reading import read_image
    from pipeline.models.checkpoint import load_for_windows
    from pipeline.models.checkpoint_header import shape_for
    from pipeline.proposals.edgeboxes import propose

    assert config.input is not None
    cv2.setNumThreads(1)
    checkpoint = load_for_windows(storage.read_bytes(weights_uri(config.weights)), config.weights)
    predictor = Predictor(checkpoint, config.predict, label_threshold=0.0)
    proposals = replace(
        config.propose, window_shape=shape_for(checkpoint.info, config.propose.window_shape, config.weights)
    )
    decode = DecodeConfig()
    for uri in build_manifest(config.input, config.limit)["uri"].to_pylist():
        image_HW3, _ = decode_at_working_size(read_image(uri), decode.max_megapixels, decode.max_side)
        boxes_N4 = propose(image_HW3, proposals).boxes_N4
        yield image_HW3, predictor.aggregate([image_HW3], [boxes_N4])[0]
