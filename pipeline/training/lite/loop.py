"""The training of the light DeconvNet, where it differs from the FCN's (`training.fcn.loop`)."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config.lite import TrainLiteConfig
from pipeline.imaging.geometry import extend_boxes
from pipeline.inference.aggregate import Canvas
from pipeline.inference.crops import cut_crops
from pipeline.models.efficientnet import INPUT
from pipeline.models.litedeconvnet import Decoder, LiteDeconvNet
from pipeline.models.litefcn import LiteFCN, features
from pipeline.training.fcn.loop import Training
from pipeline.training.lite.losses import distance, loss_of
from pipeline.training.lite.teacher import Teacher


class Taught(nn.Module):
    """A decoder that learns on the maps of an FCN; the FCN is fixed and is also its teacher, if there is no other.

    Args:
        fcn: the FCN, which is not copied.
        teacher: what teaches in its place.
        all_layers: whether encoder and context are copies that learn too, or the FCN's.
    """

    def __init__(self, fcn: LiteFCN, teacher: Teacher | None = None, *, all_layers: bool = False) -> None:
        super().__init__()
        self.teacher = teacher
        self.encoder = deepcopy(fcn.encoder).requires_grad_(True) if all_layers else None
        self.context = deepcopy(fcn.context).requires_grad_(True) if all_layers else None
        self.fcn = fcn.requires_grad_(False)
        self.decoder = Decoder(fcn.num_classes)
        self.train()

    def train(self, mode: bool = True) -> Taught:
        """Switch the mode of what learns; the FCN stays in evaluation mode."""
        super().train(mode)
        self.fcn.eval()
        return self

    def forward(self, x_N3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the decoder at half, and of the teacher at a quarter, of the windows' resolution."""
        with torch.no_grad():
            maps = features(x_N3HW, self.fcn.encoder, self.fcn.context)
            wanted_NCqq = self.fcn.head(maps) if self.teacher is None else self.teacher(x_N3HW)
        if self.encoder is not None and self.context is not None:
            maps = features(x_N3HW, self.encoder, self.context)
        return self.decoder(maps), wanted_NCqq

    def whole(self) -> LiteDeconvNet:
        """The trained network in evaluation mode; it shares its weights with this one."""
        net = LiteDeconvNet(self.fcn.num_classes, self.fcn.variant)
        net.encoder, net.context = self.encoder or self.fcn.encoder, self.context or self.fcn.context
        net.decoder = self.decoder
        return net.eval()

    def scores(self, image_3HW: Tensor) -> Tensor:
        """Scores before softmax, float32 `[C, H, W]`, of a whole RGB image in one square window."""
        height, width = image_3HW.shape[1:]
        square_14 = extend_boxes(np.array([[0, 0, width, height]]), 1.0, "square").astype(np.float64)
        device = image_3HW.device
        crops_N3HW = INPUT(cut_crops(image_3HW, torch.from_numpy(square_14).to(device)))
        canvas = Canvas(self.fcn.num_classes, height, width, "sum", device)
        with torch.inference_mode():
            canvas.paste(self(crops_N3HW.contiguous(memory_format=torch.channels_last))[0][0].float(), square_14[0])
        return canvas.scores()


def new_training(net: Taught, config: TrainLiteConfig) -> Training:
    """The start of a run: AdamW with two groups for each part that learns, kernels, which decay, and the rest."""
    parts = ((net.encoder, config.backbone_factor), (net.context, config.backbone_factor), (net.decoder, 1.0))
    groups = [
        {
            "params": [p for p in part.parameters() if (p.ndim > 1) == decays],
            "rate": config.learning_rate * factor,
            "weight_decay": config.weight_decay * decays,
        }
        for part, factor in parts
        if part is not None
        for decays in (True, False)
    ]
    return Training(net, torch.optim.AdamW(groups))


def loss_of_stage(config: TrainLiteConfig, found: tuple[Tensor, Tensor], labels_NHW: Tensor, step: int) -> Tensor:
    """The loss of a step: the labels' loss and, in the second stage, the distance from the teacher.

    In the first stage the teacher is not used, because it finds objects that count as background there.

    Args:
        config: the settings.
        found: scores before softmax of the decoder and of the teacher.
        labels_NHW: int64; `VOID` does not count.
        step: number of the step.
    """
    scores_NChw, wanted_NCqq = (scores.float() for scores in found)
    loss = loss_of(scores_NChw, labels_NHW, step % 2)
    return loss if config.stage(step) == 1 else loss + distance(scores_NChw, wanted_NCqq)
