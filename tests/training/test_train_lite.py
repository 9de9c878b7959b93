"""From a folder in VOC's layout and an FCN to a light DeconvNet and to masks, with the real jobs."""

import json
import os
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from conftest import exit_code

from examples.scenes.compose import CLASSES
from jobs.segment_dataset import main as segment
from jobs.train_lite import main
from pipeline.models.checkpoint import CheckpointInfo, dump_checkpoint, load_for_windows
from pipeline.models.checkpoint_header import joint_fingerprint, read_info
from pipeline.models.deconvnet import DeconvNet
from pipeline.models.efficientnet import INPUT
from pipeline.models.litefcn import folded
from pipeline.models.members import load_member
from pipeline.outputs.results import read_results


@pytest.fixture(scope="module")
def fcn(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    info = CheckpointInfo(CLASSES, 1.0, INPUT, architecture="litefcn", encoder="lite0", long_side=96, mirrored_side=64)
    path = tmp_path_factory.mktemp("fcn") / "fcn.safetensors"
    path.write_bytes(dump_checkpoint(folded(len(CLASSES), "lite0"), info))
    return path


@pytest.fixture(scope="module")
def trained(scenes, fcn, tmp_path_factory, in_ray) -> Path:
    output = tmp_path_factory.mktemp("lite")
    small = ["--steps", "4", "--batch-size", "4", "--val-every", "2", "--workers", "2"]
    data, start = (os.path.relpath(path, output.parent) for path in (scenes, fcn))
    with chdir(output.parent):  # the workers have other working directories
        assert exit_code(main, "--data", data, "--fcn", start, "--output", output.name, *small) == 0
    return output


@pytest.mark.slow
def test_training_leaves_a_network_on_the_fcn_s_encoder(trained, fcn, scenes):
    record = json.loads((trained / "train.json").read_text())
    assert [line["step"] for line in record["history"]] == [2, 4]
    data = (trained / "deconvnet.safetensors").read_bytes()
    info = read_info(data)
    assert (info.architecture, info.encoder, info.window_shape) == ("litedeconvnet", "lite0", "square")
    assert info.class_names == CLASSES
    assert "4 steps of 4 windows" in info.trained_on
    made, start = load_for_windows(data).net.state_dict(), load_member(fcn.read_bytes(), "fcn").net.state_dict()
    for name, tensor in start.items():
        if name.startswith(("encoder.", "context.")):
            assert torch.equal(made[name], tensor.half().float()), name
    assert exit_code(main, "--data", str(scenes), "--fcn", str(fcn), "--output", str(trained), "--seed", "1") == 2


@pytest.mark.slow
def test_the_main_job_segments_with_it_alone_and_beside_the_fcn(trained, fcn, scenes, tmp_path):
    weights = trained / "deconvnet.safetensors"
    common = ["--input", str(scenes / "JPEGImages"), "--limit", "2", "--weights", str(weights), "--proposals", "3"]
    alone = load_for_windows(weights.read_bytes()).fingerprint
    both = joint_fingerprint(alone, load_member(fcn.read_bytes(), "fcn").fingerprint)
    for name, options, fingerprint in (
        ("alone", ["--recipe", "deconvnet"], alone),
        ("both", ["--recipe", "voc", "--fcn", str(fcn)], both),
    ):
        assert exit_code(segment, *common, "--output", str(tmp_path / name), *options) == 0
        table = read_results(str(tmp_path / name))
        assert set(table["model_fingerprint"].to_pylist()) == {fingerprint}
        assert all(0 < count <= 3 for count in table["num_proposals"].to_pylist())


def test_what_cannot_teach_is_told(scenes, fcn, tmp_path, capsys):
    common = ["--data", str(scenes), "--output", str(tmp_path / "run")]
    assert exit_code(main, *common) == 2  # `voc-fcn` knows other classes
    assert "aeroplane" in capsys.readouterr().err
    assert exit_code(main, *common, "--fcn", "demo") == 2
    assert "a litefcn is needed" in capsys.readouterr().err
    assert exit_code(main, *common, "--fcn", str(fcn), "--teacher", "voc") == 2
    assert "the teacher" in capsys.readouterr().err
    stretched = tmp_path / "stretched.safetensors"
    stretched.write_bytes(dump_checkpoint(DeconvNet(len(CLASSES), 1 / 64), CheckpointInfo(CLASSES, 1 / 64)))
    assert exit_code(main, *common, "--fcn", str(fcn), "--teacher", str(stretched)) == 2
    assert "stretched to squares" in capsys.readouterr().err
    assert exit_code(main, *common, "--stage1-share", "2") == 2
    assert "--stage1-share" in capsys.readouterr().err
