"""The light DeconvNet: its parts against plain loops, its form for inference, and what its file must say."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.config import PredictConfig
from pipeline.errors import CheckpointError
from pipeline.inference.form import inference_form
from pipeline.inference.predictor import Predictor
from pipeline.models.checkpoint import CheckpointInfo, dump_checkpoint, load_checkpoint, load_for_windows
from pipeline.models.deconvnet import unpool
from pipeline.models.efficientnet import INPUT
from pipeline.models.litedeconvnet import LiteDeconvNet, initialise, switches_of

torch.set_num_threads(1)
NAMES = ("background", "thing", "other")
INFO = CheckpointInfo(NAMES, 1.0, INPUT, architecture="litedeconvnet", encoder="lite0", window_shape="square")


@pytest.fixture(scope="module")
def net() -> LiteDeconvNet:
    torch.manual_seed(3)
    made = LiteDeconvNet(3)
    initialise(made.decoder)
    for name, buffer in made.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
        elif name.endswith("running_mean"):
            buffer.normal_(std=0.1)
    return made.eval()


def test_unpooling_puts_each_value_where_the_map_has_its_maximum():
    rng = np.random.default_rng(0)
    map_NCHW = rng.integers(0, 4, (2, 3, 8, 6)).astype(np.float32)  # with ties
    x_NChw = rng.normal(size=(2, 5, 4, 3)).astype(np.float32)
    expected = np.zeros((2, 5, 8, 6), np.float32)
    for n, c, i, j in np.ndindex(x_NChw.shape):
        cell = map_NCHW[n, c % 3, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        row, column = divmod(int(cell.argmax()), 2)
        expected[n, c, 2 * i + row, 2 * j + column] = x_NChw[n, c, i, j]
    found = unpool(torch.from_numpy(x_NChw), switches_of(torch.from_numpy(map_NCHW), 5))
    np.testing.assert_array_equal(found.numpy(), expected)


def test_scores_have_half_of_a_window_s_resolution_and_depend_on_all_of_it(net):
    x = torch.zeros(2, 3, 224, 224)
    x[1, :, :32, :32] = 1
    with torch.inference_mode():
        scores = net(x)
    assert scores.shape == (2, 3, 112, 112)
    assert not torch.allclose(scores[0, :, -8:, -8:], scores[1, :, -8:, -8:])  # through the one place


def test_maps_keep_their_size_from_layer_to_layer(net):
    """The initialisation neither drowns nor blows up what comes in, in training."""
    found = {}
    made = LiteDeconvNet(3).decoder
    initialise(made)
    maps = {s: torch.randn(8, c, 224 // s, 224 // s) for s, c in {2: 16, 4: 24, 8: 40, 16: 192}.items()}
    hooks = [
        layer.register_forward_hook(
            lambda module, args, out, name=name: found.__setitem__(name, float(out.detach().std()))
        )
        for name, layer in made.named_modules()
        if name.endswith("conv")
    ]
    made.train()(maps)
    for hook in hooks:
        hook.remove()
    assert all(0.1 < deviation < 10 for deviation in found.values()), found


def test_the_form_for_inference_gives_the_same_scores(net):
    x = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        expected = net(x)
        form = inference_form(net, torch.device("cpu"), torch.float32)
        found = form(x.contiguous(memory_format=torch.channels_last))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in form.modules())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_file_of_halves_segments_through_the_predictor(net):
    data = dump_checkpoint(net, INFO, torch.float16)
    checkpoint = load_for_windows(data)
    assert isinstance(checkpoint.net, LiteDeconvNet)
    assert checkpoint.info == INFO
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    predictor = Predictor(checkpoint, PredictConfig(window="direct", aggregation="sum"), 0.0)
    scores = predictor.aggregate([image], [np.array([[0, 0, 224, 224]], np.float32)])[0]
    with torch.inference_mode():
        small = net(INPUT(torch.from_numpy(image).permute(2, 0, 1)[None]))
    expected = torch.nn.functional.interpolate(small, (224, 224), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(scores, expected, rtol=0.05, atol=0.05)


def test_a_header_that_cannot_be_is_refused(net):
    data = dump_checkpoint(net, INFO)
    with pytest.raises(CheckpointError, match="litedeconvnet, not a DeconvNet"):
        load_checkpoint(data)  # which trainings and pictures of the paper's network need
    with pytest.raises(CheckpointError, match="encoder lite9"):
        load_for_windows(dump_checkpoint(net, replace(INFO, encoder="lite9")))
    with pytest.raises(CheckpointError, match="2 classes"):
        load_for_windows(_renamed(data, NAMES[:2]))


def _renamed(data: bytes, names: tuple[str, ...]) -> bytes:
    """The file with another class list in its header."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    described = json.loads(header["__metadata__"]["deconvnet-ray"])
    header["__metadata__"]["deconvnet-ray"] = json.dumps(described | {"class_names": names})
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]
