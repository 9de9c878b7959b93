"""A network as inference runs it: folded, its fully connected layers as matrices, channels last (paper section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.inference.folding import fold
from pipeline.inference.layer_ops import TORCH, Steps
from pipeline.inference.self_test import steps_work
from pipeline.models.deconvnet import FC_KERNEL, DeconvNet, Layer
from pipeline.models.litedeconvnet import LiteDeconvNet


class InferenceNet(nn.Module):
    """A DeconvNet for 224x224 crops, without gradients; its scores equal the original's up to float rounding.

    `fc6` sees a 7x7 map through a 7x7 kernel and `fc6_deconv` makes a 7x7 map from one pixel: both are products with
    one matrix. As a transposed convolution the latter took a tenth of a CPU's forward pass at full width, and a quarter
    where the system had to allocate the memory for its windows anew each time.

    Args:
        net: the original, which is not changed.
        steps: how the blocks are computed.
    """

    def __init__(self, net: DeconvNet, steps: Steps = TORCH) -> None:
        super().__init__()
        folded = fold(net)
        self._steps = steps
        self._encoder = [_convolutions(block) for block in folded.encoder.values()]
        self._decoder = [_convolutions(block) for block in folded.decoder.values()]
        self.convolutions = nn.ModuleList(conv for block in (*self._encoder, *self._decoder) for conv in block)
        fc6, fc7, deconv = (layer.conv for layer in (folded.fc6, folded.fc7, folded.fc6_deconv))
        # Rows and columns in the order of a channels-last map: y, x, channel.
        self.fc6 = _linear(fc6.weight.permute(0, 2, 3, 1).flatten(1), fc6.bias)
        self.fc7 = _linear(fc7.weight.flatten(1), fc7.bias)
        self.fc6_deconv = _linear(deconv.weight.permute(2, 3, 1, 0).flatten(0, 2), deconv.bias, FC_KERNEL**2)
        self.seg_score = folded.seg_score
        self.requires_grad_(False).eval()

    def forward(self, crops_N3HW: Tensor) -> Tensor:
        """Score maps `[N, num_classes, 224, 224]` of channels-last crops `[N, 3, 224, 224]`."""
        x = crops_N3HW
        switches = []
        for *convs, last in self._encoder:
            for conv in convs:
                x = self._steps.conv_relu(x, conv)
            x, places = self._steps.conv_relu_pool(x, last)
            switches.append(places)
        x = self._fully_connected(x)
        for convs in self._decoder:
            x = self._steps.unpool(x, switches.pop())
            for conv in convs:
                x = self._steps.conv_relu(x, conv)
        scores_NCHW: Tensor = self.seg_score(x)
        return scores_NCHW

    def _fully_connected(self, x_NCHW: Tensor) -> Tensor:
        n, channels = x_NCHW.shape[:2]
        x = x_NCHW.permute(0, 2, 3, 1).flatten(1)
        for layer in (self.fc6, self.fc7, self.fc6_deconv):
            x = F.relu(layer(x), inplace=True)
        return x.view(n, FC_KERNEL, FC_KERNEL, channels).permute(0, 3, 1, 2)


def inference_form(net: DeconvNet | LiteDeconvNet, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The fastest form of a network for a device, on that device; a light network is only folded.

    The folding is done in float32. The libraries that torch calls add products of bfloat16 up in float32.

    Args:
        net: the original, which is not changed.
        device: where the form will run.
        dtype: of its weights and maps, float32 or bfloat16.

    Returns:
        A module from channels-last crops `[N, 3, 224, 224]` to score maps.
    """
    if isinstance(net, LiteDeconvNet):
        return fold(net).to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
    steps = TORCH
    if steps_work(device, dtype, net.width):
        from pipeline.inference import kernels

        steps = kernels.STEPS
    form: InferenceNet = InferenceNet(net, steps).to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return form


def _convolutions(block: nn.Module) -> list[nn.Conv2d]:
    return [layer.conv for layer in block.children() if isinstance(layer, Layer) and isinstance(layer.conv, nn.Conv2d)]


def _linear(weight: Tensor, bias: Tensor | None, repeats: int = 1) -> nn.Linear:
    assert bias is not None  # every layer of the network has one
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight, linear.bias = nn.Parameter(weight.contiguous()), nn.Parameter(bias.repeat(repeats))
    return linear
