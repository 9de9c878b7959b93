"""The predictor of a network that sees whole images: whole images in, class probabilities out, no proposals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import PredictConfig
from pipeline.inference.predictor import Image, Prediction, choose_device, prune
from pipeline.models.members import WholeImageNetwork


class WholeImages:
    """A network that sees a whole image at once, on one device; several threads may call `predict`.

    Args:
        network: the network.
        config: device and precision; the rest concerns proposals.
        label_threshold: as for `keep_labels`, 0..1.
        log_probabilities: whether predictions hold logarithms too.

    Raises:
        ConfigError: `device` is `cuda` and there is none.
    """

    def __init__(
        self,
        network: WholeImageNetwork,
        config: PredictConfig,
        label_threshold: float,
        *,
        log_probabilities: bool = False,
    ) -> None:
        self.device = choose_device(config.device)
        self.num_classes = network.num_classes
        self._network = network.to(self.device, torch.bfloat16 if config.precision == "bfloat16" else torch.float32)
        self._prune = partial(prune, label_threshold=label_threshold, log_probabilities=log_probabilities)
        self._turn = Lock()

    def predict(self, images: Sequence[Image], boxes: Sequence[NDArray[np.floating]]) -> list[Prediction]:
        """Class probabilities of images, one after the other: they differ in size.

        Args:
            images: RGB uint8 `[H, W, 3]`.
            boxes: not used.
        """
        del boxes
        with self._turn:
            return [self._prune(self.scores(image_HW3)) for image_HW3 in images]

    @torch.inference_mode()
    def scores(self, image_HW3: Image) -> Tensor:
        """Logarithms of the probabilities relative to chance, 1/C, float32 `[C, H, W]` on the device.

        Their softmax equals the network's. A class that is more likely than chance is above 0, as `prune` needs it.
        """
        image_3HW = torch.from_numpy(np.array(image_HW3)).to(self.device).permute(2, 0, 1)
        return self._network.scores(image_3HW).log_softmax(dim=0) + math.log(self.num_classes)
