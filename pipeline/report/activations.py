"""What the decoder draws, from coarse to fine (paper section 3.2, figure 4)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.models.deconvnet import DeconvNet


@dataclass(frozen=True)
class Activation:
    """One channel of one layer.

    Attributes:
        layer: such as `deconv5_3` or `unpool4`.
        channel: its number in the layer.
        map_HW: float32, as the layer gave it; 0 or more.
    """

    layer: str
    channel: int
    map_HW: NDArray[np.float32]


@torch.inference_mode()
def decoder_maps(net: DeconvNet, input_13HW: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Let a crop through the network and keep what each decoder block was given and gave.

    Args:
        net: in evaluation mode, not folded.
        input_13HW: preprocessed, `[1, 3, 224, 224]`.

    Returns:
        Maps `[C, h, w]` by layer from coarse to fine, `unpool5`, `deconv5_3`, `unpool4`, ... `deconv1_2`, and the
        scores `[num_classes, 224, 224]`.
    """
    maps: dict[str, Tensor] = {}

    def keep(number: str, block: nn.Module, given: tuple[Tensor], gave: Tensor) -> None:
        last, _ = list(block.named_children())[-1]
        maps[f"unpool{number}"], maps[last] = given[0][0], gave[0]

    with ExitStack() as hooks:
        for number, block in net.decoder.items():
            hooks.callback(block.register_forward_hook(partial(keep, number)).remove)
        scores_CHW: Tensor = net(input_13HW)[0]
    return maps, scores_CHW


def representative(maps: Mapping[str, Tensor], scores_CHW: Tensor) -> list[Activation]:
    """One channel a layer, from `deconv5_3` on: for a block's output the one that is most like the network's answer.

    That is the channel with the highest correlation (Pearson's, over pixels) with the probability of not being
    background, averaged down to the layer's size. The strongest channel would nearly always be one of background or
    texture. An unpooling layer is shown by the channel of the block before it, whose values it moves apart. The paper
    shows a representative channel and gives no rule.

    Args:
        maps: see `decoder_maps`.
        scores_CHW: background first.
    """
    object_1HW = 1 - scores_CHW.softmax(dim=0)[:1]
    shown: list[Activation] = []
    for layer, map_CHW in maps.items():
        if layer.startswith("deconv"):
            _, height, width = map_CHW.shape
            channel = int(_correlation(map_CHW, F.adaptive_avg_pool2d(object_1HW, (height, width))).argmax())
        elif shown:
            channel = shown[-1].channel
        else:
            continue
        shown.append(Activation(layer, channel, map_CHW[channel].float().cpu().numpy()))
    return shown


def _correlation(map_CHW: Tensor, target_1HW: Tensor) -> Tensor:
    a_CHW = map_CHW - map_CHW.mean(dim=(1, 2), keepdim=True)
    b_1HW = target_1HW - target_1HW.mean()
    norms_C = a_CHW.square().sum(dim=(1, 2)).sqrt() * b_1HW.square().sum().sqrt()
    return (a_CHW * b_1HW).sum(dim=(1, 2)) / norms_C.clamp(min=1e-12)
