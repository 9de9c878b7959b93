"""Networks of other libraries that are given as if they were checkpoints: the message says how to write them."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from pipeline.checkpoints.bundled import BUNDLED, weights_uri
from pipeline.config.networks import parse_network
from pipeline.errors import CheckpointError, ConfigError
from pipeline.models.checkpoint import load_state_dict
from pipeline.models.foreign import architecture_of, check_named_network
from pipeline.models.kinds.torchvision import load_bytes


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        check_named_network("weights", parse_network(text))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    """A folder as `save_pretrained` writes it, as far as it is looked at here."""
    folder = tmp_path / "segformer"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "segformer"}))
    safetensors.torch.save_file({"a": torch.zeros(1)}, folder / "model.safetensors", {"format": "pt"})
    return folder


def networks_of_torchvision() -> dict[str, nn.Module]:
    """Each of torchvision's segmentation networks, without memory for its weights."""
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        return {
            name: torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=3)
            for name in torchvision.models.list_models(torchvision.models.segmentation)
        }


def test_each_network_of_torchvision_is_known_by_its_tensors():
    networks = networks_of_torchvision()
    assert len(networks) >= 6
    assert {name: architecture_of(net.state_dict()) for name, net in networks.items()} == {n: n for n in networks}
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        assert architecture_of(torchvision.models.resnet50().state_dict()) is None
    for name in BUNDLED:
        assert architecture_of(load_state_dict(Path(weights_uri(name)).read_bytes(), name)) is None


def test_the_networks_of_this_project_pass():
    for name in BUNDLED:
        check_named_network("weights", parse_network(weights_uri(name)))
    check_named_network("weights", parse_network("module:Class"))


def test_a_folder_or_file_of_transformers_is_written_with_its_kind(hf):
    assert refused(str(hf)).endswith(f"write hf:{hf}")
    assert refused(str(hf / "model.safetensors")).endswith(f"write hf:{hf}")
    check_named_network("weights", parse_network(f"hf:{hf}"))
    (hf / "config.json").unlink()
    assert "a folder without config.json; give a checkpoint (.safetensors)" in refused(str(hf))
    (hf / "deconvnet.safetensors").touch()
    assert refused(str(hf)).endswith(f"write {hf}/deconvnet.safetensors")


def test_an_onnx_file_is_written_with_its_kind(tmp_path):
    (tmp_path / "net.onnx").touch()
    assert refused(str(tmp_path / "net.onnx")).endswith(f"write onnx:{tmp_path}/net.onnx")


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_state_dict_of_torchvisions_is_written_with_its_architecture(ending, tmp_path):
    torchvision = pytest.importorskip("torchvision")
    name, file = "lraspp_mobilenet_v3_large", tmp_path / f"net.{ending}"
    state = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=3).state_dict()
    torch.save(state, file) if ending == "pth" else safetensors.torch.save_file(state, file)
    assert refused(str(file)).endswith(f"write torchvision:{name}={file}")


@pytest.mark.parametrize(
    "content", [b"", b"short", bytes(100), b"\x02" + bytes(7) + b"[]", b"\x08" + bytes(7) + b"notjson!"]
)
def test_other_files_are_left_to_what_reads_them(content, tmp_path):
    for name in ("net.safetensors", "net.pth", "net"):
        (tmp_path / name).write_bytes(content)
        check_named_network("weights", parse_network(str(tmp_path / name)))


@pytest.mark.parametrize("kind", ["", "hf:"])
def test_a_name_of_the_hub_is_answered_with_how_to_fetch_it(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub = "nvidia/segformer-b0-finetuned-ade-512-512"
    said = refused(f"{kind}{tmp_path}/{hub}")
    assert f"`hf download {hub} --local-dir segformer-b0-finetuned-ade-512-512`" in said
    assert said.endswith("write hf:segformer-b0-finetuned-ade-512-512")
    for no_hub in ("nvidia/net.safetensor", "a/b/c", "net"):
        assert "Hub" not in refused(f"{tmp_path}/{no_hub}")
    (tmp_path / "nvidia").mkdir()  # then a folder of one's own is meant
    assert "Hub" not in refused(f"{kind}{tmp_path}/{hub}")


def test_a_state_dict_that_does_not_fit_names_its_tensors_and_what_it_is(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    name = "lraspp_mobilenet_v3_large"
    state = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=3).state_dict()

    def why(state: dict[str, torch.Tensor], architecture: str = name) -> str:
        torch.save(state, file := tmp_path / "net.pth")
        data = file.read_bytes()
        with pytest.raises(CheckpointError) as error:
            load_bytes(data, "net.pth", architecture)
        assert "\n" not in str(error.value)
        return str(error.value)

    other = why(state, "fcn_resnet50")
    assert f"it holds a {name}, write torchvision:{name}=net.pth; it lacks" in other
    first, second, *_ = [key for key in state if key.startswith("backbone.") and key.endswith("weight")]
    few = {key: value for key, value in state.items() if key not in {first, second}}
    assert f"it lacks 2 tensors ({first}, {second})" in why(few)
    more = {
        **state,
        "extra.a": torch.zeros(1),
        "extra.b": torch.zeros(1),
        "extra.c": torch.zeros(1),
        "z": torch.zeros(1),
    }
    assert "has unknown 4 tensors (extra.a, extra.b, extra.c, ...)" in why(more)
    low = "classifier.low_classifier.weight"
    assert f"has of other shapes 1 tensors ({low} [5, 40, 1, 1] instead of [3, 40, 1, 1])" in why(
        {**state, low: torch.zeros(5, 40, 1, 1)}
    )
    assert "save net.module.state_dict() instead" in why({f"module.{key}": value for key, value in state.items()})
    assert "it lacks classifier.4.weight, the layer of the classes (it has fc.weight" in why(
        {"fc.weight": torch.zeros(1)}
    )
