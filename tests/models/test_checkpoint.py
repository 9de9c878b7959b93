"""Checkpoints: what is written comes back, and what is no checkpoint is refused with a reason."""

import io
import json
import pickle
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from pipeline.errors import CheckpointError
from pipeline.models.checkpoint import (
    METADATA_KEY,
    CheckpointInfo,
    Preprocessing,
    dump_checkpoint,
    load_checkpoint,
    load_state_dict,
    read_info,
)
from pipeline.models.checkpoint_header import shape_for
from pipeline.models.deconvnet import DeconvNet
from pipeline.models.initialise import initialise

NAMES = ("background", "cat", "dog")
INFO = CheckpointInfo(NAMES, 1 / 16, Preprocessing("BGR", (104.0, 117.0, 123.0), (1.0, 1.0, 1.0)), "a test")


@pytest.fixture(scope="module")
def net() -> DeconvNet:
    net = DeconvNet(len(NAMES), 1 / 16)
    initialise(net, seed=0)
    return net.eval()


@pytest.fixture(scope="module")
def data(net) -> bytes:
    return dump_checkpoint(net, INFO)


def test_a_checkpoint_comes_back_with_its_description(net, data):
    loaded = load_checkpoint(data)
    assert loaded.info == INFO
    for name, tensor in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(loaded.net.state_dict()[name], tensor), name
    assert load_checkpoint(dump_checkpoint(net, INFO)).fingerprint == loaded.fingerprint


def test_a_loaded_network_can_be_trained_on_and_shares_nothing_with_the_next(data):
    trained, other = load_checkpoint(data).net.train(), load_checkpoint(data).net
    trained(torch.randn(2, 3, 224, 224)).mean().backward()
    for (name, parameter), untouched in zip(trained.named_parameters(), other.parameters(), strict=True):
        assert parameter.grad is not None, name
        parameter.data.add_(1)
        assert (parameter - untouched).min() > 0.5, name
    counts = {int(m.num_batches_tracked) for m in trained.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert counts == {1}


def test_preprocessing_copies_its_constants_to_a_device_once_and_serves_training_too(monkeypatch):
    crops = torch.arange(2 * 3 * 4).view(2, 3, 2, 2)
    preprocessing = Preprocessing("BGR", (1.0, 2.0, 3.0), (4.0, 5.0, 8.0))
    expected = [[(crops[n, 2 - c] - (1, 2, 3)[c]) / (4, 5, 8)[c] for c in range(3)] for n in range(2)]
    with torch.inference_mode():
        assert preprocessing(crops).tolist() == torch.stack([torch.stack(one) for one in expected]).tolist()
    monkeypatch.setattr(torch, "tensor", None)
    fed = preprocessing(crops)
    torch.nn.functional.conv2d(fed, torch.ones(1, 3, 1, 1, requires_grad=True)).sum().backward()
    assert fed[1, 0, 0, 0] == (20 - 1) / 4


def test_half_precision_halves_the_file_and_keeps_the_scores(net, data):
    half = dump_checkpoint(net, INFO, torch.float16)
    assert len(half) < 0.6 * len(data)
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        expected, got = net(x), load_checkpoint(half).net(x)
    assert (got - expected).norm() / expected.norm() < 1e-2


@pytest.mark.parametrize(("info", "eps"), [(INFO, 1e-5), (replace(INFO, norm_eps=1e-9), 1e-9)])
def test_what_batch_normalisation_adds_to_variances_comes_back(net, info, eps):
    loaded = load_checkpoint(dump_checkpoint(net, info))
    assert {m.eps for m in loaded.net.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {eps}


def test_a_description_that_does_not_fit_the_network_is_not_written(net):
    with pytest.raises(CheckpointError, match="3 classes"):
        dump_checkpoint(net, CheckpointInfo(("background", "cat"), 1 / 16))


def rewritten(data: bytes, **changes) -> bytes:
    described = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"][METADATA_KEY])
    metadata = {METADATA_KEY: json.dumps({**described, **changes})}
    return safetensors.torch.save(safetensors.torch.load(data), metadata=metadata)


def test_a_checkpoint_of_another_class_count_is_refused(data):
    with pytest.raises(CheckpointError, match="2 classes"):
        load_checkpoint(rewritten(data, class_names=["background", "cat"]), "net.safetensors")


def test_a_checkpoint_of_another_network_is_refused(data):
    with pytest.raises(CheckpointError, match="fcn"):
        load_checkpoint(rewritten(data, architecture="fcn"))
    with pytest.raises(CheckpointError, match="incomplete"):
        load_checkpoint(rewritten(data, preprocessing={"channels": "RGB"}))
    for changes, said in (
        ({"preprocessing": {"channels": "RGB", "mean": [1, 2], "std": [1, 2, 3]}}, "damaged description"),
        ({"width": "wide"}, "damaged description"),
        ({"width": float("nan")}, "impossible network of 3 classes"),
        ({"class_names": ["background"]}, "impossible network of 1 classes"),
    ):
        with pytest.raises(CheckpointError, match=said):
            read_info(rewritten(data, **changes))
    with pytest.raises(CheckpointError, match="damaged description"):
        read_info(data.replace(b'width\\":', b'width\\";'))


def test_other_files_are_refused(data):
    pickled = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, pickled)
    for wrong in (b"", b"hello", pickled.getvalue(), data[:100]):
        with pytest.raises(CheckpointError, match=r"net\.pth"):
            load_checkpoint(wrong, "net.pth")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(data[:-50])
    with pytest.raises(CheckpointError, match="metadata lack"):
        read_info(safetensors.torch.save({"weight": torch.zeros(3)}, metadata={"format": "pt"}))


def test_the_shape_of_windows_is_the_one_that_the_network_was_trained_on(net, data):
    square = read_info(dump_checkpoint(net, replace(INFO, window_shape="square")))
    box = read_info(rewritten(data, window_shape="box"))
    assert (square.window_shape, box.window_shape) == ("square", "box")
    assert [shape_for(square, asked, "net") for asked in ("auto", "square")] == ["square", "square"]
    with pytest.raises(CheckpointError, match="net was trained on windows of the shape square: give --window-shape sq"):
        shape_for(square, "box", "net")
    with pytest.raises(CheckpointError, match="of the shape round"):
        read_info(rewritten(data, window_shape="round"))


def test_a_checkpoint_of_an_earlier_version_was_trained_on_boxes(data):
    described = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"][METADATA_KEY])
    del described["window_shape"]
    old = safetensors.torch.save(safetensors.torch.load(data), metadata={METADATA_KEY: json.dumps(described)})
    assert read_info(old).window_shape == shape_for(read_info(old), "auto", "net") == "box"


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("unpickled code was run",))


def test_foreign_weights_load_without_running_pickled_code():
    tensors = {"features.0.weight": torch.randn(2, 3)}
    saved = io.BytesIO()
    torch.save(tensors, saved)
    for data in (saved.getvalue(), safetensors.torch.save(tensors)):
        assert torch.equal(load_state_dict(data, "vgg16")["features.0.weight"], tensors["features.0.weight"])
    for bad in (float("nan"), float("inf")):
        damaged = {"features.0.weight": torch.tensor([[1.0, bad]]), "features.0.bias": torch.ones(1)}
        with pytest.raises(CheckpointError, match=r"vgg16\.pth holds NaN or infinity in 1 of 2 .*features\.0\.weight"):
            load_state_dict(safetensors.torch.save(damaged), "vgg16.pth")
    evil = io.BytesIO()
    torch.save({"weight": Evil()}, evil)
    for data in (evil.getvalue(), pickle.dumps(Evil()), b"nonsense"):
        with pytest.raises(CheckpointError, match="plain tensors"):
            load_state_dict(data, "vgg16.pth")
