"""The benchmarks run, and what they say of labels and boxes is true; nothing here looks at a clock."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipeline.benchmarks import crf, crops, decode, network, proposals
from pipeline.config.benchmarks import Crf, Crops, Decode, Network, Proposals
from pipeline.scenes.dataset import scene_of


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index in range(2):
        Image.fromarray(scene_of(7, "val", index).image_HW3).save(folder / f"{index}.jpg", quality=92)
    return folder


def test_decode_compares_with_two_libraries(photos):
    rows = decode.run(Decode(str(photos), seconds=0.05))
    assert len(rows) == 3
    assert max(row["speed, of the fastest library"] for row in rows[1:]) == 1.0


def test_forms_of_the_network_agree_on_labels():
    rows = network.run(Network(width=1 / 16, classes=3, micro_batch=1, seconds=0.05, device="cpu"))
    assert rows[0]["speed"] == 1.0
    assert rows[1]["equal labels"] > 0.999
    assert rows[2]["equal labels"] > 0.9
    assert all(row["GFLOP/s"] > 0 for row in rows)


def test_crops_compare_with_the_network_alone():
    alone, whole = crops.run(Crops(width=1 / 16, classes=3, micro_batch=16, seconds=0.05, device="cpu"))
    assert alone["network's share"] == 1.0
    assert whole["ms an image"] > 0


def test_without_a_threshold_all_classes_go_into_the_crf(photos):
    rows = crf.run(Crf(str(photos), limit=1))
    assert rows[0]["classes"] == 7
    assert rows[0]["equal labels"] == rows[0]["speed"] == 1.0
    assert all(row["equal labels"] > 0.99 for row in rows)


def test_more_boxes_find_more_objects(voc):
    rows = {(row["boxes"], row["top"]): row for row in proposals.run(Proposals(str(voc), "val", limit=3))}
    recalls = [rows["raw", top]["recall 0.5"] for top in (10, 50, 200, 2000)]
    assert recalls == sorted(recalls)
    assert recalls[-1] > 0.5
    assert all(row["recall 0.7"] <= row["recall 0.5"] for row in rows.values())


def test_the_networks_benchmarks_need_no_ray_opencv_or_arrow():
    check = (
        "import sys, pipeline.benchmarks.network, pipeline.benchmarks.crops\n"
        "sys.exit(any(name in sys.modules for name in ('ray', 'cv2', 'pyarrow')))"
    )
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", check], cwd=root, check=False).returncode == 0
