"""Large images in tiles: the same scores as of the whole, seams included."""

import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from examples.scenes.dataset import scene_of
from pipeline import SEGMENT_RECIPES, SegmentConfig, segment
from pipeline.config import DecodeConfig, PredictConfig
from pipeline.inference.tiles import OVERLAP, STEP, ramp, scores_in_tiles, spans
from pipeline.models.checkpoint import CheckpointInfo, dump_checkpoint
from pipeline.models.deconvnet import DeconvNet
from pipeline.models.initialise import initialise


@given(st.integers(1, 3000), st.integers(64, 800))
def test_tiles_cover_a_side_overlap_and_leave_no_pixel_without_weight(length, tile):
    overlap = int(tile * OVERLAP)
    places = list(spans(length, tile, overlap))
    assert places[0][0] == 0
    assert places[-1][1] == length
    total = np.zeros(length)
    for begin, end in places:
        assert begin % STEP == 0
        assert 0 < end - begin <= tile
        total[begin:end] += ramp(begin, end, length, overlap).numpy()
    for (_, end), (begin, _) in pairwise(places):
        assert end - begin >= overlap
    assert total.min() > 0.99


@pytest.mark.parametrize(("height", "width"), [(300, 421), (100, 700), (511, 64)])
def test_a_network_that_sees_less_than_the_margin_gives_the_same_scores_as_on_the_whole(height, width):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1),
                        nn.Upsample(scale_factor=2, mode="bilinear")).eval()  # fmt: skip
    calls = []

    def scores(image_3HW):
        calls.append(image_3HW.shape[1:])
        return net(image_3HW[None].float() / 255)[0, :, : image_3HW.shape[1], : image_3HW.shape[2]]

    image_3HW = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    with torch.inference_mode():
        expected = scores(image_3HW)
    calls.clear()
    found = scores_in_tiles(scores, image_3HW, 128)
    assert len(calls) > 2
    assert all(max(shape) <= 128 for shape in calls)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    calls.clear()
    assert torch.equal(scores_in_tiles(scores, image_3HW, 1024), expected)
    assert calls == [(height, width)]


OWN = """
import torch
CALLS = []

class Colours:
    class_names = ("dark", "red", "green", "blue")

    def scores(self, image_3HW):
        CALLS.append(tuple(image_3HW.shape[1:]))
        x_13HW = torch.nn.functional.avg_pool2d(image_3HW[None].float() / 32, 5, 1, 2)
        return torch.cat([3 - x_13HW[0].mean(0, keepdim=True), x_13HW[0] - x_13HW[0].mean(0)])
"""


@pytest.mark.parametrize("whole", [True, False])
def test_the_job_gives_a_network_tiles_of_the_size_that_was_asked_for(tmp_path, monkeypatch, whole):
    """Whole images, and the second network of an ensemble."""
    (tmp_path / "colours.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "colours", raising=False)
    weights, image = "colours:Colours", scene_of(7, "val", 0).image_HW3
    if whole:
        config = SEGMENT_RECIPES["fcn"](SegmentConfig("in", "out"))
    else:
        net = DeconvNet(4, width=1 / 16)
        initialise(net, seed=1)
        info = CheckpointInfo(("dark", "red", "green", "blue"), 1 / 16)
        (tmp_path / "deconvnet.safetensors").write_bytes(dump_checkpoint(net, info))
        config = SEGMENT_RECIPES["deconvnet"](SegmentConfig("in", "out"))
        config = replace(config, ensemble=replace(config.ensemble, fcn=weights),
                         propose=replace(config.propose, proposals=1))  # fmt: skip
        weights = "deconvnet.safetensors"
    config = replace(config, decode=DecodeConfig(max_side=0))
    tiled = replace(config, predict=PredictConfig(tile=128))
    (expected,) = segment([image], weights, config)
    import colours  # type: ignore[import-not-found]

    assert image.shape[:2] in colours.CALLS
    colours.CALLS.clear()
    (found,) = segment([image], weights, tiled)
    assert len(colours.CALLS) > 6
    assert max(max(shape) for shape in colours.CALLS) == 128
    assert len(np.unique(expected.mask_HW)) > 1
    assert (found.mask_HW == expected.mask_HW).mean() > 0.999
