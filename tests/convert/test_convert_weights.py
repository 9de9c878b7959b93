"""Caffe files, encoded here by hand, become checkpoints that compute what their blobs say."""

import struct
from contextlib import chdir

import numpy as np
import pytest
import torch
from conftest import exit_code
from reference_networks import (
    Blobs,
    deconvnet_scores,
    fcn8s_rows,
    fcn8s_scores,
    folded,
    random_deconvnet,
    random_fcn8s,
    random_weight,
    vgg_rows,
)

from jobs.convert_weights import main
from pipeline.config import TrainConfig
from pipeline.convert.caffe import read_caffemodel
from pipeline.convert.released import CAFFE_PREPROCESSING, convert_deconvnet, deconvnet_layers
from pipeline.errors import CheckpointError
from pipeline.imaging.classes import VOC_CLASSES
from pipeline.models.checkpoint import load_checkpoint
from pipeline.models.members import load_member

torch.set_num_threads(1)
DIVISOR = 16
INFERENCE = b"\x18\x01"  # BNParameter.bn_mode (3) = INFERENCE (1)


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def nested(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def old_blob(values: np.ndarray) -> bytes:
    """num, channels, height, width: matrices and vectors are filled up with ones, as Caffe did."""
    four = (1,) * (4 - values.ndim) + values.shape
    data = nested(5, values.astype("<f4").tobytes()) + nested(6, values.astype("<f4").tobytes())  # data and diff
    return b"".join(number(i + 1, n) for i, n in enumerate(four)) + data


def new_shape(*dimensions: int) -> bytes:
    return nested(7, nested(1, b"".join(varint(n % 2**64) for n in dimensions)))


def new_blob(values: np.ndarray, *, double: bool = False) -> bytes:
    shape = new_shape(*values.shape)
    return shape + (nested(8, values.astype("<f8").tobytes()) if double else nested(5, values.astype("<f4").tobytes()))


def old_file(blobs: Blobs, bn: bytes = INFERENCE, more_tops: bool = False) -> bytes:
    """NetParameter with V1LayerParameter: bottom 2, top 3, name 4, type 5, blobs 6, blobs_lr 7, bn_param 45."""
    layers = [nested(2, nested(4, b"data") + number(5, 12))]
    for name, values in blobs.items():
        key = name.encode()
        tops = [key, key + b"-mean", key + b"-var"] if more_tops and "bn" in name else [key]
        layers.append(
            nested(
                2,
                nested(2, b"data") + b"".join(nested(3, top) for top in tops) + nested(4, key) + number(5, 4)
                + b"".join(nested(6, old_blob(one)) for one in values)
                + varint(7 << 3 | 5) + struct.pack("<f", 2.0)
                + (nested(45, bn) if "bn" in name else b""),
            )
        )  # fmt: skip
    return nested(1, b"net") + b"".join(layers) + nested(3, b"data") + number(4, 1)


def new_file(blobs: Blobs, *, double: bool = False) -> bytes:
    """NetParameter with LayerParameter (100): name 1, type 2, blobs 7, phase 10."""
    layers = [
        nested(
            100,
            nested(1, name.encode()) + nested(2, b"Convolution")
            + b"".join(nested(7, new_blob(one, double=double)) for one in values) + number(10, 1),
        )
        for name, values in blobs.items()
    ]  # fmt: skip
    return nested(1, b"net") + b"".join(layers)


@pytest.fixture(scope="module")
def trained() -> Blobs:
    return random_deconvnet(DIVISOR)


@pytest.fixture(scope="module")
def inference(trained) -> Blobs:
    return {name: folded(blobs) if "bn" in name else blobs for name, blobs in trained.items()}


def converted(tmp_path, data: bytes, kind: str, *arguments: str) -> bytes:
    (tmp_path / "net.caffemodel").write_bytes(data)
    target = tmp_path / "net.safetensors"
    with chdir(tmp_path):
        assert main(["--source", "net.caffemodel", "--kind", kind, "--output", target.name, *arguments]) == 0
    return target.read_bytes()


def test_the_reader_gives_every_blob_back(inference):
    for data in (old_file(inference), new_file(inference), new_file(inference, double=True)):
        layers = read_caffemodel(data)
        assert list(layers) == list(inference)
        for name, blobs in inference.items():
            for found, expected in zip(layers[name].blobs, blobs, strict=True):
                np.testing.assert_array_equal(found.reshape(expected.shape), expected)


@pytest.mark.parametrize("form", ["old", "old, third step", "new", "new, statistics apart"])
def test_a_converted_deconvnet_computes_what_the_blobs_say(trained, inference, form, tmp_path, capsys):
    data = {
        "old": lambda: old_file(inference),
        "old, third step": lambda: old_file(inference, bn=b"", more_tops=True),
        "new": lambda: new_file(inference),
        "new, statistics apart": lambda: new_file(trained),
    }[form]()
    checkpoint = load_checkpoint(converted(tmp_path, data, "deconvnet"))
    assert "--recipe release" in capsys.readouterr().out
    assert checkpoint.info.class_names == VOC_CLASSES
    assert checkpoint.info.width == 1 / DIVISOR
    assert checkpoint.info.batch_statistics
    assert checkpoint.info.window_shape == "square"
    crop_3HW = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    red, green, blue = crop_3HW[0].float()
    fed = torch.stack([blue - 104.00698793, green - 116.66876762, red - 122.67891434])[None]
    assert torch.equal(checkpoint.info.preprocessing(crop_3HW), fed)
    with torch.inference_mode():
        expected = deconvnet_scores(inference, fed.double())
        got = checkpoint.net.double()(fed.double())
    assert expected.std() > 0.1
    assert (got - expected).norm() / expected.norm() < 1e-4  # factors, or variances and epsilons, in float32


def test_a_training_file_is_good_for_training_only(trained, tmp_path, capsys):
    gamma_beta = {name: blobs[:2] for name, blobs in trained.items()}
    checkpoint = load_checkpoint(converted(tmp_path, old_file(gamma_beta, bn=b""), "deconvnet"))
    assert not checkpoint.info.batch_statistics
    assert "train from it" in capsys.readouterr().out
    norm = checkpoint.net.encoder["3"].conv3_2.bn
    assert torch.equal(norm.weight, torch.from_numpy(trained["bn3_2"][0]))
    assert torch.equal(norm.bias, torch.from_numpy(trained["bn3_2"][1]))
    from jobs.segment_dataset import main as segment

    arguments = ["--input", str(tmp_path), "--output", str(tmp_path / "out"), "--weights"]
    assert exit_code(segment, *arguments, str(tmp_path / "net.safetensors")) == 2
    assert "statistics" in capsys.readouterr().err
    from pipeline.training.loop.networks import first_network

    config = TrainConfig(training_set="windows", output="run", init=str(tmp_path / "net.safetensors"))
    start = load_checkpoint(first_network(config, VOC_CLASSES, "square"))
    assert start.info.window_shape == "square"  # the training set's
    assert start.info.batch_statistics
    assert start.info.preprocessing == CAFFE_PREPROCESSING


def test_the_releases_epsilon_takes_the_place_of_torchs():
    blobs = random_deconvnet(32)
    blobs["bn1_1"][3][:] = np.geomspace(1e-6, 2, 8)
    net, _ = convert_deconvnet(read_caffemodel(new_file(blobs)), "net")
    norm = net.encoder["1"].conv1_1.bn
    np.testing.assert_allclose((norm.running_var + norm.eps).numpy(), blobs["bn1_1"][3] + 1e-9, rtol=1e-5)
    scale_and_shift = {name: folded(values) if "bn" in name else values for name, values in blobs.items()}
    net, _ = convert_deconvnet(read_caffemodel(new_file(scale_and_shift)), "net")
    norm = net.encoder["1"].conv1_1.bn
    assert ((norm.running_var + norm.eps).sqrt() == 1).all()
    assert (norm.running_mean == 0).all()


OLD_FCN_NAMES = {
    "score_fr": "score-fr", "score_pool4": "score-pool4", "score_pool3": "score-pool3", "upscore2": "score2",
    "upscore_pool4": "score4", "upscore8": "upsample",
}  # fmt: skip


@pytest.mark.parametrize("release", ["first", "second", "at once"])
def test_a_converted_fcn8s_computes_what_the_blobs_say(release, tmp_path):
    blobs = random_fcn8s(32, classes=4)
    (tmp_path / "classes.txt").write_text("background\nfish\nfowl\nflesh\n")
    if release == "first":  # names with hyphens, and a bias in the first upsampling
        blobs["upscore2"].append(np.array([0.1, 0.2, 0.3, 0.4], np.float32))
        data = old_file({OLD_FCN_NAMES.get(name, name): values for name, values in blobs.items()})
    elif release == "second":
        data = new_file(blobs)
    else:
        scales = {name: np.full(blobs[f"score_{name}"][0].shape[1], 0.25, np.float32) for name in ("pool4", "pool3")}
        data = new_file(blobs | {f"scale_{name}": [one] for name, one in scales.items()})
        for name in scales:
            blobs[f"score_{name}"][0] = blobs[f"score_{name}"][0] * 0.25
    member = load_member(converted(tmp_path, data, "fcn8s", "--classes", str(tmp_path / "classes.txt")), "fcn")
    assert member.class_names == ("background", "fish", "fowl", "flesh")
    image_3HW = torch.randint(0, 256, (3, 90, 130), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    # The release: BGR, mean subtracted, then zeros to 500 x 500 on the right and below.
    fed = torch.nn.functional.pad(CAFFE_PREPROCESSING(image_3HW[None]), (0, 500 - 130, 0, 500 - 90))
    expected = fcn8s_scores(blobs, fed)[0, :, :90, :130]
    got = member.scores(image_3HW)
    assert got.shape == (4, 90, 130)
    assert (got - expected).norm() / expected.norm() < 1e-4


def test_vgg16_becomes_a_network_to_train(tmp_path):
    rng = np.random.default_rng(0)
    blobs = {name: [random_weight(rng, s), rng.normal(size=s[0]).astype(np.float32)] for name, s in vgg_rows(DIVISOR)}
    fully_connected = {name: [blobs[name][0].reshape(256, -1), blobs[name][1]] for name in ("fc6", "fc7")}
    data = old_file(blobs | fully_connected | {"fc8": [np.zeros((1000, 256), np.float32), np.zeros(1000, np.float32)]})
    checkpoint = load_checkpoint(converted(tmp_path, data, "vgg16"))
    assert checkpoint.info.preprocessing == CAFFE_PREPROCESSING
    for caffe_name, ours, _ in deconvnet_layers():
        if caffe_name in blobs:
            layer = checkpoint.net.get_submodule(ours)
            np.testing.assert_array_equal(layer.conv.weight.detach().numpy(), blobs[caffe_name][0])
            np.testing.assert_array_equal(layer.conv.bias.detach().numpy(), blobs[caffe_name][1])
            assert (layer.bn.weight == 1).all()
    assert checkpoint.net.decoder["5"].deconv5_1.conv.weight.std().item() == pytest.approx(0.01, rel=0.05)


def without(blobs: Blobs, name: str) -> Blobs:
    return {key: values for key, values in blobs.items() if key != name}


@pytest.mark.parametrize(
    ("kind", "spoil", "said"),
    [
        ("deconvnet", lambda b: new_file(without(b, "conv4_2")), "layer conv4_2 is missing"),
        ("deconvnet", lambda b: new_file(without(b, "debn2_1")), "layer debn2_1 is missing"),
        ("deconvnet", lambda b: new_file(b | {"conv6_1": b["conv1_1"]}), "layer conv6_1 is not part"),
        ("deconvnet", lambda b: new_file(b | {"conv1_2": [b["conv3_1"][0], b["conv1_2"][1]]}),
         "the weight of conv1_2 is (16, 8, 3, 3); (8, 8, 3, 3) is needed"),
        ("deconvnet", lambda b: new_file(b | {"deconv3_3": [b["deconv3_3"][0].swapaxes(0, 1), b["deconv3_3"][1]]}),
         "the weight of deconv3_3 is (8, 16, 3, 3); (16, 8, 3, 3) is needed"),
        ("deconvnet", lambda b: new_file(b | {"bn1_1": b["bn1_1"][:1]}), "bn1_1 has 1 blobs"),
        ("deconvnet", lambda b: new_file(b | {"conv1_1": b["conv1_1"][:1]}), "the bias of conv1_1 is missing"),
        ("deconvnet", lambda b: new_file(b | {"seg-score-voc": [b["seg-score-voc"][0][:5], b["seg-score-voc"][1][:5]]}),
         "5 classes, 21 are named"),
        ("fcn8s", new_file, "no layer score_fr"),
        ("vgg16", new_file, "is not part"),
        ("deconvnet", lambda b: old_file(b)[:-9999], "no .caffemodel"),
        ("deconvnet", lambda b: b'name: "DeconvNet"\nlayers { name: "conv1_1" }', "no .prototxt"),
        ("deconvnet", lambda b: b"", "without weights"),
        ("deconvnet", lambda b: nested(2, nested(6, old_blob(b["conv1_1"][0]))), "before 2014"),
        ("deconvnet", lambda b: nested(100, nested(1, b"x") + nested(7, new_blob(b["fc7"][1])[:-4])), "no .caffemodel"),
        ("deconvnet", lambda b: nested(100, nested(1, b"x") + nested(7, nested(7, nested(1, b"\x07")))), "0 values"),
        ("deconvnet", lambda b: nested(100, nested(1, b"x") + nested(7, nested(5, b"sixbyt"))), "1.5 values"),
        ("deconvnet", lambda b: nested(100, nested(1, b"x") + nested(7, nested(5, b"four") + new_shape(-1, -1))),
         "shape (-1, -1)"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_refused_with_the_reason(inference, tmp_path, capsys, kind, spoil, said):
    (tmp_path / "net.caffemodel").write_bytes(spoil(inference))
    arguments = ["--source", str(tmp_path / "net.caffemodel"), "--kind", kind, "--output", str(tmp_path / "out")]
    assert exit_code(main, *arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "net.caffemodel" in error
    assert not (tmp_path / "out").exists()


def test_a_missing_file_and_a_deconvnet_as_member_are_told(inference, tmp_path, capsys):
    assert exit_code(main, "--source", str(tmp_path / "no"), "--kind", "vgg16", "--output", str(tmp_path / "out")) == 2
    assert "no" in capsys.readouterr().err
    data = converted(tmp_path, new_file(inference), "deconvnet")
    with pytest.raises(CheckpointError, match="an FCN is needed here"):
        load_member(data, "net.safetensors")


def test_full_width_shapes_are_the_published_ones():
    shapes = dict(fcn8s_rows(1))
    assert (shapes["fc6"], shapes["score_fr"], shapes["upscore8"]) == (
        (4096, 512, 7, 7), (21, 4096, 1, 1), (21, 21, 16, 16)
    )  # fmt: skip
    from pipeline.models.fcn8s import FCN8s

    with torch.device("meta"):
        net = FCN8s()
    assert {name: tuple(module.weight.shape) for name, module in net.named_children()} == shapes
