"""The Triton kernels against torch: on a GPU where there is one, else in Triton's interpreter (see conftest.py)."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference_networks import trained_looking

from pipeline.models.deconvnet import DeconvNet

pytest.importorskip("triton")
kernels = pytest.importorskip("pipeline.inference.kernels")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAST = torch.channels_last


def some_map(shape, dtype, values):
    """Values that tie often (`few`), hardly ever (`many`), or are NaN or infinite here and there (`odd`)."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator)
    if dtype == torch.bfloat16:  # sums of two of these are exact: the interpreter cuts digits off where a GPU rounds
        x = (x.clamp(-4, 4) * 16).round() / 16
    if values == "few":
        x = x.round()
    elif values == "odd":
        draw = torch.rand(shape, generator=generator)
        x[draw < 0.2], x[draw > 0.9] = torch.nan, torch.inf
    return x.to(DEVICE, dtype).contiguous(memory_format=LAST)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("values", ["few", "many", "odd"])
@pytest.mark.parametrize("shape", [(2, 7, 6, 10), (1, 64, 14, 22), (3, 1, 2, 2)])
def test_bias_relu_pool_and_unpool_are_torchs(shape, dtype, values):
    x_NCHW = some_map(shape, dtype, values)
    bias_C = some_map((1, shape[1], 1, 1), dtype, "many").flatten()
    activated_NCHW = F.relu(x_NCHW + bias_C.view(1, -1, 1, 1))
    expected, indices = F.max_pool2d(activated_NCHW, 2, 2, return_indices=True)
    pooled, places = kernels.bias_relu_pool(x_NCHW, bias_C)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=0, equal_nan=True)
    width = shape[3]
    assert torch.equal(places.long(), indices // width % 2 * 2 + indices % width % 2)
    # What the decoder brings back has nothing to do with what was pooled.
    returning = some_map(pooled.shape, dtype, "many")
    assert torch.equal(kernels.unpool(returning, places), F.max_unpool2d(returning, indices, 2, 2))
    assert kernels.unpool(returning, places).is_contiguous(memory_format=LAST)
    torch.testing.assert_close(
        kernels.bias_relu_(x_NCHW.clone(memory_format=LAST), bias_C), activated_NCHW, rtol=0, atol=0, equal_nan=True
    )


def test_the_network_of_kernels_is_the_network(monkeypatch):
    monkeypatch.setattr(kernels, "BLOCK", 2**15)  # the interpreter's time goes by blocks
    from pipeline.inference.form import InferenceNet

    net = trained_looking(DeconvNet(3, width=1 / 16))
    crops_N3HW = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        expected = net.to(DEVICE)(crops_N3HW)
        form = InferenceNet(net, kernels.STEPS).to(DEVICE, memory_format=LAST)
        got = form(crops_N3HW.contiguous(memory_format=LAST))
    assert (got - expected).norm() / expected.norm() < 1e-4
    assert (got.argmax(1) == expected.argmax(1)).float().mean() > 0.9999


@pytest.mark.parametrize("aggregation", ["max", "sum", "average"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gathering_is_pasting_one_by_one(aggregation, dtype):
    from pipeline.inference.aggregate import Canvas
    from pipeline.inference.aggregate_gpu import GatheredCanvas

    classes, height, width = 5, 22, 35
    # Across tiles of 4 x 16 pixels, ending and beginning a pixel inside one, over the rim, beside the image, on no
    # pixel's centre, on one, all in one place; the right and lower rim under one window or none.
    rectangles_N4 = np.array([[3.3, 2.2, 16.51, 19.51], [14.5, -7.5, 33.4, 5.1], [-9, 6.5, 17, 13.4], [60, 40, 80, 60],
                              [7.2, 9.1, 7.4, 9.3], [11.4, 12.4, 12.7, 13.6], [14.7, 14.6, 33.2, 17.3]])  # fmt: skip
    maps_NCSS = some_map((len(rectangles_N4), classes, 224, 224), dtype, "many")
    maps_NCSS[0, 2, 95:110, 150:190] = torch.nan
    plain = Canvas(classes, height, width, aggregation, torch.device(DEVICE))
    gathered = GatheredCanvas(classes, height, width, aggregation, torch.device(DEVICE), len(rectangles_N4))
    for scores_CSS, rectangle_4 in zip(maps_NCSS, rectangles_N4, strict=True):
        plain.paste(scores_CSS, rectangle_4)
        gathered.paste(scores_CSS, rectangle_4)
    # Pasting computes its places in float32: 1e-5 of a crop's pixel, between neighbours that differ by up to 8.
    torch.testing.assert_close(gathered.scores(), plain.scores(), rtol=0, atol=1e-4, equal_nan=True)
    assert (gathered.scores() - plain.scores()).abs().nanmean() < 1e-5
    assert 0 < plain.scores().isnan().sum() < 20
    assert (plain.scores() == 0).all(dim=0).any()


def test_gathering_nothing_gives_zeros():
    from pipeline.inference.aggregate_gpu import GatheredCanvas

    assert not GatheredCanvas(3, 4, 5, "max", torch.device(DEVICE), 0).scores().any()


@pytest.mark.skipif(DEVICE == "cpu", reason="there is no GPU")
def test_a_graph_gives_what_the_network_gives_for_full_and_partial_micro_batches():
    from pipeline.inference.form import inference_form
    from pipeline.inference.graphs import GraphedNet

    net = trained_looking(DeconvNet(3, width=1 / 16))
    form = inference_form(net, torch.device(DEVICE), torch.float32)
    graphed = GraphedNet(form)
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for crops in (2, 4, 3, 1, 4):  # the second records anew, the later ones are padded
            crops_N3HW = torch.randn(crops, 3, 224, 224, device=DEVICE).contiguous(memory_format=LAST)
            expected = form(crops_N3HW)
            assert (graphed(crops_N3HW) - expected).norm() / expected.norm() < 1e-3
