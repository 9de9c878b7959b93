"""The predictor: images and proposals in, class probabilities out, the network fed in micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import PredictConfig
from pipeline.crf.labels import keep_labels
from pipeline.geometry import fed_rectangles
from pipeline.inference.aggregate import Canvas, probabilities
from pipeline.inference.crops import cut_crops
from pipeline.inference.ensemble import Ensemble
from pipeline.models.deconvnet import DeconvNet
from pipeline.models.folding import fold
from pipeline.models.weights import Checkpoint

Image = NDArray[np.uint8]
CropOf = tuple[int, NDArray[np.float64]]
"""The number of a crop's image in its batch, and the rectangle it is cut from."""


@dataclass(frozen=True)
class Prediction:
    """What leaves the device for one image: only the classes that can still win (`crf.labels.keep_labels`)."""

    class_ids_K: NDArray[np.int64]
    probabilities_KHW: NDArray[np.float16]


class Predictor:
    """A network in inference form on one device, and the way from proposals to an image's probabilities."""

    def __init__(
        self, checkpoint: Checkpoint, config: PredictConfig, label_threshold: float, ensemble: Ensemble | None = None
    ) -> None:
        self.device = choose_device(config.device)
        self.num_classes = checkpoint.info.num_classes
        self._preprocessing = checkpoint.info.preprocessing
        self._dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
        self._net = inference_form(checkpoint.net, self.device, self._dtype)
        self._config = config
        self.micro_batch = config.micro_batch
        """Crops that go through the network at once; halved when a GPU's memory runs out."""
        self._label_threshold = label_threshold
        self._ensemble = ensemble and ensemble.to(self.device, self._dtype)

    def predict(self, images: Sequence[Image], boxes: Sequence[NDArray[np.floating]]) -> list[Prediction]:
        """Class probabilities of a batch of images; arguments and errors as `aggregate`."""
        maps = self.aggregate(images, boxes)
        if self._ensemble is not None:
            maps = [self._ensemble(image, scores_CHW) for image, scores_CHW in zip(images, maps, strict=True)]
        return [prune(scores_CHW, self._label_threshold) for scores_CHW in maps]

    @torch.inference_mode()
    def aggregate(self, images: Sequence[Image], boxes: Sequence[NDArray[np.floating]]) -> list[Tensor]:
        """Aggregated score maps, float32 `[C, H, W]` on the device, of a batch of images.

        The crops of all images go through the network together, in micro-batches of one size (the last may be
        smaller), whatever the number of boxes of each image.

        Args:
            images: RGB uint8 `[H, W, 3]`, each of its own size.
            boxes: extended boxes `[N, 4]` of each image; N may be 0.

        Raises:
            ValueError: a box has no area, or the two lists differ in length.
        """
        if len(images) != len(boxes):
            raise ValueError(f"{len(images)} images and {len(boxes)} lists of boxes")
        pixels = [torch.from_numpy(np.array(image)).to(self.device).permute(2, 0, 1) for image in images]
        rectangles = [fed_rectangles(b, self._config.window) for b in boxes]
        canvases = [self._canvas(image_3HW) for image_3HW in pixels]
        crops_of = [(i, rectangle) for i, per_image in enumerate(rectangles) for rectangle in per_image]
        for scores_NCHW, micro_batch in self._micro_batches(pixels, crops_of):
            for scores_CHW, (i, rectangle) in zip(scores_NCHW, micro_batch, strict=True):
                canvases[i].paste(scores_CHW, rectangle)
        return [canvas.scores() for canvas in canvases]

    def _micro_batches(
        self, pixels: list[Tensor], crops_of: Sequence[CropOf]
    ) -> Iterator[tuple[Tensor, Sequence[CropOf]]]:
        """Scores of all crops, a micro-batch at a time; half as many from then on where the GPU's memory ran out."""
        start = 0
        while start < len(crops_of):
            micro_batch = crops_of[start : start + self.micro_batch]
            try:
                scores_NCHW = self._scores(pixels, micro_batch)
            except torch.OutOfMemoryError:
                if len(micro_batch) == 1:
                    raise
                self.micro_batch = len(micro_batch) // 2
                torch.cuda.empty_cache()
                continue
            yield scores_NCHW, micro_batch
            start += len(micro_batch)

    def _canvas(self, image_3HW: Tensor) -> Canvas:
        height, width = image_3HW.shape[1:]
        return Canvas(self.num_classes, height, width, self._config.aggregation, self.device)

    def _scores(self, pixels: list[Tensor], micro_batch: Sequence[CropOf]) -> Tensor:
        parts = []
        for i in dict.fromkeys(index for index, _ in micro_batch):
            own = np.stack([rectangle for index, rectangle in micro_batch if index == i])
            parts.append(cut_crops(pixels[i], torch.from_numpy(own).to(self.device)))
        crops_N3HW = self._preprocessing(torch.cat(parts)).to(self._dtype, memory_format=torch.channels_last)
        scores_NCHW: Tensor = self._net(crops_N3HW).float()
        return scores_NCHW


def inference_form(net: DeconvNet, device: torch.device, dtype: torch.dtype) -> DeconvNet:
    """A copy with its batch normalisation folded, in the memory layout that convolutions are fastest in.

    The folding is done in float32. Products of bfloat16 are added up in float32 by the libraries that torch calls.
    """
    folded: DeconvNet = fold(net).to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return folded


def prune(scores_CHW: Tensor, label_threshold: float) -> Prediction:
    """Probabilities of an aggregated score map, without the classes that cannot win (`crf.labels.keep_labels`)."""
    probabilities_CHW = probabilities(scores_CHW)
    kept_K = keep_labels(probabilities_CHW, (scores_CHW > 0).any(dim=0), label_threshold)
    return Prediction(kept_K.cpu().numpy(), probabilities_CHW[kept_K].half().cpu().numpy())


def choose_device(name: str) -> torch.device:
    """The torch device of a `PredictConfig.device` setting.

    Raises:
        RuntimeError: `cuda` was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("device is cuda, but torch sees no GPU here; use `--device auto` or `--device cpu`")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
