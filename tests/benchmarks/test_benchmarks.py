"""The benchmarks run, and what they say of labels and boxes is true; nothing here looks at a clock."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from benchmarks import aggregate, crf, crops, decode, network, proposals, reading, step
from benchmarks.__main__ import main
from benchmarks.config import Aggregate, Crf, Crops, Decode, Network, Proposals, Reading, Scale, Step
from examples.scenes.dataset import scene_of
from pipeline.config import ConfigError, ProposeConfig, RefineConfig
from pipeline.crf.refine import refine
from pipeline.training.windows.index import INDEX_SCHEMA, index_uri, write_index


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index in range(2):
        Image.fromarray(scene_of(7, "val", index).image_HW3).save(folder / f"{index}.jpg", quality=92)
    return folder


def test_decode_compares_with_two_libraries(photos):
    rows = decode.run(Decode(str(photos), seconds=0.05))
    assert len(rows) == 5
    assert max(row["speed, of the fastest library"] for row in rows[-2:]) == 1.0


def test_reading_at_once_gives_the_rows_of_reading_one_after_the_other(photos):
    (photos / "damaged.jpg").write_bytes((photos / "0.jpg").read_bytes()[:3000])
    try:
        rows = reading.run(Reading(str(photos), milliseconds=1))
    finally:
        (photos / "damaged.jpg").unlink()
    assert [row["equal rows"] for row in rows] == [3, 3, 3]
    assert rows[0]["of the first"] == 1


def test_forms_of_the_network_agree_on_labels():
    rows = network.run(Network(width=1 / 16, classes=3, micro_batch=1, seconds=0.05, device="cpu"))
    assert rows[0]["speed"] == 1.0
    assert rows[1]["equal labels"] > 0.999
    assert all(row["equal labels"] > 0.9 for row in rows[2:])  # bfloat16, where the processor has it
    assert all(row["of the floor"] == pytest.approx(row["floor, ms"] / row["ms a crop"]) for row in rows)


def test_a_networks_operations_are_counted_from_its_layers():
    net = network.random_network(1 / 16, 3)
    sides, expected = {}, 0
    for layer in (m for m in net.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))):
        layer.register_forward_hook(lambda m, i, o: sides.update({m: max(i[0].shape[3], o.shape[3])}))
    net(torch.zeros(1, 3, 224, 224))
    for layer, side in sides.items():
        # 7x7 kernels see or make one pixel only; all others have as many pixels as their map
        pixels = 1 if layer.kernel_size == (7, 7) else side**2
        expected += 2 * layer.weight.numel() * pixels
    assert network.forward_flops(net, crops=2) == 2 * expected


def test_a_training_step_and_aggregation_are_held_against_their_floors():
    slow, *_ = step.run(Step(width=1 / 16, classes=3, micro_batch=2, seconds=0.05, device="cpu"))
    assert slow["speed"] == 1.0
    copy, *ways = aggregate.run(Aggregate(classes=2, seconds=0.05, device="cpu"))
    assert copy["of the floor"] == 1.0
    assert all(way["largest difference"] < 1e-3 for way in ways)


def test_crops_compare_with_the_network_alone():
    alone, whole = crops.run(Crops(width=1 / 16, classes=3, micro_batch=4, seconds=0.05, device="cpu", proposals=5))
    assert alone["network's share"] == 1.0
    assert whole["ms an image"] > 0


def test_every_backend_of_the_crf_gives_pydensecrfs_labels(photos):
    pytest.importorskip("pydensecrf", reason="pydensecrf2 does not build on this Python")
    rows = crf.run(Crf(str(photos), limit=1, propose=ProposeConfig(proposals=5)))
    assert rows[0]["backend"] == "pydensecrf"
    assert rows[0]["classes"] == 7
    assert rows[0]["equal labels"] == rows[0]["speed"] == 1.0
    assert all(row["equal labels"] >= 0.9999 for row in rows if row["threshold"] == 0)
    assert all(row["equal labels"] > 0.99 for row in rows)
    assert {"native", "torch cpu x4"} < {row["backend"] for row in rows}


def test_made_up_scores_leave_the_crf_something_to_do():
    rows = crf.run(Crf(limit=2, image=(75, 100)))
    assert rows[0]["classes"] == 21
    assert 2 < rows[1]["classes"] < 15
    assert all(row["equal, worst image"] >= 0.999 for row in rows if row["threshold"] <= 0.1)
    for image_HW3, scores_CHW in crf.made_up(2, 75, 100):
        before_HW = scores_CHW.argmax(dim=0).numpy()
        after_HW = refine(image_HW3, scores_CHW.softmax(dim=0).numpy(), RefineConfig()).argmax(axis=0)
        assert 0.005 < (before_HW != after_HW).mean() < 0.2


def test_more_boxes_find_more_objects(voc):
    rows = {(row["boxes"], row["top"]): row for row in proposals.run(Proposals(str(voc), "val", limit=3))}
    recalls = [rows["raw", top]["recall 0.5"] for top in (10, 50, 200, 2000)]
    assert recalls == sorted(recalls)
    assert recalls[-1] > 0.5
    assert all(row["recall 0.7"] <= row["recall 0.5"] for row in rows.values())


@pytest.mark.usefixtures("in_ray")
def test_ingest_delivers_every_example_by_both_ways(photos, tmp_path, monkeypatch):
    Image.fromarray(np.zeros(Image.open(photos / "0.jpg").size[::-1], np.uint8)).save(tmp_path / "mask.png")
    row = {"image_uri": str(photos / "0.jpg"), "class_mask_uri": str(tmp_path / "mask.png"),
           "boxes": [0.0, 0, 90, 90, 10, 10, 80, 95], "class_ids": [1, 2], "overlaps": [1.0, 1]}  # fmt: skip
    images = pa.Table.from_pylist([row] * 3, pa.schema([field for field in INDEX_SCHEMA if field.name != "repeats"]))
    write_index(index_uri(str(tmp_path / "set"), 2, "train"), images, np.array([1, 30, 1, 40, 1, 50]))
    arguments = ["ingest", "--training-set", str(tmp_path / "set"), "--json", str(tmp_path / "j")]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments])
    assert main() == 0
    assert [row["examples"] for row in json.loads((tmp_path / "j").read_text())["rows"]] == [123, 123]


@pytest.mark.parametrize(("arguments", "told"), [
    (["decode", "--input", "nowhere"], "nowhere does not exist"),
    (["edges", "--data", "nowhere"], "give BSDS500's folder"),
])  # fmt: skip
def test_missing_data_is_told_in_a_line(arguments, told, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments])
    assert main() == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(("made", "settings"), [
    (Network, {"micro_batch": 0}), (Step, {"micro_batch": 1}), (Crops, {"width": 5}), (Scale, {"done": 1}),
])  # fmt: skip
def test_settings_out_of_their_range_are_refused(made, settings):
    with pytest.raises(ConfigError, match=next(iter(settings)).replace("_", "-")):
        made(**settings)


def test_recall_is_not_measured_without_object_masks(tmp_path):
    for folder, name in (("JPEGImages", "a.jpg"), ("SegmentationClass", "a.png")):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros((40, 50), np.uint8)).save(tmp_path / folder / name)
    with pytest.raises(ConfigError, match="SegmentationObject"):
        proposals.run(Proposals(str(tmp_path)))


def test_the_networks_benchmarks_need_no_ray_opencv_or_arrow():
    check = (
        "from benchmarks import network, crops, aggregate, step, crf; import sys\n"
        "sys.exit(any(name in sys.modules for name in ('ray', 'cv2', 'pyarrow', 'tyro', 'rich')))"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", check], cwd=root, check=False).returncode == 0


def test_the_job_that_is_compared_with_its_stages_is_there():
    from benchmarks.pipeline import JOB

    assert JOB.is_file()
