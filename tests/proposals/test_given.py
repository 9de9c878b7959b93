"""Proposals that somebody else has made, through the propose stage."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.io import savemat

from pipeline import storage
from pipeline.config import ConfigError, DecodeConfig, ProposeConfig
from pipeline.proposals.given import check_given
from pipeline.stages.decode import decode_stage
from pipeline.stages.propose import propose_stage
from pipeline.stages.rows import boxes_of, start_rows

IDS = ["a/000000000007.png", "b.png", "bad.png"]
CONFIG = ProposeConfig(window_shape="square", min_side=0.0)


@pytest.fixture
def images(tmp_path: Path) -> pa.Table:
    """Two images of 300 x 200 pixels and one that cannot be read, worked on at half of their size."""
    (tmp_path / "a").mkdir()
    for name in IDS[:2]:
        Image.new("RGB", (300, 200), (90, 90, 90)).save(tmp_path / name)
    (tmp_path / "bad.png").write_text("no image")
    manifest = pa.table({"image_id": IDS, "uri": [str(tmp_path / name) for name in IDS]})
    return decode_stage(start_rows(manifest), DecodeConfig(max_side=150))


def proposed(images: pa.Table, uri: Path | str, config: ProposeConfig = CONFIG) -> list:
    check_given(str(uri))
    rows = propose_stage(images, replace(config, proposals_from=str(uri))).to_pylist()
    assert rows[2]["error_stage"] == "decode"
    return [row["error_message"] or boxes_of(row).tolist() for row in rows[:2]]


def table(path: Path, rows: list[tuple[str, list[float], float]]) -> Path:
    pq.write_table(pa.table(dict(zip(("image_id", "box", "score"), zip(*rows, strict=True), strict=True))), path)
    return path


def test_a_table_gives_boxes_that_are_sorted_scaled_and_extended(images, tmp_path):
    rows = [
        (IDS[0], [100.0, 50, 200, 90], 0.2),
        ("b", [0.0, 0, 40, 40], 1.0),  # by its name alone
        (IDS[0], [10.0, 20, 30, 60], 0.9),
        ("elsewhere", [0.0, 0, 1, 1], 0.5),
    ]
    found = proposed(images, table(tmp_path / "boxes.parquet", rows))
    # Half of the size, then squares of 1.2 times the longer side: 24 and 60 pixels.
    np.testing.assert_allclose(found[0], [[-2, 8, 22, 32], [45, 5, 105, 65]], atol=1e-4)
    np.testing.assert_allclose(found[1], [[-2, -2, 22, 22]], atol=1e-4)
    one = proposed(images, tmp_path / "boxes.parquet", replace(CONFIG, proposals=1, window_shape="box"))
    np.testing.assert_allclose(one[0], [[4, 8, 16, 32]], atol=1e-4)


def test_a_table_in_a_store_is_read_there(images, tmp_path, stored):
    written = table(tmp_path / "boxes.parquet", [("b", [0.0, 0, 40, 40], 1.0)])
    storage.write_atomic(f"{stored}/boxes.parquet", written.read_bytes())
    there, here = proposed(images, f"{stored}/boxes.parquet"), proposed(images, written)
    assert there[1] == here[1]
    assert there[0].startswith(f"{stored}/boxes.parquet has no box for this image")


def test_coco_detections_are_boxes_by_the_number_that_is_the_name(images, tmp_path):
    detections = [{"image_id": 7, "category_id": 3, "bbox": [20, 40, 20, 40], "score": 0.4}]
    (tmp_path / "found.json").write_text(json.dumps(detections))
    found = proposed(images, tmp_path / "found.json")
    np.testing.assert_allclose(found[0], [[3, 18, 27, 42]], atol=1e-4)
    assert "no box for this image" in found[1]


def test_the_releases_cache_holds_windows_in_the_padded_image(images, tmp_path):
    """Columns are padded by the height (200), rows by the width (300); boxes count from 1 and hold both ends."""
    (tmp_path / "cache").mkdir()
    windows = np.array([[201, 301, 500, 500], [191, 281, 390, 480]])
    savemat(tmp_path / "cache" / "000000000007.mat", {"boxes_padded": windows})
    (tmp_path / "cache" / "b.mat").write_bytes(b"nothing")
    found = proposed(images, tmp_path / "cache")
    np.testing.assert_allclose(found[0], [[0, 0, 150, 100], [-5, -10, 95, 90]], atol=1e-4)
    assert "no boxes_padded" in found[1]
    (tmp_path / "cache" / "b.mat").unlink()
    assert "b.mat" in proposed(images, tmp_path / "cache")[1]
    strict = replace(CONFIG, min_side=95.0, small_image_share=0.0)  # by the shorter side, as the release
    assert len(proposed(images, tmp_path / "cache", strict)[0]) == 2
    assert len(proposed(images, tmp_path / "cache", replace(strict, min_side=100.5))[0]) == 1  # the whole image


@pytest.mark.parametrize(("box", "said"), [([5.0, 5, 5, 9], "without area"), ([0.0, 0, float("nan"), 9], "not finite")])
def test_what_is_no_box_fails_its_image_alone(images, tmp_path, box, said):
    rows = [(IDS[0], box, 1.0), ("b.png", [0.0, 0, 50, 50], 1.0)]
    found = proposed(images, table(tmp_path / "boxes.parquet", rows))
    assert said in found[0]
    assert len(found[1]) == 1


def test_what_cannot_be_read_is_told_before_the_run(tmp_path):
    (tmp_path / "wrong.parquet").write_text("no table")
    pq.write_table(pa.table({"image_id": ["a"], "boxes": [1]}), tmp_path / "columns.parquet")
    (tmp_path / "wrong.json").write_text('{"image_id": 3}')
    for name, said in (
        ("wrong.parquet", "cannot be read as Parquet"),
        ("gone.parquet", "cannot be read as Parquet"),
        ("columns.parquet", "no column box, score"),
        ("wrong.json", "no list of COCO detections"),
        ("gone.json", "no list of COCO detections"),
        ("gone", "give a .parquet file"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_given(str(tmp_path / name))
