"""What all exports share: names, regions, JSON in pieces, a folder that is whole or not there, the command."""

from __future__ import annotations

import json
import shutil
import sys
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import scipy.ndimage
from conftest import exit_code
from container_files import parquet_of, tar_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from result_files import CLASSES, PATHS, row_of, write_output

from jobs import console, export_results
from pipeline import storage
from pipeline.config import ConfigError, ExportConfig
from pipeline.errors import FolderError, ResultsError
from pipeline.export import formats, run
from pipeline.export.folder import whole_folder
from pipeline.export.formats.coco_panoptic import segments_of
from pipeline.export.formats.cvat import export as export_cvat
from pipeline.export.formats.labelstudio import packed
from pipeline.export.formats.yolo import lines
from pipeline.export.json_lists import json_lists
from pipeline.export.names import names_of
from pipeline.export.polygons import rings_of
from pipeline.export.regions import MOST_REGIONS, Region, regions_of, run_lengths, without_specks
from pipeline.imaging.images import SUPPORTED
from pipeline.inputs.manifest import build_manifest, safe_id
from pipeline.outputs.writing import write_rows

pieces = st.sampled_from(["a", "b", "a.jpg", "a.png", "b.JPG", "a.txt", ".x", "%2E", "a.jpg.jpg", "<i>", "é"])
paths = st.lists(pieces, min_size=1, max_size=3).map("/".join)


@given(st.lists(paths, min_size=1, max_size=12, unique=True), st.sampled_from(["", *SUPPORTED]))
def test_no_two_images_and_no_two_labels_have_one_name(some: list[str], uri_ending: str):
    ids = [safe_id(path) for path in some]
    assert len(set(ids)) == len(ids)
    names = names_of(pa.chunked_array([ids], pa.string()))
    labels = [names.label(one) for one in ids]
    pictures = [names.picture(one, f"/data/x{uri_ending}") for one in ids]
    assert len(set(labels)) == len(ids)
    assert len(set(pictures)) == len(ids)
    for ending in ("png", "txt"):
        check_files([f"{label}.{ending}" for label in labels])
    if uri_ending:
        check_files(pictures)
        for label, picture in zip(labels, pictures, strict=True):
            assert picture.removeprefix(label).lower() in SUPPORTED


def check_files(files: list[str]) -> None:
    """No file is where another one needs a folder; none is hidden."""
    folders = {"/".join(file.split("/")[:depth]) for file in files for depth in range(1, file.count("/") + 1)}
    assert not folders & set(files)
    assert not any(name.startswith(".") for file in files for name in file.split("/"))


masks = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 2, 255])
)


def on_canvas(region: Region, height: int, width: int) -> NDArray[np.bool_]:
    mask_HW = np.zeros((height, width), bool)
    left, top, box_width, box_height = region.box
    mask_HW[top : top + box_height, left : left + box_width] = region.mask_hw
    return mask_HW


@given(masks)
def test_runs_of_a_region_are_those_of_its_image(labels_HW):
    height, width = labels_HW.shape
    for region in regions_of(labels_HW, 3):
        mask_HW = on_canvas(region, height, width)
        assert region.runs(height, width) == run_lengths(mask_HW.ravel())
        assert region.transposed.runs(width, height) == run_lengths(mask_HW.T.ravel())


@given(masks, st.integers(2, 6))
def test_regions_are_the_mask_and_no_more_than_asked_for(labels_HW, most):
    regions = regions_of(labels_HW, 3, most)
    assert len(regions) <= most
    drawn_HW = np.zeros_like(labels_HW)
    for region in regions:
        mask_HW = on_canvas(region, *labels_HW.shape)
        assert region.area == mask_HW.sum() == region.mask_hw.sum()
        assert not drawn_HW[mask_HW].any()
        drawn_HW[mask_HW] = region.label
    np.testing.assert_array_equal(drawn_HW, np.where(labels_HW < 3, labels_HW, 0))  # void is in none
    assert [one.label for one in regions] == sorted(one.label for one in regions)


def test_only_the_smallest_parts_share_a_region():
    labels_HW = np.zeros((20, 100), np.uint8)
    labels_HW[::2, 30::2] = 1  # 350 parts of a pixel
    labels_HW[0:7, 0:7] = 2
    labels_HW[10:17, 10:17] = 1
    regions = regions_of(labels_HW, 3)
    assert len(regions) <= MOST_REGIONS
    assert [one.area for one in regions] == [49, 350, 49]
    labels_HW[::2, 30::2] = 0
    assert len(regions_of(labels_HW, 3)) == 2


@given(arrays.arrays(np.bool_, st.integers(1, 40)))
def test_run_lengths_add_up(pixels_N):
    runs = run_lengths(pixels_N)
    assert sum(runs) == len(pixels_N)
    assert all(run > 0 for run in runs[1:])
    laid_out = [number % 2 == 1 for number, run in enumerate(runs) for _ in range(run)]
    assert laid_out == pixels_N.tolist()


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14))))
def test_filled_rings_are_the_mask_but_for_a_pixel_a_line(mask_HW):
    filled_HW = np.zeros(mask_HW.shape, np.uint8)
    for ring in rings_of(mask_HW):
        assert len(ring) >= 3
        assert mask_HW[ring[:, 1], ring[:, 0]].all()
        cv2.fillPoly(filled_HW, [ring], 1)
    np.testing.assert_array_equal(filled_HW.astype(bool), mask_HW)


def test_void_is_in_no_object_and_id_0_of_a_panoptic_png():
    labels_HW = np.array([[255, 255, 1], [0, 2, 1]], np.uint8)
    ids_HW, segments = segments_of(labels_HW, 3)
    assert (ids_HW == 0).tolist() == (labels_HW == 255).tolist()
    assert [(one["category_id"], one["area"]) for one in segments] == [(3, 1), (1, 2), (2, 1)]
    assert [line.split()[0] for line in lines(labels_HW, 3).splitlines()] == ["0", "1"]


@pytest.mark.parametrize("length", [1, 8, 9, 16, 17, 256, 257, 65536, 65537, 200_000])
def test_rle_pack_holds_runs_of_every_length(length):
    bits = "".join(f"{byte:08b}" for byte in packed([length, 1]))
    assert int(bits[:32], 2) == 4 * (length + 1)
    at, total = 53, 0
    while total < 4 * (length + 1):
        assert bits[at] == "1"
        size = (3, 4, 8, 16)[int(bits[at + 1 : at + 3], 2)]
        total += int(bits[at + 3 : at + 3 + size], 2) + 1
        at += 3 + size + 8
        assert int(bits[at - 8 : at], 2) == (0 if total <= 4 * length else 255)
    assert len(bits) - at < 8


def test_a_json_file_of_lists_is_what_json_would_write(tmp_path):
    file = tmp_path / "a" / "lists.json"
    names = ["<script>", 'quote"', "日本", "\u2028"]
    with json_lists(file, {"head": {"x": [1]}}, "first", "second", "none") as append:
        for name in names:
            append("second", {"name": name})
            append("first", name)
    expected = {"head": {"x": [1]}, "first": names, "second": [{"name": name} for name in names], "none": []}
    assert json.loads(file.read_text()) == expected
    assert list(file.parent.iterdir()) == [file]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "above" / "export"
    with pytest.raises(FileNotFoundError), whole_folder(str(target)) as folder:
        shutil.copy(tmp_path / "nothing", folder)
    assert list(target.parent.iterdir()) == []
    target.mkdir()  # an empty one is as good as none
    with whole_folder(str(target)) as folder:
        (folder / "file").touch()
        assert not any(target.iterdir())
    assert [path.name for path in target.parent.iterdir()] == ["export"]
    with pytest.raises(FolderError, match="not empty"), whole_folder(str(target)):
        pass
    (tmp_path / "other.incomplete").mkdir()
    with pytest.raises(FolderError, match="at work, or one was killed"), whole_folder(str(tmp_path / "other")):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match="file is there already"), whole_folder(str(tmp_path / "file")):
        pass


@pytest.fixture
def output(tmp_path: Path) -> Path:
    write_output(tmp_path)
    return tmp_path


def test_the_command_says_what_is_in_the_export_and_what_not(output, capsys, monkeypatch):
    monkeypatch.chdir(output)
    (output / "photos" / "full.jpg").unlink()
    assert exit_code(console.main, "export", "run", "--to", "coco", "--output", "out/coco") == 0
    told = capsys.readouterr().out
    assert "1 images of the run failed and 1 were skipped" in told
    assert f"1 images could not be read any more: the export has their labels only ({output}/photos/full.jpg)" in told
    assert f"{len(PATHS)} images as coco: {output}/out/coco" in told
    assert exit_code(console.main, "export", "run", "--to", "coco", "--output", "out/coco") == 2
    assert "is there already and not empty" in capsys.readouterr().err
    assert exit_code(export_results.main, "--results", "run", "--to", "hf", "--output", "out/hf", "--copy-images") == 0
    assert "1 images could not be read any more" in capsys.readouterr().out


def test_a_log_gets_lines_on_the_way(output, capsys, monkeypatch):
    monkeypatch.setattr(export_results, "LINE_SECONDS", 0.0)
    folder = str(output / "out")
    assert (
        exit_code(export_results.main, "--results", str(output / "run"), "--to", "masks-grey", "--output", folder) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[: len(PATHS)] == [f"{number} of {len(PATHS)} images" for number in range(len(PATHS))]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--to", "cocoo", "--output", "out"), "coco-panoptic"),
        (("run", "--to", "coco", "--output", "s3://bucket/out"), "must be a path on this machine"),
        (("runn", "--to", "coco", "--output", "out"), "did you mean"),
        (("photos", "--to", "coco", "--output", "out"), "holds no results"),
        (("run/results", "--to", "coco", "--output", "out"), "is a part of a run's output; give /"),
    ],
)
def test_what_cannot_be_used_is_refused_and_nothing_is_written(words, said, output, capsys, monkeypatch):
    monkeypatch.chdir(output)
    storage.write_atomic(str(output / "run" / "run" / "config.json"), b"{}")
    assert exit_code(console.main, "export", *words) == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert sorted(path.name for path in output.iterdir()) == ["photos", "run"]


def test_a_package_that_is_missing_is_named_before_anything_is_written(output, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "pipeline.export.formats.coco", raising=False)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    assert exit_code(console.main, "export", str(output / "run"), "--to", "coco", "--output", str(output / "out")) == 2
    assert "pycocotools is not installed; pip install" in capsys.readouterr().err
    assert not list(output.glob("out*"))


def test_settings_made_in_python_refuse_an_unknown_format():
    with pytest.raises(ConfigError, match="masks-grey"):
        ExportConfig("run", "cocoo", "out")  # type: ignore[arg-type]


def test_a_damaged_mask_is_named_and_no_half_an_export_is_left(output):
    row = row_of("bad.jpg", "/data/bad.jpg", np.zeros((4, 4), np.uint8)) | {"mask": b"\x89PNG\r\n\x1a\nno"}
    write_rows(str(output / "run"), [row], CLASSES)
    with pytest.raises(ResultsError, match=r"bad\.jpg"):
        run.export_results(ExportConfig(str(output / "run"), "yolo", str(output / "out")))
    assert not list(output.glob("out*"))
    shutil.rmtree(output / "run" / "results")
    with pytest.raises(ResultsError, match="no segmented image"):
        run.export_results(ExportConfig(str(output / "run"), "yolo", str(output / "out")))


def test_images_on_s3_are_named_by_their_address_and_counted(tmp_path):
    rows = [row_of(f"{name}.jpg", f"s3://bucket/{name}.jpg", np.ones((4, 4), np.uint8)) for name in "ab"]
    write_rows(str(tmp_path / "run"), rows, CLASSES)
    done = run.export_results(ExportConfig(str(tmp_path / "run"), "labelstudio", str(tmp_path / "out")))
    assert (done.remote, done.missing) == (2, 0)
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert sorted(task["data"]["image"] for task in tasks) == ["s3://bucket/a.jpg", "s3://bucket/b.jpg"]


@pytest.mark.parametrize("name", ["x.tar", "x.parquet"])
def test_images_in_archives_are_copied_where_asked_for_and_else_counted(tmp_path, name):
    photo = b"any bytes"
    (tmp_path / name).write_bytes(tar_of({"a.jpg": photo}) if name == "x.tar" else parquet_of({"image": [photo]}))
    (image,) = build_manifest(str(tmp_path / name), None).to_pylist()
    write_rows(str(tmp_path / "run"), [row_of(image["image_id"], image["uri"], np.ones((4, 4), np.uint8))], CLASSES)
    done = run.export_results(ExportConfig(str(tmp_path / "run"), "labelstudio", str(tmp_path / "linked")))
    assert (done.images, done.remote, done.missing) == (1, 1, 0)
    to = str(tmp_path / "copied")
    done = run.export_results(ExportConfig(str(tmp_path / "run"), "labelstudio", to, copy_images=True))
    assert (done.images, done.remote, done.missing) == (1, 0, 0)
    assert [path.read_bytes() for path in (tmp_path / "copied" / "images").rglob("*") if path.is_file()] == [photo]


def test_a_class_that_xml_cannot_hold_is_refused(tmp_path):
    classes = ("background", "bell\a")
    labels_HW = np.ones((4, 4), np.uint8)
    row = row_of("a.jpg", "/data/a.jpg", labels_HW) | {"pixel_counts": [0, 16], "mean_probability": [None, 1.0]}
    write_rows(str(tmp_path / "run"), [row], classes)
    with pytest.raises(ResultsError, match="CVAT"):
        run.export_results(ExportConfig(str(tmp_path / "run"), "cvat", str(tmp_path / "out")))
    assert formats.load("cvat") is export_cvat


@pytest.mark.parametrize(
    "to", [*(pytest.param(to, marks=pytest.mark.slow) for to in ("cvat", "hf", "labelstudio")), "coco"]
)
@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(to, tmp_path, monkeypatch):
    """Of the formats with one file for all images, ten times the images take no more memory."""
    monkeypatch.setattr("pipeline.export.formats.hf.ROWS_IN_A_GROUP", 20)
    labels_HW = np.zeros((12, 12), np.uint8)
    labels_HW[2:9, 3:5] = labels_HW[5:7, 7:11] = 2
    peaks, sizes = [], []
    for images in (40, 400):
        for start in range(0, images, 20):
            rows = [row_of(f"{n:06d}.jpg", f"s3://bucket/{n:06d}.jpg", labels_HW) for n in range(start, start + 20)]
            write_rows(str(tmp_path / str(images)), rows, CLASSES)
        config = ExportConfig(str(tmp_path / str(images)), to, str(tmp_path / f"out{images}"))
        formats.load(to)
        tracemalloc.start()
        run.export_results(config)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        sizes.append(sum(path.stat().st_size for path in Path(config.output).rglob("*") if path.is_file()))
    assert sizes[1] > 5 * sizes[0]
    assert peaks[1] < 2 * peaks[0] + 200_000


def test_specks_become_background_where_they_are_not_wanted(tmp_path):
    """Against scipy's labels of the same mask."""
    rng = np.random.default_rng(0)
    labels_HW = (rng.random((60, 80)) < 0.2).astype(np.uint8) * rng.integers(1, 3, (60, 80)).astype(np.uint8)
    labels_HW[10:30, 10:40] = 2
    expected_HW = labels_HW.copy()
    for label in (1, 2):
        parts_HW, count = scipy.ndimage.label(labels_HW == label, structure=np.ones((3, 3)))
        for part in range(1, count + 1):
            if (parts_HW == part).sum() < 5:
                expected_HW[parts_HW == part] = 0
    assert (expected_HW != labels_HW).any()
    np.testing.assert_array_equal(without_specks(labels_HW, 5), expected_HW)
    np.testing.assert_array_equal(without_specks(labels_HW, 1), labels_HW)
    void_HW = np.full((4, 4), 255, np.uint8)
    np.testing.assert_array_equal(without_specks(void_HW, 100), void_HW)
    write_rows(str(tmp_path / "run"), [row_of("a.png", "a.png", labels_HW)], CLASSES)
    arguments = ["export", str(tmp_path / "run"), "--to", "masks-grey", "--min-area", "5"]
    assert exit_code(console.main, *arguments, "--output", str(tmp_path / "out")) == 0
    (mask,) = (tmp_path / "out" / "masks").rglob("*.png")
    np.testing.assert_array_equal(cv2.imread(str(mask), cv2.IMREAD_UNCHANGED), expected_HW)
