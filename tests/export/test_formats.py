"""Each export, read back with the target's own library, or with a decoder written from its specification."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from result_files import CLASSES, PATHS, carried, image_name, write_output

from pipeline.config import ExportConfig, TrainingSetConfig
from pipeline.datasets.class_list import read_class_list
from pipeline.datasets.coco import draw_masks, read_coco
from pipeline.datasets.layouts import list_images
from pipeline.datasets.masks import load_mask
from pipeline.export.run import export_results
from pipeline.imaging.images import decode_image
from pipeline.inputs.manifest import safe_id
from pipeline.outputs.results import read_results

Masks = dict[str, NDArray[np.uint8]]
Exported = Callable[..., Path]
IDS = [safe_id(path) for path in PATHS]


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Masks]:
    root = tmp_path_factory.mktemp("output")
    return root, write_output(root)


@pytest.fixture(scope="module")
def exported(masks: tuple[Path, Masks]) -> Exported:
    """Makes an export once."""
    root, _ = masks

    def export(to: str, *, copy: bool = False) -> Path:
        folder = root / f"{to}-{copy}"
        if not folder.exists():
            done = export_results(ExportConfig(str(root / "run"), to, str(folder), copy_images=copy))
            assert (done.images, done.failed, done.skipped, done.remote, done.missing) == (len(PATHS), 1, 1, 0, 0)
        return folder

    return export


@pytest.fixture(scope="module")
def masks_by_id(masks: tuple[Path, Masks]) -> Masks:
    assert set(masks[1]) == set(IDS)
    return masks[1]


@pytest.fixture(scope="module")
def counts(masks: tuple[Path, Masks]) -> dict[str, list[int]]:
    rows = read_results(str(masks[0] / "run"), ["image_id", "pixel_counts"]).to_pylist()
    return {row["image_id"]: row["pixel_counts"] for row in rows}


def instances(folder: Path) -> COCO:
    return COCO(str(folder / "annotations" / "instances_results.json"))


def test_coco_has_the_pixels_of_each_class_by_pycocotools(exported, masks_by_id, counts):
    coco = instances(exported("coco"))
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == list(CLASSES[1:])
    assert sorted(one["image_id"] for one in coco.imgs.values()) == sorted(IDS)
    for image in coco.imgs.values():
        labels_HW = np.zeros((image["height"], image["width"]), np.uint8)
        areas = np.zeros(len(CLASSES), int)
        for one in coco.imgToAnns[image["id"]]:
            region_HW = coco.annToMask(one).astype(bool)
            assert one["area"] == region_HW.sum() == coco_mask.area(one["segmentation"])
            assert one["bbox"] == coco_mask.toBbox(one["segmentation"]).tolist()
            assert not labels_HW[region_HW].any()  # no pixel is in two
            labels_HW[region_HW] = one["category_id"]
            areas[one["category_id"]] += one["area"]
        np.testing.assert_array_equal(labels_HW, masks_by_id[image["image_id"]])
        assert areas[1:].tolist() == counts[image["image_id"]][1:]


def test_coco_has_a_region_for_each_connected_part(exported, masks_by_id):
    coco = instances(exported("coco"))
    for image in coco.imgs.values():
        labels_HW = masks_by_id[image["image_id"]]
        parts = sum(cv2.connectedComponents((labels_HW == label).astype(np.uint8))[0] - 1 for label in range(1, 5))
        assert len(coco.imgToAnns[image["id"]]) == parts or (parts > 254 >= len(coco.imgToAnns[image["id"]]) > 100)
    noise = next(one["id"] for one in coco.imgs.values() if one["image_id"] == "noise.png")
    assert len(coco.imgToAnns[noise]) > 100


def test_columns_of_the_manifest_stand_where_the_format_has_a_place_for_them(exported):
    expected = {one: {"manifest": json.loads(text)} if (text := carried(one)) else {} for one in IDS}
    for to, name in (("coco", "instances"), ("coco-panoptic", "panoptic")):
        content = json.loads((exported(to) / f"annotations/{name}_results.json").read_text())
        entries = {one["image_id"]: one for one in content["images"]}
        assert {one: {key: entry[key] for key in ("manifest",) if key in entry} for one, entry in entries.items()} == (
            expected
        )
    tasks = [task["data"] for task in json.loads((exported("labelstudio") / "tasks.json").read_text())]
    assert {one["image_id"]: {key: one[key] for key in ("manifest",) if key in one} for one in tasks} == expected


@pytest.mark.parametrize("copy", [False, True])
def test_coco_is_a_training_set_with_the_same_masks(copy, exported, masks_by_id, tmp_path):
    folder = exported("coco", copy=copy)
    config = TrainingSetConfig(
        data=(str(folder),), output=str(tmp_path / "windows"), train_split="results", val_split="results"
    )
    images = list_images(config)
    assert images.class_names == CLASSES
    (remark,) = images.remarks  # and nothing else
    assert remark.startswith(f"{len(IDS)} of the {len(IDS)} images for validation are also trained on")
    ids = {one.id: entry["image_id"] for one, entry in zip(
        read_coco(str(folder / "annotations/instances_results.json")).images,
        instances(folder).imgs.values(), strict=True,
    )}  # fmt: skip
    assert sorted(ids.values()) == sorted(IDS)
    for pair, image_id in zip(images.train, ids.values(), strict=True):
        assert pair.annotations is not None
        np.testing.assert_array_equal(draw_masks(pair.annotations)[0], masks_by_id[image_id])
        assert decode_image(Path(pair.image_uri).read_bytes(), 1).shape[:2] == masks_by_id[image_id].shape


def test_panoptic_pngs_hold_the_labels(exported, masks_by_id):
    folder = exported("coco-panoptic")
    content = json.loads((folder / "annotations/panoptic_results.json").read_text())
    names = {one["id"]: one["name"] for one in content["categories"]}
    assert names == dict(enumerate((*CLASSES[1:], CLASSES[0]), start=1))
    assert [one["isthing"] for one in content["categories"]] == [1, 1, 1, 1, 0]
    images = {one["id"]: one for one in content["images"]}
    assert len(content["annotations"]) == len(IDS)
    for annotation in content["annotations"]:
        image = images[annotation["image_id"]]
        with Image.open(folder / "annotations" / "panoptic_results" / annotation["file_name"]) as png:
            assert png.mode == "RGB"
            ids_HW = np.asarray(png).astype(int) @ [1, 256, 65536]
        labels_HW = np.full(ids_HW.shape, 255)
        for one in annotation["segments_info"]:
            inside_HW = ids_HW == one["id"]
            rows, columns = np.nonzero(inside_HW)
            assert one["area"] == len(rows)
            assert one["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            labels_HW[inside_HW] = CLASSES.index(names[one["category_id"]])
        assert set(np.unique(ids_HW)) == {one["id"] for one in annotation["segments_info"]}
        np.testing.assert_array_equal(labels_HW, masks_by_id[image["image_id"]])


def test_grey_masks_are_equal_and_a_training_set(exported, masks_by_id, tmp_path):
    folder = exported("masks-grey")
    assert read_class_list(str(folder / "classes.txt")) == CLASSES
    config = TrainingSetConfig(data=(str(folder),), output=str(tmp_path), val_share=0.0)
    pairs = list_images(config).train
    assert len(pairs) == len(IDS)
    found = []
    for pair in pairs:
        with Image.open(pair.class_mask_uri) as png:
            assert png.mode == "L"
            labels_HW = np.asarray(png)
        np.testing.assert_array_equal(labels_HW, load_mask(pair.class_mask_uri))
        shape = decode_image(Path(pair.image_uri).read_bytes(), 1).shape[:2]
        found += [one for one, mask_HW in masks_by_id.items() if mask_HW.shape == shape == labels_HW.shape
                  and (mask_HW == labels_HW).all()]  # fmt: skip
    assert sorted(found) == sorted(IDS)


def polygons(text: str, height: int, width: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Class and points of each line, as ultralytics reads them: shares times the size."""
    for line in text.splitlines():
        number, *shares = line.split()
        assert len(shares) >= 6
        points_N2 = np.array(shares, float).reshape(-1, 2)
        assert ((points_N2 >= 0) & (points_N2 <= 1)).all()
        yield int(number), points_N2 * (width, height)


def yolo_masks(folder: Path) -> Iterator[tuple[str, str]]:
    """Text of each label, and the path of its image below images."""
    for image in sorted((folder / "images").rglob("*")):
        if image.is_file() and image.suffix != ".txt":
            label = Path("/labels/".join(str(image).rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt")  # as ultralytics
            yield label.read_text(), str(image.relative_to(folder / "images"))


def id_of(picture: str) -> str:
    """The image of an export that is called so."""
    wanted = {"4711.jpg": "4711", "a/b/c%2Ejpg.jpg": "a/b/c.jpg", "a/b/c%2Epng.png": "a/b/c.png",
              "a/b%2Epng/c.JPG": "a/b.png/c.JPG"}  # fmt: skip
    return wanted.get(picture, picture)


def test_yolo_polygons_filled_by_opencv_are_the_masks(exported, masks_by_id):
    """OpenCV is what ultralytics fills them with; lines to holes may touch a pixel or two beside the part."""
    folder = exported("yolo")
    content = yaml.safe_load((folder / "data.yaml").read_text())
    assert content == {"train": "images", "val": "images", "names": dict(enumerate(CLASSES[1:]))}
    seen = []
    for text, picture in yolo_masks(folder):
        truth_HW = masks_by_id[id_of(picture)]
        seen.append(id_of(picture))
        for label in range(1, len(CLASSES)):
            filled_HW = np.zeros(truth_HW.shape, np.uint8)
            for number, points_N2 in polygons(text, *truth_HW.shape):
                if number == label - 1:
                    cv2.fillPoly(filled_HW, [points_N2.astype(np.int32)], 1)
            wrong = np.count_nonzero(filled_HW != (truth_HW == label))
            assert wrong <= (0.01 * truth_HW.size if picture == "noise.png" else 0), (picture, label)
    assert sorted(seen) == sorted(IDS)


def test_yolo_polygons_filled_by_others_differ_at_the_edge_only(exported, masks_by_id):
    """pycocotools fills what lies inside the outline, which goes through the centres of the outer pixels."""
    for text, picture in yolo_masks(exported("yolo")):
        truth_HW = masks_by_id[id_of(picture)]
        for label in range(1, len(CLASSES)):
            inside_HW = truth_HW == label
            filled_HW = np.zeros(truth_HW.shape, bool)
            for number, points_N2 in polygons(text, *truth_HW.shape):
                if number == label - 1:
                    runs = coco_mask.frPyObjects([points_N2.ravel().tolist()], *truth_HW.shape)
                    filled_HW |= coco_mask.decode(runs)[..., 0].astype(bool)
            padded_HW = np.pad(inside_HW, 1).astype(np.uint8)  # the edge of the image is one, too
            core_HW = cv2.erode(padded_HW, np.ones((3, 3), np.uint8))[1:-1, 1:-1].astype(bool)
            assert filled_HW[core_HW].all()
            assert not (filled_HW & ~cv2.dilate(inside_HW.astype(np.uint8), np.ones((3, 3))).astype(bool)).any()


def unpack(data: list[int]) -> NDArray[np.uint8]:
    """The decoder of rle-pack, bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in data)
    at = 0

    def read(size: int) -> int:
        nonlocal at
        at += size
        return int(bits[at - size : at], 2)

    count, value_bits = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    out: list[int] = []
    while len(out) < count:
        run = read(1)
        length = 1 + read(sizes[read(2)])
        out += [read(value_bits)] * length if run else [read(value_bits) for _ in range(length)]
    assert len(out) == count
    assert len(bits) - at < 8
    return np.array(out, np.uint8)


@pytest.mark.parametrize("copy", [False, True])
def test_label_studio_brushes_are_the_masks(copy, exported, masks_by_id):
    folder = exported("labelstudio", copy=copy)
    view = ElementTree.parse(folder / "config.xml").getroot()
    brush = view.find("BrushLabels")
    assert brush is not None
    assert [one.get("value") for one in brush] == list(CLASSES[1:])
    tasks = json.loads((folder / "tasks.json").read_text())
    assert sorted(task["data"]["image_id"] for task in tasks) == sorted(IDS)
    for task in tasks:
        truth_HW = masks_by_id[task["data"]["image_id"]]
        (file,) = parse_qs(urlsplit(task["data"]["image"]).query)["d"]
        assert decode_image((folder / file).read_bytes(), 1).shape[:2] == truth_HW.shape
        assert (folder / file).is_symlink() != copy
        (prediction,) = task["predictions"]
        assert (prediction["model_version"], prediction["score"]) == ("abc", 0.75)
        labels_HW = np.zeros_like(truth_HW)
        for one in prediction["result"]:
            assert (one["from_name"], one["to_name"]) == (brush.get("name"), brush.get("toName"))
            size = one["original_height"], one["original_width"]
            rgba_HW4 = unpack(one["value"]["rle"]).reshape(*size, 4)
            assert (rgba_HW4 == rgba_HW4[..., :1]).all()
            assert set(np.unique(rgba_HW4)) <= {0, 255}
            (name,) = one["value"]["brushlabels"]
            labels_HW[rgba_HW4[..., 3] > 0] = CLASSES.index(name)
        np.testing.assert_array_equal(labels_HW, truth_HW)
        assert len({one["id"] for one in prediction["result"]}) == len(prediction["result"])


def test_cvat_masks_are_the_masks(exported, masks_by_id):
    folder = exported("cvat")
    root = ElementTree.parse(folder / "annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    assert root.findtext("meta/task/size") == str(len(IDS))
    assert [one.findtext("name") for one in root.iterfind("meta/task/labels/label")] == list(CLASSES[1:])
    assert [one["name"] for one in json.loads((folder / "labels.json").read_text())] == list(CLASSES[1:])
    names = []
    for image in root.iterfind("image"):
        names.append(image.get("name"))
        truth_HW = masks_by_id[id_of(str(image.get("name")))]
        assert truth_HW.shape == (int(str(image.get("height"))), int(str(image.get("width"))))
        assert (folder / "images" / str(image.get("name"))).is_file()
        labels_HW = np.zeros_like(truth_HW)
        for one in image.iterfind("mask"):
            left, top, width, height = (int(str(one.get(key))) for key in ("left", "top", "width", "height"))
            pixels: list[bool] = []
            for number, run in enumerate(str(one.get("rle")).split(",")):
                pixels += [number % 2 == 1] * int(run)
            region_hw = np.array(pixels).reshape(height, width)
            labels_HW[top : top + height, left : left + width][region_hw] = CLASSES.index(str(one.get("label")))
        np.testing.assert_array_equal(labels_HW, truth_HW)
    assert len(set(names)) == len(IDS)
    assert len({str(name).rpartition(".")[0] or name for name in names}) == len(IDS)  # CVAT knows no endings


@pytest.mark.parametrize("copy", [False, True])
def test_datasets_opens_images_and_masks(copy, exported, masks_by_id, counts, masks, tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = exported("hf", copy=copy)
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path))
    assert isinstance(loaded.features["image"], datasets.Image)
    assert isinstance(loaded.features["label"], datasets.Image)
    assert sorted(loaded["image_id"]) == sorted(IDS)
    for row in loaded:
        truth_HW = masks_by_id[row["image_id"]]
        np.testing.assert_array_equal(np.asarray(row["label"]), truth_HW)
        photo = masks[0] / "photos" / image_name(PATHS[IDS.index(row["image_id"])])
        np.testing.assert_array_equal(np.asarray(row["image"].convert("RGB")), decode_image(photo.read_bytes(), 1))
        assert row["pixel_counts"] == counts[row["image_id"]]
        assert row["mean_confidence"] == 0.75
        assert row["manifest"] == carried(row["image_id"])
    assert json.loads((folder / "id2label.json").read_text()) == {str(i): name for i, name in enumerate(CLASSES)}


def test_parquet_files_end_at_a_size(masks, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("pipeline.export.formats.hf.ROWS_IN_A_GROUP", 2)
    monkeypatch.setattr("pipeline.export.formats.hf.BYTES_IN_A_FILE", 2500)
    export_results(ExportConfig(str(masks[0] / "run"), "hf", str(tmp_path / "hf")))
    files = sorted((tmp_path / "hf" / "data").iterdir())
    assert 2 < len(files) < len(PATHS) / 2
    loaded = datasets.load_dataset(str(tmp_path / "hf"), split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(loaded["image_id"]) == sorted(IDS)


@pytest.mark.parametrize("to", ["coco", "coco-panoptic", "cvat", "labelstudio", "masks-grey", "yolo"])
def test_images_are_linked_and_if_asked_copied(to, exported, masks):
    for copy in (False, True):
        folder = exported(to, copy=copy)
        files = [path for path in (folder / "images").rglob("*") if path.is_file() and path.suffix != ".txt"]
        assert len(files) == len(IDS)
        assert all(path.is_symlink() != copy for path in files)
    contents = sorted(path.read_bytes() for path in files)
    assert contents == sorted((masks[0] / "photos" / image_name(path)).read_bytes() for path in PATHS)
