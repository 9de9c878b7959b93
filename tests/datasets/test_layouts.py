"""SBD's and COCO's folders: which images are taken, and masks against independent drawings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy.io import savemat

from jobs.build_training_set import main
from pipeline.api.photographs import described, listed
from pipeline.config import TrainingSetConfig
from pipeline.config.fcn import TrainFcnConfig
from pipeline.config.lite import TrainLiteConfig
from pipeline.datasets.coco import draw_masks, read_coco
from pipeline.datasets.layouts import list_images
from pipeline.datasets.masks import load_mask
from pipeline.errors import ConfigError, ImageError
from pipeline.imaging.classes import VOC_CLASSES
from pipeline.imaging.geometry import extend_boxes
from pipeline.training.windows.cut import windows_of_row
from pipeline.training.windows.index import index_uri, load_info, read_index

pytestmark = pytest.mark.usefixtures("no_picture")

HEIGHT, WIDTH = 120, 160


def in_process(work, parts):
    work(parts)


def draw_on(annotation_regions):
    return json.dumps({"height": HEIGHT, "width": WIDTH, "regions": annotation_regions})


def runs_of(region_HW):
    """COCO's uncompressed run lengths, by a loop over the pixels, column after column."""
    counts, value = [0], 0
    for pixel in region_HW.T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(region_HW.shape), "counts": counts}


def circle(x, y, radius):
    columns, rows = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    return ((columns - x) ** 2 + (rows - y) ** 2 < radius**2).astype(np.uint8)


TRIANGLE, SQUARE = [20.0, 20, 100, 30, 60, 100], [120.0, 60, 150, 60, 150, 90, 120, 90]


def test_polygons_are_drawn_as_opencv_draws_them_up_to_their_rim():
    classes, objects = draw_masks(draw_on([[2, [TRIANGLE, SQUARE]]]))
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    for ring in (TRIANGLE, SQUARE):
        cv2.fillPoly(drawn, [np.array(ring, np.int32).reshape(-1, 2)], 2)
    rim = cv2.morphologyEx(drawn, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    np.testing.assert_array_equal(classes[~rim], drawn[~rim])
    np.testing.assert_array_equal(objects, classes // 2)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("region", [circle(60, 50, 30), 1 - circle(0, 0, 40), circle(0, 0, 0)])
def test_run_lengths_give_the_region_they_were_made_from(region, compressed):
    runs = runs_of(region)
    if compressed:
        runs = coco_mask.encode(np.asfortranarray(region))
        runs["counts"] = runs["counts"].decode()
    np.testing.assert_array_equal(draw_masks(draw_on([[3, runs]]))[0], 3 * region)


def test_smaller_objects_lie_on_larger_ones_and_all_objects_on_crowds():
    large, small = circle(60, 60, 40), circle(70, 60, 15)
    crowd = np.zeros((HEIGHT, WIDTH), np.uint8)
    crowd[:, 80:] = 1
    classes, objects = draw_masks(draw_on([[1, runs_of(small)], [2, runs_of(large)], [255, runs_of(crowd)]]))
    np.testing.assert_array_equal(classes, np.where(small, 1, np.where(large, 2, np.where(crowd, 255, 0))))
    np.testing.assert_array_equal(objects, np.where(small, 1, np.where(large, 2, np.where(crowd, 255, 0))))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [HEIGHT, WIDTH], "counts": [5, 10]}, "15 pixels"),
        ({"size": [HEIGHT, WIDTH], "counts": [0, 10**6]}, "1000000 pixels"),
        ({"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]}, "size"),
        ({"size": [HEIGHT, WIDTH], "counts": "0P1"}, "run lengths"),
        ([[1e9, 1e9, -1e9, 5, 3, 3]], "corner"),
        ([[float("nan")] * 6], "corner"),
        (None, "neither"),
        ([["a"] * 6], "neither"),
    ],
)
def test_damaged_regions_are_errors_and_nothing_else(segmentation, message):
    with pytest.raises(ValueError, match=message):
        draw_masks(draw_on([[1, segmentation]]))


def test_degenerate_polygons_cover_nothing_and_too_many_objects_are_refused():
    assert draw_masks(draw_on([[1, [[1, 2, 30, 40]]]]))[0].sum() == 0
    with pytest.raises(ValueError, match="255 objects"):
        draw_masks(draw_on([[1, [SQUARE]]] * 255))


@pytest.fixture
def coco_folder(tmp_path):
    """Two training images and one for validation; the category with the lower id comes second in the file."""
    root = tmp_path / "coco"
    rng = np.random.default_rng(0)
    for split, ids in (("train", (12, 5)), ("val", (7,))):
        (root / split).mkdir(parents=True)
        annotations = []
        for image_id in ids:
            pixels = rng.integers(100, 110, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            pixels[circle(60, 60, 40) > 0] = 230, 20, 20
            Image.fromarray(pixels).save(root / split / f"{image_id}.png")
            annotations += [
                {"image_id": image_id, "category_id": 30, "iscrowd": 0, "segmentation": runs_of(circle(60, 60, 40))},
                {"image_id": image_id, "category_id": 4, "iscrowd": 0, "segmentation": [SQUARE]},
                {"image_id": image_id, "category_id": 4, "iscrowd": 1, "segmentation": runs_of(circle(20, 20, 15))},
            ]
        (root / "annotations").mkdir(exist_ok=True)
        content = {
            "categories": [{"id": 30, "name": "ball"}, {"id": 4, "name": "box"}],
            "images": [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in ids],
            "annotations": [{"id": number, **one} for number, one in enumerate(annotations, start=1)],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def test_masks_equal_those_of_cocos_own_reader(coco_folder, capsys):
    file = coco_folder / "annotations" / "instances_train.json"
    theirs, ours = COCO(str(file)), read_coco(str(file))
    assert ours.class_names == ("background", "box", "ball")
    assert [image.id for image in ours.images] == [5, 12]
    for image in ours.images:
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        for annotation in theirs.loadAnns(theirs.getAnnIds(image.id, iscrowd=True)):
            expected[theirs.annToMask(annotation) > 0] = 255
        for annotation in theirs.loadAnns(theirs.getAnnIds(image.id, iscrowd=False)):
            expected[theirs.annToMask(annotation) > 0] = {4: 1, 30: 2}[annotation["category_id"]]
        np.testing.assert_array_equal(draw_masks(image.annotations)[0], expected)


def test_a_training_set_from_coco_brings_its_masks(coco_folder, tmp_path):
    out = str(tmp_path / "out")
    assert main(["--data", str(coco_folder), "--output", out], in_process) == 0
    assert load_info(out)["class_names"] == ["background", "box", "ball"]
    rows = read_index(index_uri(out, 1, "train")).to_pylist()
    assert [row["image_uri"] for row in rows] == [f"{coco_folder}/train/{i}.png" for i in (5, 12)]
    assert rows[0]["class_mask_uri"] == f"{out}/masks/0/train/000000000005.png"
    for row in rows:
        assert row["class_ids"] == [2, 1]
        ball = [21, 21, 100, 100]  # |x - 60| < 40
        np.testing.assert_allclose(row["boxes"][:4], extend_boxes(np.array([ball], float), 1.2, "square")[0])
        shown, _ = windows_of_row(row, 1)
        assert row["object_mask_uri"] == row["class_mask_uri"].replace("/masks/", "/object_masks/")
        assert set(np.unique(shown.label_HW)) == {0, 2, 255}
    assert len(read_index(index_uri(out, 2, "train"))) == 2


def test_annotation_files_that_cannot_be_used_are_named(coco_folder, tmp_path, capsys):
    file = coco_folder / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    arguments = ["--data", str(coco_folder), "--output", str(tmp_path / "out")]
    for change, message in (
        ({"categories": []}, "1 class names"),
        ({"categories": [{"id": i, "name": str(i)} for i in range(255)]}, "256 class names"),
        ({"categories": None}, "NoneType"),
        ({"images": content["images"] * 2}, "same id"),
        ({"categories": [{"id": 30, "name": "box"}, {"id": 4, "name": "ball"}]}, "the classes differ"),
    ):
        file.write_text(json.dumps(content | change))
        assert main(arguments, in_process) == 2
        assert message in capsys.readouterr().err
    file.write_text("no JSON")
    assert main(arguments, in_process) == 2
    assert "instances_val.json is no file of COCO" in capsys.readouterr().err
    file.unlink()
    assert main(arguments, in_process) == 2
    assert "instances_val.json does not exist" in capsys.readouterr().err


def changed(content, annotation=None, image=None, **others):
    """Annotations with keys of the first annotation or image replaced, or left out where the value is ...."""
    content = json.loads(json.dumps(content)) | others
    for entry, change in ((content["annotations"][0], annotation), (content["images"][0], image)):
        entry.update(change or {})
        for key in [key for key, value in entry.items() if value is ...]:
            del entry[key]
    return content


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"annotation": {"segmentation": []}}, "annotation 1: its segmentation is empty or missing"),
        pytest.param(
            {"annotation": {"segmentation": ...}},
            "annotation 1: its segmentation is empty or missing",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"annotation": {"segmentation": None}},
            "annotation 1: its segmentation is empty or missing",
            marks=pytest.mark.slow,
        ),
        ({"annotation": {"segmentation": [1, 2, 3, 4, 5, 6]}}, "annotation 1: its segmentation is neither"),
        ({"annotation": {"category_id": 55}}, "annotation 1: its category_id 55"),
        ({"image": {"height": ...}}, "image 12 has no height"),
        ({"image": {"file_name": "5.png"}}, "images 12, 5 are the same file 5.png"),
    ],
)
def test_an_image_with_an_object_that_cannot_be_drawn_is_left_aside_alone_and_named(
    coco_folder, tmp_path, capsys, change, said
):
    file = coco_folder / "annotations" / "instances_train.json"
    file.write_text(json.dumps(changed(json.loads(file.read_text()), **change)))
    usable = [] if "same file" in said else [5]
    out = str(tmp_path / "out")
    assert main(["--data", str(coco_folder), "--output", out], in_process) == (0 if usable else 4)
    rows = read_index(index_uri(out, 1, "train")).to_pylist()
    assert [row["image_uri"] for row in rows] == [f"{coco_folder}/train/{i}.png" for i in usable]
    printed = capsys.readouterr().out
    assert f"train: 2 images, {2 - len(usable)} of them unusable" in printed
    assert said in printed


def test_annotations_of_unlisted_images_are_left_aside_and_counted(coco_folder, tmp_path, capsys):
    file = coco_folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"] += [content["annotations"][0] | {"id": 9, "image_id": 77}]
    file.write_text(json.dumps(content))
    out = str(tmp_path / "out")
    assert main(["--data", str(coco_folder), "--output", out], in_process) == 0
    assert len(read_index(index_uri(out, 1, "train"))) == 2
    assert "1 annotations are of images that are not listed and were left aside, annotation 9 of image 77" in (
        capsys.readouterr().out
    )


def test_ids_and_crowd_marks_as_text_mean_what_they_say(coco_folder):
    file = coco_folder / "annotations" / "instances_train.json"
    before = read_coco(str(file))
    content = json.loads(file.read_text())
    for image in content["images"]:
        image["id"] = str(image["id"])
    for annotation in content["annotations"]:
        annotation["iscrowd"] = str(annotation["iscrowd"])
    file.write_text(json.dumps(content))
    assert read_coco(str(file)) == before


@pytest.fixture
def own_folder(tmp_path):
    """Two images with masks of one class in VOC's layout, without lists."""
    root = tmp_path / "own"
    for folder in ("JPEGImages", "SegmentationClass"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("background\nthing\n")
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[30:90, 20:100] = 1
    for name in ("a", "b"):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
        Image.fromarray(labels).save(root / "SegmentationClass" / f"{name}.png")
    return root


def built(root, tmp_path, capsys):
    """Exit code, names of the images with windows, and what was said."""
    out = str(tmp_path / "out")
    code = main(["--data", str(root), "--output", out], in_process)
    said = capsys.readouterr()
    rows = read_index(index_uri(out, 1, "train")).to_pylist() if code == 0 else []
    return code, [row["image_uri"].rpartition("/")[2] for row in rows], said.out + said.err


@pytest.fixture
def plain_folder(tmp_path):
    """Twenty images with masks in images/ and masks/, and an image without one."""
    root = tmp_path / "plain"
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("background\nthing\n")
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[30:90, 20:100] = 1
    for number in range(20):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(root / "images" / f"IMG {number}.jpg")
        Image.fromarray(labels).save(root / "masks" / f"IMG {number}.png")
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images" / "without.jpg")
    return root


def test_plain_folders_are_split_by_name_the_same_way_everywhere(plain_folder, tmp_path):
    def split(root, **settings):
        images = list_images(TrainingSetConfig((str(root),), str(tmp_path / "out"), **settings))
        assert images.class_names == ("background", "thing")
        return [[pair.image_uri.rpartition("/")[2] for pair in pairs] for pairs in (images.train, images.val)]

    train, val = split(plain_folder)
    assert (len(train), len(val)) == (16, 4)
    assert sorted(train + val) == sorted(f"IMG {number}.jpg" for number in range(20))
    smallest = sorted(range(20), key=lambda number: hashlib.sha256(f"IMG {number}".encode()).hexdigest())[:4]
    assert val == sorted(f"IMG {number}.jpg" for number in smallest)
    assert split(plain_folder.rename(tmp_path / "moved")) == [train, val]
    assert [len(part) for part in split(tmp_path / "moved", val_share=0.5)] == [10, 10]
    assert split(tmp_path / "moved", val_share=0.0)[1] == []


def test_plain_folders_become_a_training_set(plain_folder, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["--data", str(plain_folder), "--output", out, "--val-share", "0.1"], in_process) == 0
    assert [len(read_index(index_uri(out, 1, part))) for part in ("train", "val")] == [18, 2]
    (plain_folder / "classes.txt").unlink()
    assert main(["--data", str(plain_folder), "--output", str(tmp_path / "other")], in_process) == 2
    assert "classes.txt does not exist: write the names" in capsys.readouterr().err


@pytest.mark.parametrize(("config", "more"), [(TrainFcnConfig, {}), (TrainLiteConfig, {"fcn": "mine.safetensors"})])
def test_trainings_on_photographs_split_plain_folders_as_training_sets_do(plain_folder, tmp_path, config, more):
    for share in (None, 0.0, 0.35):
        settings = {"data": (str(plain_folder),), "output": str(tmp_path / "out"), "val_share": share}
        said: list[str] = []
        found = listed(config(**settings, **more), said.append)
        assert found == list_images(TrainingSetConfig(**settings))
        assert ["no photograph is for validation" in line for line in said] == [True] * (share == 0)
        assert len(found.val) == round(20 * (0.2 if share is None else share))
    with pytest.raises(ConfigError, match="--val-share is 1"):
        config(**settings | {"val_share": 1.0}, **more)


def test_voc_classes_are_not_assumed_in_silence(own_folder, sbd_folder, tmp_path, capsys):
    (own_folder / "classes.txt").unlink()
    data = ["--data", str(own_folder), str(sbd_folder)]
    assert main([*data, "--output", str(tmp_path / "out")], in_process) == 0
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "PASCAL VOC's classes" in line]
    assert f"no classes.txt in {own_folder}, {sbd_folder} " in note
    assert "0 background, 1 aeroplane, " in note
    assert note.endswith(", 20 tvmonitor")
    said: list[str] = []
    listed(TrainFcnConfig(tuple(data[1:]), str(tmp_path / "fcn")), said.append)
    assert note in said
    names = tmp_path / "names.txt"
    names.write_text("\n".join(VOC_CLASSES))
    assert main([*data, "--output", str(tmp_path / "other"), "--classes", str(names)], in_process) == 0
    assert "PASCAL VOC's classes" not in capsys.readouterr().out


def test_two_images_of_one_name_are_refused_by_name_unless_no_list_holds_it(own_folder, tmp_path, capsys):
    Image.new("RGB", (WIDTH, HEIGHT)).save(own_folder / "JPEGImages" / "a.png")
    code, _, said = built(own_folder, tmp_path, capsys)
    assert code == 2
    assert "a.jpg" in said
    assert "a.png have one name" in said
    (own_folder / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, name in (("train", "b\n"), ("val", "")):
        (own_folder / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(name)
    assert built(own_folder, tmp_path, capsys)[:2] == (0, ["b.jpg"])


def test_what_macos_leaves_beside_files_is_no_image_and_no_mask(own_folder, tmp_path, capsys):
    for file in ("JPEGImages/._a.jpg", "SegmentationClass/._a.png", "SegmentationClass/.hidden.png"):
        (own_folder / file).write_bytes(b"\0\5\x16\7")
    code, images, said = built(own_folder, tmp_path, capsys)
    assert (code, images) == (0, ["a.jpg", "b.jpg"])
    assert "train: 2 images, 0 of them unusable" in said


def test_a_mask_of_0_and_255_only_is_named_instead_of_being_void(own_folder, tmp_path, capsys):
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[30:90, 20:100] = 255
    Image.fromarray(labels).save(own_folder / "SegmentationClass" / "a.png")
    code, images, said = built(own_folder, tmp_path, capsys)
    assert (code, images) == (0, ["b.jpg"])
    assert "a.png holds nothing but 0 and 255" in said


def test_a_mask_drawn_before_the_exif_rotation_is_refused_with_the_cause(own_folder, tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(own_folder / "JPEGImages" / "a.jpg", exif=exif)
    code, images, said = built(own_folder, tmp_path, capsys)
    assert (code, images) == (0, ["b.jpg"])
    assert "EXIF orientation" in said


@pytest.mark.slow
def test_a_list_in_one_form_of_unicode_finds_files_in_the_other(own_folder, tmp_path, capsys):
    for folder, ending in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        (own_folder / folder / f"a.{ending}").rename(own_folder / folder / f"cafe\u0301.{ending}")
    (own_folder / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, names in (("train", "caf\u00e9\n"), ("val", "b\n")):
        (own_folder / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(names)
    assert built(own_folder, tmp_path, capsys)[:2] == (0, ["cafe\u0301.jpg"])


def write_sbd(root, name, classes, objects):
    for folder in ("img", "cls", "inst"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*classes.shape, 3), 90, np.uint8)).save(root / "img" / f"{name}.jpg")
    boundaries = np.empty((20, 1), dtype=object)
    boundaries[:] = [[np.zeros((0, 0))]]
    savemat(
        root / "cls" / f"{name}.mat",
        {"GTcls": {"Boundaries": boundaries, "Segmentation": classes, "CategoriesPresent": np.unique(classes)}},
    )
    savemat(
        root / "inst" / f"{name}.mat",
        {"GTinst": {"Segmentation": objects, "Boundaries": boundaries, "Categories": np.array([[15], [15]])}},
    )


@pytest.fixture
def sbd_folder(tmp_path):
    classes, objects = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    classes[30:90, 20:100] = 15
    objects[30:90, 20:60], objects[30:90, 60:100] = 1, 2
    for name in ("2008_000001", "2008_000002", "2008_000003"):
        write_sbd(tmp_path / "sbd", name, classes, objects)
    return tmp_path / "sbd"


def test_sbd_masks_give_classes_and_objects(sbd_folder, tmp_path):
    out = str(tmp_path / "out")
    assert main(["--data", str(sbd_folder), "--output", out], in_process) == 0
    rows = read_index(index_uri(out, 1, "train")).to_pylist()
    assert [row["class_mask_uri"] for row in rows] == [f"{sbd_folder}/cls/2008_00000{i}.mat" for i in (1, 2, 3)]
    for row in rows:
        assert row["class_ids"] == [15, 15]
        tight = np.array([[20, 30, 60, 90], [60, 30, 100, 90]], float)
        np.testing.assert_allclose(np.reshape(row["boxes"], (-1, 4)), extend_boxes(tight, 1.2, "square"))
        for shown in windows_of_row(row, 1):
            assert set(np.unique(shown.label_HW)) == {0, 15}
            # Of two objects of 40 x 60 pixels side by side, one: 40 x 60 of a square of 1.2 x 60 pixels.
            assert (shown.label_HW == 15).mean() == pytest.approx(40 * 60 / 72**2, abs=0.01)


def test_of_sbd_only_images_are_taken_that_voc_does_not_have(sbd_folder, tmp_path):
    voc = tmp_path / "voc"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    for split, name in (("train", "2008_000001"), ("val", "2008_000003")):
        (voc / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(name)
    images = list_images(TrainingSetConfig((str(sbd_folder), str(voc)), str(tmp_path / "out")))
    assert [pair.class_mask_uri for pair in images.train] == [
        f"{voc}/SegmentationClass/2008_000001.png",
        f"{sbd_folder}/cls/2008_000002.mat",
    ]
    assert [pair.image_uri for pair in images.val] == [f"{voc}/JPEGImages/2008_000003.jpg"]


def test_training_on_everything_says_that_validation_was_seen(tmp_path):
    voc = tmp_path / "voc"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    for split, names in (("train", "a\nb"), ("val", "c"), ("trainval", "a\nb\nc")):
        (voc / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(names)
    config = TrainFcnConfig((str(voc),), str(tmp_path / "out"), train_split="trainval")
    said: list[str] = []
    images = listed(config, said.append)
    assert [len(images.train), len(images.val)] == [3, 1]
    assert any("1 of the 1 images for validation are also trained on" in line for line in said)
    text = described(config, images, "crops", [{"pixel_accuracy": 0.5, "mean_iou": 0.25}])
    assert text == ("voc (trainval), 4000 steps of 8 crops; validation photographs, 1 of 1 trained on: "
                    "pixel accuracy 0.500, mean IoU 0.250")  # fmt: skip
    said.clear()
    apart = listed(replace(config, train_split="train"), said.append)
    assert not any("also trained on" in line for line in said)
    assert "(train" not in described(
        replace(config, train_split="train"), apart, "crops", [{"pixel_accuracy": 1, "mean_iou": 1}]
    )


def test_a_label_means_the_same_in_all_folders_or_they_are_refused(coco_folder, sbd_folder, tmp_path):
    own = tmp_path / "own"
    for folder in ("JPEGImages", "SegmentationClass"):
        (own / folder).mkdir(parents=True)
    names = ("background", "box", "ball")

    def classes_of(*folders, **settings):
        return list_images(TrainingSetConfig(tuple(map(str, folders)), str(tmp_path / "out"), **settings)).class_names

    for folders in ((own, coco_folder), (coco_folder, sbd_folder)):  # masks of VOC's classes
        with pytest.raises(ValueError, match=r"aeroplane.*--classes"):
            classes_of(*folders)
    (own / "classes.txt").write_text("\n".join(names))
    assert classes_of(own, coco_folder) == names
    with pytest.raises(ValueError, match=r"classes differ: background, box, ball in .*own; .* in .*sbd"):
        classes_of(own, sbd_folder)
    assert classes_of(own, sbd_folder, coco_folder, classes=str(own / "classes.txt")) == names


def test_matrix_files_that_are_no_masks_are_named(tmp_path):
    file = tmp_path / "x.mat"
    savemat(file, {"GTcls": {"Segmentation": np.zeros((4, 5))}})
    with pytest.raises(ImageError, match=r"x\.mat: its Segmentation"):
        load_mask(str(file))
    for damaged in (file.read_bytes()[:150], b"", b"MATLAB"):
        file.write_bytes(damaged)
        with pytest.raises(ImageError, match=r"x\.mat: no GTcls"):
            load_mask(str(file))
