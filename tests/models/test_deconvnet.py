"""The network against the layer table of the paper and against slow references."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_networks import deconvnet_rows, deconvnet_scores

from benchmarks.network import trained_looking
from pipeline.inference.folding import fold
from pipeline.inference.form import inference_form
from pipeline.models.background import hold_back_background
from pipeline.models.deconvnet import Deconv3x3, DeconvNet, pool, unpool
from pipeline.models.initialise import BN_SHIFT, DECODER_STD, initialise, load_vgg16

torch.set_num_threads(1)


def test_full_network_has_the_papers_parameter_count():
    with torch.device("meta"):
        net = DeconvNet(num_classes=21, width=1.0)
    assert sum(p.numel() for p in net.parameters()) == 251_805_653


def test_layers_follow_the_papers_table():
    with torch.device("meta"):
        net = DeconvNet()
    convs = {name.removesuffix(".conv").split(".")[-1]: m for name, m in net.named_modules() if name.endswith("conv")}
    assert [tuple(m.weight.shape) for m in net.modules() if hasattr(m, "out_channels")] == [
        shape for _, shape, _ in deconvnet_rows(1)
    ]
    encoder = {"conv1": [64, 64], "conv2": [128, 128], "conv3": [256] * 3, "conv4": [512] * 3, "conv5": [512] * 3}
    decoder = {"deconv5": [512] * 3, "deconv4": [512, 512, 256], "deconv3": [256, 256, 128], "deconv2": [128, 64],
               "deconv1": [64, 64]}  # fmt: skip
    for block, channels in {**encoder, **decoder}.items():
        assert [convs[f"{block}_{i}"].out_channels for i in range(1, len(channels) + 1)] == channels
    assert convs["fc6"].kernel_size == convs["fc6_deconv"].kernel_size == (7, 7)
    assert (convs["fc6"].out_channels, convs["fc7"].out_channels, convs["fc6_deconv"].out_channels) == (4096, 4096, 512)
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules()) == 13 + 3 + 13
    assert not any(isinstance(m, torch.nn.Dropout) for m in net.modules())


@pytest.mark.parametrize("num_classes", [2, 7, 60])
def test_scores_have_the_input_size_and_one_map_a_class(num_classes):
    net = DeconvNet(num_classes, width=1 / 16).eval()
    with torch.inference_mode():
        assert net(torch.randn(2, 3, 224, 224)).shape == (2, num_classes, 224, 224)


@pytest.mark.parametrize(("num_classes", "width"), [(1, 1.0), (21, 0.0), (21, 9.0)])
def test_impossible_networks_are_refused(num_classes, width):
    with pytest.raises(ValueError, match="is"):
        DeconvNet(num_classes, width)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_unpooling_agrees_with_a_loop_and_with_torch(seed, channels, half_h, half_w, ties):
    rng = np.random.default_rng(seed)
    x = (
        rng.integers(0, 3, (2, channels, 2 * half_h, 2 * half_w)).astype(np.float32)
        if ties
        else rng.normal(size=(2, channels, 2 * half_h, 2 * half_w)).astype(np.float32)
    )
    values = rng.normal(size=(2, channels, half_h, half_w)).astype(np.float32)
    expected_pooled, expected = np.zeros_like(values), np.zeros_like(x)
    for n, c, i, j in np.ndindex(values.shape):
        cell = x[n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        row, column = divmod(int(cell.argmax()), 2)  # the first maximum on ties
        expected_pooled[n, c, i, j] = cell.max()
        expected[n, c, 2 * i + row, 2 * j + column] = values[n, c, i, j]
    pooled, switches = pool(torch.from_numpy(x))
    unpooled = unpool(torch.from_numpy(values), switches)
    np.testing.assert_array_equal(pooled.numpy(), expected_pooled)
    np.testing.assert_array_equal(unpooled.numpy(), expected)
    torch_pooled, indices = F.max_pool2d(torch.from_numpy(x), 2, 2, return_indices=True)
    torch.testing.assert_close(unpool(torch_pooled, switches), F.max_unpool2d(torch_pooled, indices, 2, 2))


def test_each_unpooling_uses_the_switches_of_its_mirrored_pooling():
    net = DeconvNet(2, width=1 / 16).eval()
    seen = {}
    for block in "12345":
        net.encoder[block].register_forward_hook(lambda _m, _i, out, b=block: seen.update({f"pooled{b}": out}))
        net.decoder[block].register_forward_hook(lambda _m, i, _o, b=block: seen.update({f"unpooled{b}": i[0]}))
    with torch.inference_mode():
        net(torch.randn(1, 3, 224, 224))
    for block in "12345":
        _, switches = F.max_pool2d(seen[f"pooled{block}"], 2, 2, return_indices=True)
        places = torch.zeros_like(seen[f"unpooled{block}"], dtype=torch.bool).flatten(2)
        places.scatter_(2, switches.flatten(2), True)
        assert seen[f"unpooled{block}"].flatten(2)[~places].abs().max() == 0
        assert seen[f"unpooled{block}"].abs().sum() > 0


def test_deconv3x3_is_torchs_transposed_convolution():
    layer = Deconv3x3(5, 7)
    x = torch.randn(2, 5, 9, 11)
    expected = F.conv_transpose2d(x, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)


def crops(count: int) -> torch.Tensor:
    """Noise `[count, 3, 224, 224]`, float64: see `deconvnet_scores`."""
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_network_computes_what_its_layer_table_says():
    """Against a forward pass written from the table alone (`reference_networks`), with this network's weights."""
    net = trained_looking(DeconvNet(21, width=1 / 16))
    convs = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d)]
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    blobs = {}
    for i, (name, shape, norm_name) in enumerate(deconvnet_rows(16)):
        assert tuple(convs[i].weight.shape) == shape, name
        blobs[name] = [convs[i].weight.detach().numpy(), convs[i].bias.detach().numpy()]
        if norm_name:
            bn = norms[i]
            factor = bn.weight / (bn.running_var + bn.eps).sqrt()
            blobs[norm_name] = [factor.detach().numpy(), (bn.bias - factor * bn.running_mean).detach().numpy()]
    assert len(convs) == len(norms) + 1 == len(deconvnet_rows(16))
    x = crops(2)
    net.double()
    with torch.inference_mode():
        expected, got, quick = deconvnet_scores(blobs, x), net(x), fold(net)(x)
    assert expected.std() > 1e-3
    for scores in (got, quick):
        assert (scores - expected).norm() / expected.norm() < 1e-6  # the blobs' factors were rounded to float32


def test_every_layer_of_the_network_that_is_compared_shows_in_its_scores():
    net = trained_looking(DeconvNet(5, width=1 / 16))
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    layers = [net.encoder["1"].conv1_1, net.encoder["5"].conv5_3, net.fc6, net.fc7, net.fc6_deconv]
    with torch.inference_mode():
        expected = net(x)
        for layer in [*layers, net.decoder["5"].deconv5_1]:
            layer.bn.bias += 0.01
            assert (net(x) - expected).norm() / expected.norm() > 5e-4
            layer.bn.bias -= 0.01


def test_folding_batch_normalisation_keeps_the_scores():
    net = trained_looking(DeconvNet(5, width=1 / 16)).double()
    folded = fold(net)
    x = crops(2)
    with torch.inference_mode():
        expected, got = net(x), folded(x)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    assert (got - expected).norm() / expected.norm() < 1e-12
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())  # the original stays as it was


def test_the_inference_form_gives_the_same_scores_and_labels():
    net = trained_looking(DeconvNet(5, width=1 / 16)).double()
    form = inference_form(net, torch.device("cpu"), torch.float64)
    x = crops(2)
    with torch.inference_mode():
        expected, got = net(x), form(x.contiguous(memory_format=torch.channels_last))
    assert (got - expected).norm() / expected.norm() < 1e-12
    assert torch.equal(got.argmax(1), expected.argmax(1))
    # Every weight of the network is in it, the 7x7 ones as matrices; the folded normalisation is in none.
    norms = sum(p.numel() for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in m.parameters())
    deconv_bias = net.fc6_deconv.conv.out_channels * 48  # a bias for each of the 49 pixels
    assert sum(p.numel() for p in form.parameters()) == sum(p.numel() for p in net.parameters()) - norms + deconv_bias


def test_initial_weights():
    net = DeconvNet(21, width=0.25)
    initialise(net, seed=3)
    decoder = torch.cat([m.weight.detach().flatten() for m in net.decoder.modules() if isinstance(m, Deconv3x3)])
    assert abs(decoder.mean()) < 2e-4
    assert decoder.std().item() == pytest.approx(DECODER_STD, rel=0.02)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == BN_SHIFT).all()
        elif getattr(module, "bias", None) is not None:
            assert (module.bias == 0).all()
    again = DeconvNet(21, width=0.25)
    initialise(again, seed=3)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@pytest.fixture(scope="module")
def meta_vgg_states():
    """Real torchvision state dicts with the smallest storage that holds each value: one number a tensor, expanded."""
    import torchvision

    states = []
    for make in (torchvision.models.vgg16, torchvision.models.vgg16_bn):
        with torch.device("meta"):
            shapes = {k: v.shape for k, v in make().state_dict().items()}
        states.append({k: torch.tensor(i + 0.5).expand(s) for i, (k, s) in enumerate(shapes.items())})
    return states


def full_network():
    """A network of width 1 without its random numbers, which take seconds to draw."""
    with torch.device("meta"):
        net = DeconvNet(21)
    return net.to_empty(device="cpu")


@pytest.mark.parametrize("with_bn", [pytest.param(False, marks=pytest.mark.slow), True])
def test_vgg16_fills_the_encoder(meta_vgg_states, with_bn):
    state = meta_vgg_states[with_bn]
    net = full_network()
    load_vgg16(net, state)
    convs = [k for k in state if k.startswith("features") and k.endswith("weight") and state[k].ndim == 4]
    layers = [layer for block in "12345" for layer in net.encoder[block]]
    for key, layer in zip(convs, layers, strict=True):
        assert torch.equal(layer.conv.weight, state[key])
        assert torch.equal(layer.conv.bias, state[key.replace("weight", "bias")])
        if with_bn:
            norm = f"features.{int(key.split('.')[1]) + 1}"
            assert torch.equal(layer.bn.running_var, state[f"{norm}.running_var"])
            assert torch.equal(layer.bn.weight, state[f"{norm}.weight"])
    assert (net.fc6.conv.weight == state["classifier.0.weight"].flatten()[0]).all()
    assert (net.fc7.conv.bias == state["classifier.3.bias"][0]).all()


def test_fc6_computes_what_vggs_first_linear_layer_computes():
    channels, fc = 4, 6
    linear = torch.nn.Linear(channels * 49, fc)
    conv = torch.nn.Conv2d(channels, fc, 7)
    conv.weight.data.copy_(linear.weight.reshape(conv.weight.shape))
    conv.bias.data.copy_(linear.bias)
    x = torch.randn(2, channels, 7, 7)
    torch.testing.assert_close(conv(x).flatten(1), linear(x.flatten(1)), rtol=1e-4, atol=1e-5)


def test_vgg16_is_refused_where_it_does_not_fit(meta_vgg_states):
    with pytest.raises(ValueError, match="from scratch"):
        load_vgg16(DeconvNet(21, width=0.125), meta_vgg_states[0])
    with pytest.raises(ValueError, match="13"):
        load_vgg16(full_network(), {"features.0.weight": torch.zeros(64, 3, 3, 3)})


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_holding_back_the_background_changes_scores_and_no_probability(share):
    net = DeconvNet(5, width=1 / 16).eval()
    initialise(net, seed=3)
    torch.nn.init.normal_(net.seg_score.weight, generator=torch.Generator().manual_seed(3))
    torch.nn.init.normal_(net.seg_score.bias, generator=torch.Generator().manual_seed(4))
    crops_N3HW = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        before = net(crops_N3HW)
        hold_back_background(net, share)
        after = net(crops_N3HW)
    torch.testing.assert_close(after.softmax(1), before.softmax(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(after, before - share * before[:, :1], atol=1e-4, rtol=1e-4)
