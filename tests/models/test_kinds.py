"""Networks of other libraries and of the user's, through the stages of the main job: each against its own library."""

import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import exit_code
from torch import Tensor, nn

from examples.scenes.dataset import scene_of
from jobs.segment_dataset import main, parse
from pipeline import SegmentConfig, segment
from pipeline.config import ConfigError
from pipeline.config.networks import KINDS, parse_network
from pipeline.config.recipes import SEGMENT_RECIPES
from pipeline.errors import CheckpointError, FolderError
from pipeline.imaging.classes import VOC_CLASSES
from pipeline.inference.whole_images import WholeImages
from pipeline.models.checkpoint import CheckpointInfo, dump_checkpoint
from pipeline.models.deconvnet import DeconvNet
from pipeline.models.initialise import initialise
from pipeline.models.kinds import load_network, names_for, try_out
from pipeline.run.prepare import check_networks, with_absolute_paths
from pipeline.run.record import check_run, open_run

REPOSITORY = Path(__file__).parents[2]
CLASSES = ("background", "a", "b", "c")
ALONE = SEGMENT_RECIPES["fcn"](SegmentConfig("in", "out"))


class Small(nn.Module):
    """Scores at half the size of the input, with more than one pixel of context."""

    def __init__(self, classes: int = len(CLASSES)):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, classes, 3, padding=1))
        nn.init.normal_(self.layers[2].weight, std=0.5)  # so that few pixels are undecided

    def forward(self, x_N3HW: Tensor) -> Tensor:
        return self.layers(x_N3HW)


@dataclass
class Case:
    """A network: what `--weights` says of it, and the scores that its own library gives for an image."""

    weights: str
    expected: Callable[[Tensor], Tensor]


def torchvision_case(folder: Path, kind: str = "lraspp_mobilenet_v3_large", classes: int = len(CLASSES)) -> Case:
    torchvision = pytest.importorskip("torchvision")
    net = torchvision.models.get_model(kind, weights=None, weights_backbone=None, num_classes=classes).train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    net(torch.randn(2, 3, 96, 96))  # with these statistics the image shows in the scores
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels == classes:
            module.weight.data /= 20  # the rest is not trained to give scores of a usual size
    torch.save(net.eval().state_dict(), folder / "net.pth")
    weights = torchvision.models.get_model_weights(kind).DEFAULT

    def expected(image_3HW: Tensor) -> Tensor:
        found = net(weights.transforms()(image_3HW / 255)[None])["out"]
        return nn.functional.interpolate(found, image_3HW.shape[1:], mode="bilinear")[0]

    return Case(f"torchvision:{kind}={folder / 'net.pth'}", expected)


def swin(transformers: Any) -> Any:
    """A backbone of the smallest size."""
    return transformers.SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], out_features=[f"stage{n}" for n in range(1, 5)]
    )


def hf_case(folder: Path, kind: str = "segformer") -> Case:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torchvision")
    names = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: n for n, name in enumerate(CLASSES)}}
    if kind == "segformer":
        config = transformers.SegformerConfig(
            depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16,
            **names,
        )  # fmt: skip
        net = transformers.SegformerForSemanticSegmentation(config)
        processor = transformers.SegformerImageProcessor(size={"height": 96, "width": 128})
    elif kind == "upernet":
        config = transformers.UperNetConfig(
            backbone_config=swin(transformers), hidden_size=16, use_auxiliary_head=False, **names
        )
        net = transformers.UperNetForSemanticSegmentation(config)
        processor = transformers.SegformerImageProcessor(size={"height": 128, "width": 128})
    elif kind == "beit":
        config = transformers.BeitConfig(
            hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=96,
            out_indices=[1, 2, 3, 4], use_auxiliary_head=False, **names,
        )  # fmt: skip
        net = transformers.BeitForSemanticSegmentation(config)
        processor = transformers.BeitImageProcessor(size={"height": 96, "width": 96}, do_center_crop=False)
    else:
        config = transformers.Mask2FormerConfig(
            backbone_config=swin(transformers), hidden_dim=32, feature_size=32, mask_feature_size=32, num_queries=7,
            decoder_layers=2, encoder_layers=1, dim_feedforward=16, encoder_feedforward_dim=16, num_attention_heads=2,
            **names,
        )  # fmt: skip
        net = transformers.Mask2FormerForUniversalSegmentation(config)
        processor = transformers.Mask2FormerImageProcessor(size={"shortest_edge": 96, "longest_edge": 160})
    for parameter in net.parameters():  # so that the image shows in the scores
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    if kind == "mask2former":  # queries that differ, and are sure of their classes
        for layer in (net.model.transformer_module.queries_features, net.model.transformer_module.queries_embedder):
            nn.init.normal_(layer.weight, std=3)
        nn.init.normal_(net.class_predictor.weight, std=3)
    net.eval().save_pretrained(folder / kind)
    processor.save_pretrained(folder / kind)

    def expected(image_3HW: Tensor) -> Tensor:
        found = net(**processor(images=image_3HW, return_tensors="pt"))
        size = [tuple(image_3HW.shape[1:])]
        (one,) = processor.post_process_semantic_segmentation(found, size, return_segmentation_scores=True)
        return one.segmentation_scores if kind != "mask2former" else one.segmentation_scores.clamp(min=1e-6).log()

    return Case(f"hf:{folder / kind}", expected)


def onnx_case(folder: Path, size: tuple[int, int] | None = None) -> Case:
    for module in ("onnxruntime", "onnx", "onnxscript"):
        pytest.importorskip(module)
    import onnx

    net = Small().eval()
    file, example = folder / "net.onnx", torch.randn(1, 3, *(size or (64, 96)))
    if size:
        torch.onnx.export(net, (example,), file, verbose=False)
        model = onnx.load(file, load_external_data=False)
    else:  # the exporter without torch's compiler, which takes seconds; its file gets its weights beside it as well
        axes = {"image": {2: "height", 3: "width"}}
        torch.onnx.export(net, (example,), file, input_names=["image"], dynamic_axes=axes, dynamo=False)
        model = onnx.load(file)
        onnx.convert_model_to_external_data(model, location="net.onnx.data", size_threshold=0)
    told = {"class_names": CLASSES, "preprocessing": {"channels": "BGR", "mean": [100, 110, 120], "std": [50, 60, 70]}}
    onnx.helper.set_model_props(model, {"deconvnet-ray": json.dumps(told)})
    onnx.save(model, file)

    def expected(image_3HW: Tensor) -> Tensor:
        x_13HW = image_3HW[None].float()
        if size:
            x_13HW = nn.functional.interpolate(x_13HW, size, mode="bilinear", antialias=True)
        mean, std = (torch.tensor(told["preprocessing"][key]).view(3, 1, 1) for key in ("mean", "std"))
        found = net((x_13HW.flip(1) - mean) / std)
        return nn.functional.interpolate(found, image_3HW.shape[1:], mode="bilinear")[0]

    return Case(f"onnx:{file}", expected)


def own_case(folder: Path) -> Case:
    """The class of the page on extending, in a module of a name of its own: Python imports a name once."""
    page = (REPOSITORY / "docs" / "extending.md").read_text()
    code = next(one for one in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class MyNet" in one)
    assert len(code.splitlines()) <= 30
    name = f"mynet_{abs(hash(str(folder)))}"
    (folder / f"{name}.py").write_text(code)
    names: dict[str, type[nn.Module]] = {"__file__": str(folder / "mynet.py")}
    untrained = re.sub(r"^.*load_state_dict.*\n", "", code, flags=re.MULTILINE)
    exec(compile(untrained, "mynet.py", "exec"), names)
    net = names["MyNet"]()
    nn.init.normal_(net.decode[-1].weight, std=1.5)  # so that few pixels are undecided
    torch.save(net.state_dict(), folder / "mynet.pth")
    return Case(f"{name}:MyNet", net.scores)


CASES = {
    "torchvision": torchvision_case,
    "hf": hf_case,
    "onnx": onnx_case,
    "own": own_case,
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Callable[..., tuple[Path, Case]]:
    """Makes each case once, in a folder of its own: exporting takes seconds."""

    @cache
    def make_once(kind: str, *arguments: Any) -> tuple[Path, Case]:
        folder = tmp_path_factory.mktemp(kind)
        return folder, CASES[kind](folder, *arguments)

    return make_once


@pytest.fixture
def make(made, tmp_path, monkeypatch) -> Callable[..., Case]:
    """Brings a case into this test's folder, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def bring(kind: str, *arguments: Any) -> Case:
        if kind == "own":  # Python imports a module of one name once, so its file is this test's own
            return own_case(tmp_path)
        folder, case = made(kind, *arguments)
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
        return replace(case, weights=case.weights.replace(str(folder), str(tmp_path)))

    return bring


def photographs() -> list[np.ndarray]:
    image = scene_of(7, "val", 0).image_HW3
    return [np.ascontiguousarray(image[:150, :200]), np.ascontiguousarray(image[40:240, 20:141])]


def as_tensor(image_HW3: np.ndarray) -> Tensor:
    return torch.from_numpy(image_HW3).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        pytest.param("torchvision", ("lraspp_mobilenet_v3_large",), marks=pytest.mark.slow),
        pytest.param("torchvision", ("fcn_resnet50", 21), marks=pytest.mark.slow),
        pytest.param("torchvision", ("deeplabv3_mobilenet_v3_large", 21), marks=pytest.mark.slow),
        ("hf", ("segformer",)),
        pytest.param("hf", ("upernet",), marks=pytest.mark.slow),
        pytest.param("hf", ("beit",), marks=pytest.mark.slow),
        ("hf", ("mask2former",)),
        ("onnx", ()),
        pytest.param("onnx", ((96, 64),), marks=pytest.mark.slow),
        ("own", ()),
    ],
)
def test_a_network_through_the_stages_labels_pixels_as_its_own_library_does(make, kind, arguments):
    case = make(kind, *arguments)
    images = photographs()
    network = load_network(case.weights)
    for image, found in zip(images, segment(images, weights=case.weights, config=ALONE), strict=True):
        with torch.inference_mode():
            expected = case.expected(as_tensor(image))
            scores = network.scores(as_tensor(image))
            torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))
        labels = expected.argmax(0).numpy()
        assert len(np.unique(labels)) >= 2  # else anything would agree
        equal = found.mask_HW == labels
        best_2HW = expected.softmax(0).topk(2, dim=0).values
        decided = (best_2HW[0] - best_2HW[1] > 1e-3).numpy()  # rows hold float16
        assert decided.mean() > 0.98
        assert equal[decided].mean() >= 0.9999
        assert equal.mean() >= (0.998 if kind == "hf" else 0.999)
        assert found.class_names == (VOC_CLASSES if arguments[1:] == (21,) else names_of_case(kind))


def names_of_case(kind: str) -> tuple[str, ...]:
    return tuple(f"class_{n}" for n in range(len(CLASSES))) if kind == "torchvision" else CLASSES


def deconvnet(folder: Path) -> Path:
    net = DeconvNet(len(CLASSES), width=1 / 16)
    initialise(net, seed=1)
    nn.init.normal_(net.seg_score.weight, generator=torch.Generator().manual_seed(1))
    (folder / "deconvnet.safetensors").write_bytes(dump_checkpoint(net, CheckpointInfo(CLASSES, 1 / 16)))
    return folder / "deconvnet.safetensors"


@pytest.mark.parametrize(
    "kind",
    ["own", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("torchvision", "hf", "onnx"))],
)
def test_each_kind_is_an_ensembles_second_network(make, tmp_path, kind):
    case, first = make(kind), str(deconvnet(tmp_path))
    config = SegmentConfig("in", "out")
    config = replace(
        config,
        propose=replace(config.propose, proposals=3),
        refine=replace(config.refine, crf="none", label_threshold=0.0),
    )
    both = replace(config, ensemble=replace(config.ensemble, fcn=case.weights, ensemble_weight=0.25))
    image = photographs()[0]
    (alone,), (together,) = (list(segment([image], first, one)) for one in (config, both))
    with torch.inference_mode():
        second = case.expected(as_tensor(image)).softmax(0).numpy()
    expected = 0.25 * alone.probabilities_KHW + 0.75 * second
    np.testing.assert_allclose(together.probabilities_KHW, expected, atol=3e-3)
    assert np.abs(together.probabilities_KHW - alone.probabilities_KHW).max() > 0.05
    absolute = with_absolute_paths(replace(both, weights=first))
    assert check_networks(absolute)[1].endswith(f"+{load_network(case.weights).fingerprint}")


@pytest.mark.parametrize("kind", [pytest.param("torchvision", marks=pytest.mark.slow), "hf", "onnx", "own"])
def test_another_network_in_the_same_output_is_refused(make, tmp_path, kind):
    case = make(kind)
    config = with_absolute_paths(parse(["--input", str(tmp_path), "--output", str(tmp_path / "out"),
                                        "--weights", case.weights]))  # fmt: skip
    assert config.recipe == "fcn+crf"
    assert config.whole_images
    info, networks = check_networks(config)
    assert check_networks(config)[1] == networks
    import pyarrow as pa

    open_run(config, networks, info.class_names, pa.table({"image_id": ["a"], "uri": ["a"]})).lease.release()
    check_run(config, networks)
    changed = {
        "torchvision": "net.pth",
        "hf": "segformer/model.safetensors",
        "onnx": "net.onnx.data",
        "own": "mynet.pth",
    }
    file = tmp_path / changed[kind]
    before = file.read_bytes()
    rewrite(file)
    other = check_networks(config)[1]
    assert other != networks
    with pytest.raises(FolderError, match="model_fingerprint"):
        check_run(config, other)
    file.write_bytes(before)
    if kind == "own":
        source = next(tmp_path.glob("mynet_*.py"))
        source.write_text(source.read_text() + "# another\n")
    elif kind == "hf":
        shutil.copy(tmp_path / "segformer" / "config.json", tmp_path / "kept")
        changed_config = json.loads((tmp_path / "segformer" / "config.json").read_text()) | {"drop_path_rate": 0.2}
        (tmp_path / "segformer" / "config.json").write_text(json.dumps(changed_config))
    else:
        return
    assert check_networks(config)[1] != networks


def rewrite(file: Path) -> None:
    """Other weights of the same shapes."""
    import safetensors.torch

    if file.suffix == ".pth":
        torch.save({name: value * 1.01 if value.is_floating_point() else value
                    for name, value in torch.load(file, weights_only=True).items()}, file)  # fmt: skip
    elif file.suffix == ".safetensors":
        tensors = safetensors.torch.load_file(file)
        safetensors.torch.save_file({name: value * 1.01 for name, value in tensors.items()}, file, {"format": "pt"})
    else:
        values = np.frombuffer(file.read_bytes(), np.float32)
        file.write_bytes((values * np.float32(1.01)).tobytes())


def test_classes_from_a_file_win_and_must_be_as_many(make, tmp_path):
    case = make("own")
    network = load_network(case.weights)
    (tmp_path / "classes.txt").write_text("none\nsky\nsea\nland\n")
    assert names_for(network, "net", str(tmp_path / "classes.txt")) == ("none", "sky", "sea", "land")
    (tmp_path / "few.txt").write_text("none\nsky\n")
    with pytest.raises(CheckpointError, match=r"4 classes, and --classes .*few.txt names 2; give .* with 4 names"):
        names_for(network, "net", str(tmp_path / "few.txt"))
    config = replace(ALONE, classes="classes.txt")
    (found,) = segment(photographs()[:1], weights=case.weights, config=config)
    assert found.class_names == ("none", "sky", "sea", "land")
    with pytest.raises(ConfigError, match=r"--classes .* is not needed"):
        list(segment([], weights="demo", config=SegmentConfig("", "", classes="classes.txt")))


def test_each_kind_has_its_file():
    from importlib import import_module

    for kind in KINDS:
        assert callable(import_module(f"pipeline.models.kinds.{kind}").load)


@pytest.mark.parametrize("text", ["net.safetensors", "./a:b.safetensors", "s3://bucket/net.safetensors", "file:///net",
                                  "torchvision:fcn_resnet50=a/lr=1/net.pth", "hf:runs/lr=1", "onnx:s3://b/net.onnx",
                                  "my.nets:Net"])  # fmt: skip
def test_what_names_a_network_is_read_and_written_alike(text):
    assert str(parse_network(text)) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "keras:net.h5",
            "no known kind; there is FILE, torchvision:ARCHITECTURE=FILE, hf:FOLDER, onnx:FILE and module:Cl",
        ),
        ("torchvision:fcn_resnet50", "incomplete; write torchvision:ARCHITECTURE=FILE"),
        ("torchvision:=net.pth", "incomplete; write torchvision:ARCHITECTURE=FILE"),
        ("hf:", "incomplete; write hf:FOLDER"),
        ("mynet.py:MyNet", "write mynet:MyNet"),
    ],
)
def test_names_of_no_network_are_refused_with_what_there_is(text, said, tmp_path, capsys):
    with pytest.raises(ConfigError, match=re.escape(said)):
        SegmentConfig("in", "out", text)
    arguments = ["--input", str(tmp_path), "--output", str(tmp_path / "out"), "--weights", text]
    assert exit_code(main, *arguments) == 2
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_used_is_one_line(make, tmp_path):
    (tmp_path / "broken.py").write_text(
        "import torch\n"
        "class Nameless:\n    def scores(self, image): return image.float()\n"
        "class Dumb:\n    class_names = ['a', 'b', 'c']\n"
        "class Small(Dumb):\n    def scores(self, image): return image[:, ::2].float()\n"
        "class Endless(Dumb):\n    def scores(self, image): return image.float() / 0\n"
        "class Raises(Dumb):\n    def scores(self, image): raise RuntimeError('no luck')\n"
        "class Fails:\n    def __init__(self): raise RuntimeError('no file')\n"
    )
    for text, said in (
        ("nosuchmodule:Net", "no module nosuchmodule"),
        ("broken:Missing", "has no attribute 'Missing'"),
        ("broken:Fails", "RuntimeError: no file"),
        ("broken:Nameless", "needs `class_names`"),
        ("broken:Dumb", "a method `scores`"),
        ("broken:Small", r"returned \[3, 32, 96\] for an image; a tensor \[3, 64, 96\]"),
        ("broken:Endless", "scores must be finite"),
        ("broken:Raises", "RuntimeError: no luck"),
    ):
        with pytest.raises(CheckpointError, match=said) as refused:
            try_out(load_network(text), text)
        assert "\n" not in str(refused.value)


def test_a_network_of_whole_images_is_refused_where_proposals_are_asked_for(make):
    case = make("own")
    config = SEGMENT_RECIPES["deconvnet+crf"](SegmentConfig("in", "out"))
    with pytest.raises(CheckpointError, match=r"sees whole images: choose `--recipe fcn\+crf`"):
        list(segment([], weights=case.weights, config=config))


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_package_says_what_to_install(make, kind, monkeypatch):
    case = make(kind)
    module = {"torchvision": "torchvision", "hf": "transformers", "onnx": "onnxruntime"}[kind]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CheckpointError, match=rf"needs the package {module} .*pip install 'deconvnet-ray\[{kind}\]'"):
        load_network(case.weights)


def test_folders_that_transformers_cannot_use_safely_are_refused(make, tmp_path):
    case = make("hf")
    folder = tmp_path / "segformer"
    config = json.loads((folder / "config.json").read_text())

    def refused(said: str) -> None:
        with pytest.raises(CheckpointError, match=said) as error:
            load_network(case.weights)
        assert "\n" not in str(error.value)

    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    refused("no vit for semantic segmentation")
    (folder / "config.json").write_text(
        json.dumps({"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config"}})
    )
    (folder / "theirs.py").write_text("raise SystemExit('their code ran')")
    refused("cannot be used")
    (folder / "config.json").write_text(json.dumps(config | {"decoder_hidden_size": 24}))
    refused("cannot be used")
    (folder / "config.json").write_text(json.dumps(config))
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(processor | {"do_center_crop": True}))
    refused("cuts the middle out")
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    import safetensors.torch

    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    tensors.pop("decode_head.classifier.weight")
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    refused("lack 1 tensors, such as decode_head.classifier.weight")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused("has no model.safetensors")


def test_onnx_files_that_do_not_fit_are_refused(make, tmp_path):
    case = make("onnx")
    onnx = pytest.importorskip("onnx")
    file = tmp_path / "net.onnx"
    model = onnx.load(file, load_external_data=False)
    onnx.helper.set_model_props(model, {"deconvnet-ray": json.dumps({"preprocessing": {"mean": [1, 2]}})})
    onnx.save(model, file)
    with pytest.raises(CheckpointError, match="its metadata `deconvnet-ray` cannot be used"):
        load_network(case.weights)
    torch.onnx.export(nn.Linear(4, 2).eval(), (torch.randn(1, 4),), file, dynamo=False)
    with pytest.raises(CheckpointError, match="an image needs"):
        load_network(case.weights)
    file.write_bytes(b"no network")
    with pytest.raises(CheckpointError, match="cannot be used"):
        load_network(case.weights)


def test_a_file_of_torchvisions_is_no_other_architecture(make, tmp_path):
    case = make("torchvision")
    for text, said in (
        (case.weights.replace("lraspp_mobilenet_v3_large", "fcn_resnet50"), "is no fcn_resnet50"),
        (case.weights.replace("lraspp_mobilenet_v3_large", "unet"), "no segmentation network unet; there is deeplabv3"),
    ):
        with pytest.raises(CheckpointError, match=said):
            load_network(text)
    torch.save(io.BytesIO, tmp_path / "net.pth")  # something that unpickling would have to import
    with pytest.raises(CheckpointError, match=r"neither safetensors nor a .pth of plain tensors"):
        load_network(case.weights)


def test_whole_images_say_how_sure_they_are(make):
    """The probabilities that leave the stage are those of the library, not only their order."""
    case = make("own")
    image = photographs()[1]
    whole = WholeImages(load_network(case.weights), ALONE.predict, 0.0)
    (prediction,) = whole.predict([image], [np.zeros((0, 4), np.float32)])
    with torch.inference_mode():
        expected = case.expected(as_tensor(image)).softmax(0).numpy()
    np.testing.assert_allclose(prediction.probabilities_KHW, expected, atol=1e-3)


@pytest.mark.slow
def test_the_onnx_file_of_the_page_on_networks_says_what_it_is(tmp_path, monkeypatch):
    for module in ("onnxruntime", "onnx", "onnxscript"):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    page = (REPOSITORY / "docs" / "networks.md").read_text()
    described, exported = (one for one in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "onnx" in one)
    names: dict[str, Any] = {"net": Small(3)}
    for code in (exported, described):
        exec(compile(code, "docs/networks.md", "exec"), names)
    network = load_network(f"onnx:{tmp_path / 'net.onnx'}")
    assert network.class_names == ("background", "road", "building")
    for image in photographs():
        mean, std = (torch.tensor(names["told"]["preprocessing"][key]).view(3, 1, 1) for key in ("mean", "std"))
        with torch.inference_mode():
            found = names["net"](((as_tensor(image) - mean) / std)[None])
            expected = nn.functional.interpolate(found, image.shape[:2], mode="bilinear")[0]
        torch.testing.assert_close(network.scores(as_tensor(image)), expected, rtol=1e-3, atol=1e-3)
