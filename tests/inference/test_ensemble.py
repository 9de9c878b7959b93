"""EDeconvNet: FCN-8s, torchvision's networks, how two networks are combined, and the recipes that ask for it."""

import io
from dataclasses import asdict, replace

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import exit_code
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_networks import fcn8s_scores, random_fcn8s

from jobs.segment_dataset import main, parse
from pipeline.config import PredictConfig, SegmentConfig
from pipeline.config.recipes import SEGMENT_RECIPES
from pipeline.errors import CheckpointError
from pipeline.inference.ensemble import Ensemble, combine
from pipeline.inference.predictor import Predictor
from pipeline.models.checkpoint import Checkpoint, CheckpointInfo, Preprocessing, dump_checkpoint
from pipeline.models.checkpoint_header import joint_fingerprint
from pipeline.models.deconvnet import DeconvNet
from pipeline.models.fcn8s import FCN8s
from pipeline.models.initialise import initialise
from pipeline.models.kinds.torchvision import LAST_LAYERS, load_bytes, resized
from pipeline.models.members import Member, load_member
from pipeline.outputs.schema import OK
from pipeline.stages.predict import PredictStage, load_other
from pipeline.stages.rows import ROW_SCHEMA, pack, to_table, unpack

torch.set_num_threads(1)
CLASSES = ("background", "a", "b", "c")
TORCHVISION = ("fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101",
               "deeplabv3_mobilenet_v3_large")  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    net = DeconvNet(4, width=1 / 16)
    initialise(net, seed=1)
    torch.nn.init.normal_(net.seg_score.weight, generator=torch.Generator().manual_seed(1))
    return Checkpoint(net.eval(), CheckpointInfo(CLASSES, 1 / 16), "d" * 16)


@pytest.fixture(scope="module")
def fcn_file() -> bytes:
    net = FCN8s(4, width=1 / 32)
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, generator=torch.Generator().manual_seed(2))
    info = CheckpointInfo(CLASSES, 1 / 32, Preprocessing("BGR", (104, 117, 123), (1, 1, 1)), architecture="fcn8s")
    return dump_checkpoint(net, info)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (33, 64), (97, 40)])
def test_fcn8s_has_the_images_size_and_agrees_with_its_layer_table(height, width):
    blobs = random_fcn8s(32, classes=3)
    net = FCN8s(3, width=1 / 32, canvas=0).eval()
    torch.nn.init.zeros_(net.upscore2.bias)
    torch.nn.init.zeros_(net.upscore_pool4.bias)
    torch.nn.init.zeros_(net.upscore8.bias)
    tensors = {f"{name}.{key}": torch.from_numpy(value) for name, values in blobs.items()
               for key, value in zip(("weight", "bias"), values, strict=False)}  # fmt: skip
    assert not net.load_state_dict(tensors, strict=False).unexpected_keys
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        got, expected = net(images), fcn8s_scores(blobs, images)
    assert got.shape == (2, 3, height, width)
    assert (got - expected).norm() / expected.norm() < 1e-4


def test_fcn8s_places_small_images_on_a_canvas_of_zeros():
    net = FCN8s(3, width=1 / 32, canvas=150).eval()
    image = torch.randn(1, 3, 40, 60)
    with torch.inference_mode():
        placed = torch.zeros(1, 3, 150, 150)
        placed[:, :, :40, :60] = image
        torch.testing.assert_close(net(image), net(placed)[:, :, :40, :60])


@pytest.mark.parametrize("kind", TORCHVISION)
def test_torchvisions_networks_have_vocs_classes_in_vocs_order(kind):
    import torchvision

    from pipeline.imaging.classes import VOC_CLASSES

    weights = torchvision.models.get_model_weights(kind).DEFAULT
    assert tuple(name.strip("_") for name in weights.meta["categories"]) == VOC_CLASSES
    transforms = weights.transforms()
    assert transforms.resize_size == [520]
    np.testing.assert_allclose(np.array(Preprocessing().mean), np.array(transforms.mean) * 255)
    np.testing.assert_allclose(np.array(Preprocessing().std), np.array(transforms.std) * 255)
    with torch.device("meta"):
        net = torchvision.models.get_model(kind, weights=None, weights_backbone=None, aux_loss=True)
    assert len(net.state_dict()[LAST_LAYERS[0]]) == 21


@pytest.mark.parametrize("form", [pytest.param("pth", marks=pytest.mark.slow), "safetensors"])
def test_a_torchvision_member_computes_what_torchvision_computes(form):
    import torchvision

    kind = "deeplabv3_mobilenet_v3_large"
    torch.manual_seed(4)
    net = torchvision.models.get_model(kind, weights=None, weights_backbone=None, num_classes=5, aux_loss=True)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    net(torch.randn(4, 3, 96, 96))  # with these statistics the image shows in the scores
    net.eval()
    saved = io.BytesIO()
    torch.save(net.state_dict(), saved)
    data = saved.getvalue() if form == "pth" else safetensors.torch.save(net.state_dict())
    member = load_bytes(data, "net.pth", kind)
    assert (member.num_classes, member.class_names) == (5, None)
    image_3HW = torch.randint(0, 256, (3, 600, 620), dtype=torch.uint8)  # shrunk, so that its smoothing shows
    transforms = torchvision.models.get_model_weights(kind).DEFAULT.transforms()
    with torch.inference_mode():
        big = net(transforms(image_3HW / 255)[None])["out"]
        expected = torch.nn.functional.interpolate(big, (600, 620), mode="bilinear")[0]
    assert expected.std(dim=(1, 2)).min() > 0.01
    torch.testing.assert_close(member.scores(image_3HW), expected, rtol=1e-3, atol=1e-3)


def test_long_images_do_not_grow_without_end():
    import torchvision

    assert resized(375, 500, 520) == (520, 693)
    assert resized(1, 640, 520) == (2, 1040)
    for height, width in ((200, 121), (121, 200), (333, 333), (200, 397)):
        image = torchvision.transforms.functional.resize(torch.zeros(1, height, width), [520])
        assert resized(height, width, 520) == tuple(image.shape[1:])


def test_files_that_are_no_member_are_refused(fcn_file, checkpoint):
    resnet = io.BytesIO()
    torch.save({"conv1.weight": torch.zeros(3)}, resnet)
    whole = io.BytesIO()  # as training scripts save it
    torch.save({"epoch": 3, "model": {LAST_LAYERS[0]: torch.zeros(21, 4, 1, 1)}}, whole)
    for data, kind, said in (
        (resnet.getvalue(), "auto", "torchvision:fcn_resnet50=net.pth"),
        (resnet.getvalue(), "fcn_resnet50", "lacks classifier.4.weight"),
        (safetensors.torch.save({LAST_LAYERS[0]: torch.zeros(21, 4)}), "fcn_resnet50", "no fcn_resnet50"),
        (b"nonsense", "deeplabv3_resnet50", "neither"),
        (whole.getvalue(), "fcn_resnet50", r"state_dict\(\) alone"),
        (dump_checkpoint(checkpoint.net, checkpoint.info), "auto", "an FCN is needed here"),
        (fcn_file[:-8], "auto", "damaged"),
    ):
        with pytest.raises(CheckpointError, match=said):
            load_member(data, "net.pth") if kind == "auto" else load_bytes(data, "net.pth", kind)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(2, 6), st.integers(1, 4), st.integers(1, 5), st.booleans(), st.floats(0.01, 0.99)
)
def test_both_rules_agree_with_a_loop_over_pixels(seed, classes, height, width, silent, weight):
    rng = np.random.default_rng(seed)
    deconvnet = np.maximum(rng.normal(0, 3, (classes, height, width)), 0) * (not silent)
    fcn = rng.normal(0, 3, (classes, height, width))
    mean, product = np.zeros_like(fcn), np.zeros_like(fcn)
    for r, c in np.ndindex(height, width):
        d, f = (np.exp(one[:, r, c]) / np.exp(one[:, r, c]).sum() for one in (deconvnet, fcn))
        mean[:, r, c] = weight * d + (1 - weight) * f
        for k in range(classes):
            product[k, r, c] = deconvnet[k, r, c] * (fcn[k, r, c] if fcn[k, r, c] > 0 else 0)
    tensors = torch.from_numpy(deconvnet).float(), torch.from_numpy(fcn).float()
    scores = combine(*tensors, "mean", weight)
    np.testing.assert_allclose(scores.softmax(0).numpy(), mean, atol=1e-5)
    np.testing.assert_array_equal(scores.numpy() > 1e-5, mean > (1 + 1e-5) / classes)  # above chance
    np.testing.assert_allclose(combine(*tensors, "product").numpy(), product, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", ["mean", "product"])
def test_the_predict_stage_combines_its_two_networks(checkpoint, fcn_file, rule):
    rng = np.random.default_rng(5)
    images = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in ((40, 60), (50, 30))]
    boxes = [np.array([[5, 5, 45, 35]], np.float32), np.zeros((0, 4), np.float32)]
    member = load_member(fcn_file, "fcn")
    rows = [
        dict.fromkeys(ROW_SCHEMA.names)
        | {"status": OK, "image": pack(image), "work_height": image.shape[0], "work_width": image.shape[1]}
        | {"boxes": pack(own)}
        for image, own in zip(images, boxes, strict=True)
    ]
    predictor = Predictor(checkpoint, PredictConfig(device="cpu"), 0.0, Ensemble(member, rule))
    stage = PredictStage(predictor, joint_fingerprint(checkpoint.fingerprint, member.fingerprint))
    alone = Predictor(checkpoint, PredictConfig(device="cpu"), 0.0).aggregate(images, boxes)
    for row, image, scores_CHW in zip(stage(to_table(rows)).to_pylist(), images, alone, strict=True):
        assert row["status"] == OK, row["error_message"]
        with torch.inference_mode():
            fcn_CHW = member.net(member.preprocessing(torch.from_numpy(image).permute(2, 0, 1)[None]))[0]
        if rule == "mean":
            expected = (scores_CHW.softmax(0) + fcn_CHW.softmax(0)) / 2
        else:
            expected = (scores_CHW * fcn_CHW.clamp(min=0)).softmax(0)
        ids = unpack(row["class_ids"], np.int64, -1)
        got = unpack(row["probabilities"], np.float16, len(ids), *image.shape[:2])
        np.testing.assert_allclose(got, expected[ids.tolist()].numpy(), atol=2e-3)
        assert row["model_fingerprint"] == f"{'d' * 16}+{member.fingerprint}"


def test_networks_of_different_classes_are_refused(tmp_path, fcn_file, capsys):
    import torchvision

    (tmp_path / "fcn.safetensors").write_bytes(fcn_file)
    config = SegmentConfig("in", "out", "deconvnet.safetensors")
    config = replace(config, ensemble=replace(config.ensemble, fcn=str(tmp_path / "fcn.safetensors")))
    assert isinstance(load_other(config, CLASSES), Member)
    for others in (CLASSES[:3], (*CLASSES[:3], "d")):
        with pytest.raises(CheckpointError, match="different classes"):
            load_other(config, others)
    kind = "deeplabv3_mobilenet_v3_large"  # its files have no names
    net = torchvision.models.get_model(kind, weights=None, weights_backbone=None, num_classes=5, aux_loss=False)
    torch.save(net.state_dict(), tmp_path / "five.pth")
    ensemble = replace(config.ensemble, fcn=str(tmp_path / "five.pth"), fcn_kind=kind)
    with pytest.raises(CheckpointError, match=r"deconvnet\.safetensors 4 .*five\.pth 5"):
        load_other(replace(config, ensemble=ensemble), CLASSES)
    arguments = [
        "--recipe",
        "edeconvnet",
        "--weights",
        "demo",
        "--input",
        str(tmp_path),
        "--output",
        str(tmp_path / "out"),
    ]
    assert exit_code(main, *arguments, "--fcn", str(tmp_path / "fcn.safetensors")) == 2  # the demo's classes
    assert "different classes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def resolved(*arguments: str) -> SegmentConfig:
    return parse(["--input", "in", "--output", "out", *arguments])


def test_recipes_are_the_papers_rows():
    assert resolved("--recipe", "deconvnet+crf") == SegmentConfig("in", "out")
    assert resolved("--weights", "demo") == SegmentConfig("in", "out", "demo")
    assert resolved("--recipe", "deconvnet").refine.crf == "none"
    both = resolved("--recipe", "edeconvnet", "--fcn", "f"), resolved("--recipe=edeconvnet+crf", "--fcn", "f")
    assert [one.ensemble.fcn for one in both] == ["f", "f"]
    assert [one.ensemble.ensemble for one in both] == ["mean", "mean"]
    assert [one.refine.crf == "none" for one in both] == [True, False]
    assert [one.recipe for one in both] == ["edeconvnet", "edeconvnet+crf"]


def test_the_release_recipe_has_the_releases_rules():
    flat = {name: value for part in asdict(resolved("--recipe", "release")).values() if isinstance(part, dict)
            for name, value in part.items()}  # fmt: skip
    assert {
        "proposals": 50, "min_side": 112, "small_image_share": 0, "extend": 1.2, "window": "direct",
        "aggregation": "max", "fcn": None, "ensemble": "product", "crf_iterations": 10, "gaussian_sxy": 3,
        "gaussian_weight": 3, "bilateral_sxy": 20, "bilateral_srgb": 3, "bilateral_weight": 5, "label_threshold": 0,
        "window_shape": "square", "crf_normalization": "none",
    }.items() <= flat.items()  # fmt: skip


def test_what_is_given_wins_over_the_recipe():
    config = resolved("--window", "250-224", "--recipe", "release", "--proposals", "7", "--fcn", "f")
    assert (config.predict.window, config.propose.proposals, config.ensemble.fcn) == ("250-224", 7, "f")
    assert config.ensemble.ensemble == "product"


def test_recipes_that_need_another_network_say_so(capsys):
    for arguments, said in ((["--recipe", "edeconvnet+crf"], "--fcn"), (["--recipe", "fast"], "deconvnet+crf")):
        assert exit_code(main, "--input", ".", "--output", "out", *arguments) == 2
        assert said in "".join(capsys.readouterr())
    assert set(SEGMENT_RECIPES) == {
        "deconvnet",
        "deconvnet+crf",
        "fcn",
        "fcn+crf",
        "voc",
        "edeconvnet",
        "edeconvnet+crf",
        "release",
    }


def test_small_images_are_measured_with_the_releases_rule_when_asked():
    from pipeline.config import ProposeConfig
    from pipeline.proposals.edgeboxes import Proposals, choose

    found = Proposals(np.array([[0, 0, 50, 50]], np.float32), np.ones(1, np.float32))
    kept = choose(found, 100, 100, ProposeConfig(min_side=112)).boxes_N4
    assert kept.shape == (1, 4)
    assert kept[0, 0] == -5  # the box itself, extended
    whole = choose(found, 100, 100, ProposeConfig(min_side=112, small_image_share=0)).boxes_N4
    assert whole[0, 0] == -10  # no box is left: the whole image
