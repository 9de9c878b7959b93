"""The decoder's activations against a walk through the network, and the job that draws them."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import exit_code
from container_files import tar_of
from PIL import Image

from examples.scenes.dataset import scene_of
from jobs.inspect_network import main
from jobs.segment_dataset import parse
from pipeline import segment
from pipeline.checkpoints.bundled import weights_uri
from pipeline.inputs.manifest import build_manifest
from pipeline.models.checkpoint import dump_checkpoint, load_checkpoint
from pipeline.models.deconvnet import DeconvNet, pool, unpool
from pipeline.report.activations import decoder_maps, representative
from pipeline.report.painter import GAP, LINE, overlay


@pytest.fixture(scope="module")
def shown() -> tuple[DeconvNet, torch.Tensor]:
    torch.manual_seed(3)
    net = DeconvNet(4, width=1 / 16).eval()
    return net, torch.randn(1, 3, 224, 224)


@torch.inference_mode()
def test_maps_are_those_of_a_walk_through_the_layers(shown):
    net, crop = shown
    maps, scores = decoder_maps(net, crop)
    x, switches, walked = crop, {}, {}
    for number in "12345":
        x, switches[number] = pool(net.encoder[number](x))
    x = net.fc6_deconv(net.fc7(net.fc6(x)))
    for number, layers in (("5", 3), ("4", 3), ("3", 3), ("2", 2), ("1", 2)):
        x = unpool(x, switches[number])
        walked[f"unpool{number}"] = x[0].clone()
        for i in range(1, layers + 1):
            x = getattr(net.decoder[number], f"deconv{number}_{i}")(x)
        walked[f"deconv{number}_{layers}"] = x[0].clone()
    assert list(maps) == list(walked)
    for layer, expected in walked.items():
        torch.testing.assert_close(maps[layer], expected, rtol=0, atol=0)
    assert [maps[layer].shape[-1] for layer in maps] == [14, 14, 28, 28, 56, 56, 112, 112, 224, 224]
    torch.testing.assert_close(scores, net.seg_score(x)[0], rtol=0, atol=0)
    assert not any(block._forward_hooks for block in net.decoder.values())


def test_the_channel_shown_is_the_one_most_like_the_answer(shown):
    maps, scores = decoder_maps(*shown)
    activations = representative(maps, scores)
    assert [one.layer for one in activations] == list(maps)[1:]
    object_probability = 1 - scores.softmax(0)[0].numpy()
    for before, one in zip([None, *activations], activations, strict=False):
        np.testing.assert_array_equal(one.map_HW, maps[one.layer][one.channel].numpy())
        if one.layer.startswith("unpool"):
            assert one.channel == before.channel
            assert np.count_nonzero(one.map_HW) <= before.map_HW.size  # the values of the map before, moved apart
            continue
        side = one.map_HW.shape[0]
        target = object_probability.reshape(side, 224 // side, side, 224 // side).mean(axis=(1, 3)).ravel()
        varying = [c for c, m in enumerate(maps[one.layer].numpy()) if m.std() > 0]
        r = {c: np.corrcoef(maps[one.layer][c].numpy().ravel(), target)[0, 1] for c in varying}
        assert r[one.channel] == pytest.approx(max(r.values()), abs=1e-5)


@pytest.mark.slow
def test_the_job_draws_all_pictures(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scene = scene_of(7, "val", 0)
    Image.fromarray(scene.image_HW3).save(tmp_path / "scene.jpg", quality=92)
    Image.fromarray(scene.classes_HW).save(tmp_path / "truth.png")
    files = ["--image", "scene.jpg", "--truth", "truth.png", "--output", "out", "--weights", "demo"]
    options = ["--base=--proposals 2", "--box", 10, 20, 150, 160, "--also", "average=--aggregation average"]
    assert exit_code(main, *map(str, files + options)) == 0
    height, width = scene.classes_HW.shape
    sizes = {}
    for name in ("activations", "panels", "steps"):
        with Image.open(tmp_path / "out" / f"scene_{name}.png") as picture:
            sizes[name] = picture.size
            assert len(picture.convert("RGB").getcolors(2**24)) > 1000
    assert sizes == {
        "activations": (1200, 530),
        "panels": (5 * (width + GAP) - GAP, height + 2 * LINE + GAP),
        # photograph, edges, proposals, two windows, network, confidence, CRF, confidence: three rows of four
        "steps": (4 * (width + GAP) - GAP, 3 * (LINE + height + GAP) + LINE),
    }
    assert exit_code(main, "--image", str(tmp_path / "truth.png"), "--truth", str(tmp_path / "none.png"),
                     "--output", str(tmp_path / "out")) == 2  # fmt: skip
    assert "none.png" in capsys.readouterr().err


def test_an_image_of_a_run_is_shown_as_the_run_did_it(tmp_path: Path, monkeypatch, capsys):
    """The tile after the CRF is the photograph under the mask that the run's settings give."""
    monkeypatch.chdir(tmp_path)
    scene_HW3 = scene_of(7, "val", 1).image_HW3[:160, :200]
    Image.fromarray(scene_HW3).save("scene.png")
    config = parse(["--input", str(tmp_path / "scene.png"), "--output", "run", "--weights", "demo", "--proposals", "3"])
    folder = tmp_path / "run" / "run"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"identity": {}, "classes": [], "settings": asdict(config)}))
    manifest = {"image_id": ["a/scene.png"], "uri": [str(tmp_path / "scene.png")]}
    pq.write_table(pa.table(manifest), folder / "manifest.parquet")
    assert exit_code(main, "--image", "a/scene.png", "--results", "run", "--output", "out") == 0
    (segmentation,) = segment([tmp_path / "scene.png"], "demo", config)
    expected_HW3 = overlay(scene_HW3, segmentation.mask_HW)
    height, width = segmentation.mask_HW.shape

    def check(picture: str) -> None:
        whole = np.asarray(Image.open(picture).convert("RGB"))
        tiles = [
            whole[top : top + height, left : left + width]
            for top in range(LINE, 3 * (LINE + height + GAP), LINE + height + GAP)
            for left in range(0, 4 * (width + GAP), width + GAP)
        ]
        np.testing.assert_array_equal(tiles[0], scene_HW3)
        np.testing.assert_array_equal(tiles[8], expected_HW3)

    check("out/scene_steps.png")
    Path("x.tar").write_bytes(tar_of({"scene.png": Path("scene.png").read_bytes()}))
    pq.write_table(build_manifest("x.tar", None), folder / "manifest.parquet")
    assert exit_code(main, "--image", "x.tar/scene.png", "--results", "run", "--output", "of-tar") == 0
    check("of-tar/scene_steps.png")
    pq.write_table(pa.table(manifest), folder / "manifest.parquet")
    assert exit_code(main, "--image", "a/scen.png", "--results", "run", "--output", "out") == 2
    assert "did you mean a/scene.png?" in capsys.readouterr().err


@pytest.mark.parametrize("weights", ["voc", pytest.param("voc-fcn", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_the_light_networks_have_steps_and_no_activations(weights, tmp_path: Path, capsys):
    Image.fromarray(scene_of(7, "val", 0).image_HW3).save(tmp_path / "scene.png")
    files = ["--image", str(tmp_path / "scene.png"), "--output", str(tmp_path / "out"), "--weights", weights]
    assert exit_code(main, *files) == 0
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["scene_steps.png"]


def test_a_network_that_cannot_segment_and_a_missing_gpu_are_told(tmp_path: Path, capsys):
    Image.fromarray(scene_of(7, "val", 0).image_HW3).save(tmp_path / "scene.png")
    checkpoint = load_checkpoint(Path(weights_uri("demo")).read_bytes())
    unfinished = dump_checkpoint(checkpoint.net, replace(checkpoint.info, batch_statistics=False))
    (tmp_path / "unfinished.safetensors").write_bytes(unfinished)
    files = [
        "--image",
        str(tmp_path / "scene.png"),
        "--output",
        str(tmp_path / "out"),
        "--base=--proposals 1",
        "--weights",
        "demo",
    ]
    assert exit_code(main, *files[:-2], "--weights", str(tmp_path / "unfinished.safetensors")) == 2
    assert "statistics" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert exit_code(main, *files, "--base=--device cuda") == 2
        assert "torch sees no GPU" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_wrong_options_for_the_main_job_are_told_with_where_they_came_from(tmp_path: Path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    files = ("--image", str(tmp_path / "a.png"), "--output", str(tmp_path / "out"))
    assert exit_code(main, *files, "--base=proposals 20") == 2
    assert capsys.readouterr().err.endswith("as in --base='--proposals 20'\n")
    assert not (tmp_path / "out").exists()


def test_a_folder_and_a_file_of_many_images_are_answered_with_how_to_give_one(tmp_path: Path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "run" / "run").mkdir(parents=True)
    (tmp_path / "run" / "run" / "config.json").write_text("{}")
    (tmp_path / "shard.tar").write_bytes(tar_of({"a.png": b"x"}))
    (tmp_path / "list.csv").write_text("uri\n")
    (tmp_path / "clip.MP4").write_bytes(b"x")
    (tmp_path / "phone.heic").write_bytes(b"x")
    for name, said in (
        ("photos", "photos, a folder; give one image in it, or do all of them: "),
        ("run", "the output of a run; give the id of one of its images: "),
        ("shard.tar", "holds or lists many images; segment them, then give one's id"),
        ("list.csv", "holds or lists many images; segment them, then give one's id"),
        ("clip.MP4", "take frames out of it first (`ffmpeg -i VIDEO FOLDER/%06d.png`)"),
        ("phone.heic", "convert it to JPEG, PNG or TIFF first; here, give one image"),
    ):
        assert exit_code(main, "--image", str(tmp_path / name), "--output", str(tmp_path / "out")) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
