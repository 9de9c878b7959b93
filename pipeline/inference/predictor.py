"""The predictor: images and proposals in, class probabilities out; crops pass the network in micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import ConfigError, PredictConfig
from pipeline.imaging.geometry import fed_rectangles
from pipeline.inference.aggregate import Canvas, probabilities
from pipeline.inference.certainty import Rectangles, next_of_all, top_probability
from pipeline.inference.crops import cut_crops
from pipeline.inference.ensemble import Ensemble
from pipeline.inference.form import inference_form
from pipeline.inference.graphs import GraphedNet
from pipeline.inference.labels import keep_labels
from pipeline.inference.self_test import gathering_works
from pipeline.models.checkpoint import Checkpoint, LiteCheckpoint
from pipeline.models.deconvnet import DeconvNet
from pipeline.models.litedeconvnet import LiteDeconvNet

if TYPE_CHECKING:
    from pipeline.inference.aggregate_gpu import GatheredCanvas

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Prediction:
    """What leaves the device for one image: only the classes that can still win (`keep_labels`)."""

    class_ids_K: NDArray[np.int64]
    probabilities_KHW: NDArray[np.float16]
    log_probabilities_KHW: NDArray[np.float32] | None = None
    """Their logarithms, if they were asked for: float16 rounds probabilities below 6e-8 to 0."""


class Predictor:
    """A network in inference form on one device, and all steps from proposals to an image's probabilities.

    Several threads may call `predict`: one of them at a time puts a batch on the device's queue, and while the device
    works on it, the others fetch results and prepare the next batches.

    Args:
        checkpoint: the network that sees proposals.
        config: window rule, aggregation, precision, micro-batch and device.
        label_threshold: as for `keep_labels`, 0..1.
        ensemble: the other network, if there is one.
        log_probabilities: whether predictions hold logarithms too.

    Raises:
        ConfigError: `device` is `cuda` and there is none.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | LiteCheckpoint,
        config: PredictConfig,
        label_threshold: float,
        ensemble: Ensemble | None = None,
        *,
        log_probabilities: bool = False,
    ) -> None:
        self.device = choose_device(config.device)
        self.num_classes = checkpoint.info.num_classes
        self._preprocessing = checkpoint.info.preprocessing
        self._dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
        self._net = fastest_form(checkpoint.net, self.device, self._dtype)
        # The gathering kernel needs score maps of the window's own size, and has no scores before it has all of them.
        self._gathers = (
            isinstance(checkpoint.net, DeconvNet)
            and config.skip_certain == 1
            and gathering_works(self.device, self._dtype, self.num_classes, config.aggregation)
        )
        self._fetching = torch.cuda.Stream() if self.device.type == "cuda" else None
        self._turn = Lock()
        self._config = config
        self.micro_batch = config.micro_batch
        """Crops that go through the network at once; halved when a GPU's memory runs out."""
        self._prune = partial(prune, label_threshold=label_threshold, log_probabilities=log_probabilities)
        self._ensemble = ensemble and ensemble.to(self.device, self._dtype)

    @torch.inference_mode()
    def predict(self, images: Sequence[Image], boxes: Sequence[NDArray[np.floating]]) -> list[Prediction]:
        """Class probabilities of a batch of images; arguments and errors as for `aggregate`."""
        with self._turn:
            if self._ensemble is None:
                scores = self.aggregate(images, boxes)
            else:
                pixels = [self._image_to_device(image) for image in images]
                others = [self._ensemble.member.scores(image_3HW) for image_3HW in pixels]
                own = self._aggregate(pixels, boxes, others)
                scores = [self._ensemble.combine(*both) for both in zip(own, others, strict=True)]
            queued = torch.cuda.current_stream().record_event() if self._fetching else None
        if self._fetching is None or queued is None:
            return [self._prune(scores_CHW) for scores_CHW in scores]
        # On a separate stream, so that waiting for these results does not wait for the batch queued after them.
        self._fetching.wait_event(queued)
        with torch.cuda.stream(self._fetching):
            pruned = [self._prune(scores_CHW) for scores_CHW in scores]
            self._fetching.synchronize()  # before `scores` may be overwritten and `pruned` read
        return pruned

    @torch.inference_mode()
    def aggregate(self, images: Sequence[Image], boxes: Sequence[NDArray[np.floating]]) -> list[Tensor]:
        """Aggregated score maps, float32 `[C, H, W]` on the device, of a batch of images.

        The crops of all images go through the network together, in micro-batches of one size (the last may be
        smaller), whatever the number of boxes of each image. On a GPU this returns before the work is done, unless
        windows may be left out (`skip_certain`): then it waits for each round of them.

        Args:
            images: RGB uint8 `[H, W, 3]`, each of its own size.
            boxes: extended boxes `[N, 4]` of each image; N may be 0.

        Raises:
            ValueError: a box has no area, or the two lists differ in length.
        """
        return self._aggregate([self._image_to_device(image) for image in images], boxes)

    def _aggregate(
        self, pixels: list[Tensor], boxes: Sequence[NDArray[np.floating]], others: Sequence[Tensor] = ()
    ) -> list[Tensor]:
        """`aggregate` of images on the device. `others`: scores of the ensemble's other network, if there is one."""
        if len(pixels) != len(boxes):
            raise ValueError(f"{len(pixels)} images and {len(boxes)} lists of boxes")
        waiting = [fed_rectangles(b, self._config.window) for b in boxes]
        canvases = [self._canvas(image, len(r)) for image, r in zip(pixels, waiting, strict=True)]
        certain = self._config.skip_certain
        known = [top_probability(scores_CHW) for scores_CHW in others] if certain < 1 else []
        while any(map(len, waiting)):
            now, waiting = (waiting, []) if certain == 1 else next_of_all(canvases, known, waiting, certain)
            self._compute(pixels, now, canvases)
        return [canvas.scores() for canvas in canvases]

    def _compute(
        self, pixels: list[Tensor], rectangles: list[Rectangles], canvases: Sequence[Canvas | GatheredCanvas]
    ) -> None:
        """Put windows of all images through the network, and their scores on the images' canvases."""
        crops_of = [(i, rectangle) for i, per_image in enumerate(rectangles) for rectangle in per_image]
        places_M4 = self._to_device(np.concatenate([np.zeros((0, 4)), *rectangles]))
        for scores_NCHW, start in self._micro_batches(pixels, [i for i, _ in crops_of], places_M4):
            fed = crops_of[start : start + len(scores_NCHW)]
            for scores_CHW, (i, rectangle) in zip(scores_NCHW, fed, strict=True):
                canvases[i].paste(scores_CHW, rectangle)

    def _micro_batches(
        self, pixels: list[Tensor], image_of: Sequence[int], places_M4: Tensor
    ) -> Iterator[tuple[Tensor, int]]:
        """Scores of all crops, a micro-batch at a time, and the number of its first crop.

        If the GPU's memory runs out, micro-batches are halved from then on.
        """
        start = 0
        while start < len(image_of):
            end = min(start + self.micro_batch, len(image_of))
            try:
                scores_NCHW = self._scores(pixels, image_of[start:end], places_M4[start:end])
            except torch.OutOfMemoryError:
                if self.micro_batch == 1:
                    raise
                self.micro_batch //= 2
                if isinstance(self._net, GraphedNet):  # else smaller micro-batches are padded and save no memory
                    self._net.forget()
                torch.cuda.empty_cache()
                continue
            yield scores_NCHW, start
            start = end

    def _canvas(self, image_3HW: Tensor, windows: int) -> Canvas | GatheredCanvas:
        height, width = image_3HW.shape[1:]
        shape = (self.num_classes, height, width, self._config.aggregation, self.device)
        if self._gathers:
            from pipeline.inference.aggregate_gpu import GatheredCanvas

            return GatheredCanvas(*shape, windows)
        return Canvas(*shape)

    def _scores(self, pixels: list[Tensor], image_of: Sequence[int], places_N4: Tensor) -> Tensor:
        parts, start = [], 0
        for i, crops in groupby(image_of):
            end = start + len(list(crops))
            parts.append(cut_crops(pixels[i], places_N4[start:end]))
            start = end
        crops_N3HW = self._preprocessing(torch.cat(parts)).to(self._dtype, memory_format=torch.channels_last)
        return self._net(crops_N3HW)

    def _image_to_device(self, image_HW3: Image) -> Tensor:
        return self._to_device(np.array(image_HW3)).permute(2, 0, 1)

    def _to_device(self, array: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor


def fastest_form(
    net: DeconvNet | LiteDeconvNet, device: torch.device, dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    """The inference form of a network on a device; on a GPU, recorded as a CUDA graph.

    Args:
        net: the original, which is not changed.
        device: where it will run.
        dtype: of weights and maps, float32 or bfloat16.

    Returns:
        From channels-last crops `[N, 3, 224, 224]` to score maps.
    """
    form = inference_form(net, device, dtype)
    return GraphedNet(form) if device.type == "cuda" else form


def prune(scores_CHW: Tensor, label_threshold: float, *, log_probabilities: bool = False) -> Prediction:
    """Probabilities of an aggregated score map, without the classes that cannot win (`inference.labels.keep_labels`).

    Args:
        scores_CHW: float32, above 0 where there is evidence for a class.
        label_threshold: as for `keep_labels`, 0..1.
        log_probabilities: whether to add their logarithms.
    """
    probabilities_CHW = probabilities(scores_CHW)
    kept_K = keep_labels(probabilities_CHW, (scores_CHW > 0).any(dim=0), label_threshold)
    logs_KHW = _to_host(scores_CHW.log_softmax(dim=0)[kept_K]) if log_probabilities else None
    return Prediction(_to_host(kept_K), _to_host(probabilities_CHW[kept_K].half()), logs_KHW)


def _to_host(tensor: Tensor) -> NDArray[Any]:
    """A tensor as an array, complete once the current stream is done; a CPU's tensor is not copied."""
    if tensor.device.type == "cpu":
        return tensor.numpy()
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True).numpy()


def choose_device(name: str) -> torch.device:
    """The torch device of a `PredictConfig.device` setting.

    Raises:
        ConfigError: `cuda` was asked for, and there is no such device.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch sees no GPU here; use `--device auto` or `--device cpu`")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
