"""Folders in VOC layout, the index on disk, and the job that leads from one to the other."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.build_training_set import main
from jobs.train import main as train
from pipeline import storage
from pipeline.datasets.layouts import Pair, voc_pairs
from pipeline.errors import WorkBrokenError
from pipeline.imaging.geometry import box_iou, extend_boxes
from pipeline.training.windows import build
from pipeline.training.windows.cut import windows_of_row
from pipeline.training.windows.index import INDEX_SCHEMA, index_uri, load_info, read_index

pytestmark = pytest.mark.usefixtures("no_picture")

CLASSES = ("background", "red", "green")
BOXES = {
    "a": [(20, 30, 90, 110, 1)],
    "b": [(15, 10, 80, 90, 1), (100, 60, 170, 130, 2)],
    "c": [(40, 40, 120, 100, 1)],
    "v": [(30, 20, 130, 110, 2)],
}
"""Objects of each image: a box and its class. The last image is for validation."""


def in_process(work, parts):
    """Part by part and out of order, as a cluster may do it."""
    for row in reversed(range(len(parts))):
        work(parts.slice(row, 1))


def write_image(root, name, boxes):
    """A grey image with one flat coloured rectangle an object, and both masks, with void left of each object."""
    pixels = np.random.default_rng(0).integers(100, 110, (150, 200, 3), dtype=np.uint8)
    classes, objects = np.zeros((150, 200), np.uint8), np.zeros((150, 200), np.uint8)
    for number, (x0, y0, x1, y1, class_id) in enumerate(boxes, start=1):
        pixels[y0:y1, x0:x1] = [(0, 0, 0), (230, 20, 20), (20, 230, 20)][class_id]
        classes[y0:y1, x0 - 3 : x0], objects[y0:y1, x0 - 3 : x0] = 255, 255
        classes[y0:y1, x0:x1], objects[y0:y1, x0:x1] = class_id, number
    for folder, suffix, content in (
        ("JPEGImages", "jpg", pixels),
        ("SegmentationClass", "png", classes),
        ("SegmentationObject", "png", objects),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(content).save(root / folder / f"{name}.{suffix}")


def write_lists(root, **lists):
    folder = root / "ImageSets" / "Segmentation"
    folder.mkdir(parents=True, exist_ok=True)
    for split, names in lists.items():
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


@pytest.fixture
def voc_folder(tmp_path):
    root = tmp_path / "voc"
    for name, boxes in BOXES.items():
        write_image(root, name, boxes)
    write_lists(root, train=["c", "a", "b"], val=["v"])
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


def pair(root, name, *, with_objects=True):
    return Pair(
        f"{root}/JPEGImages/{name}.jpg",
        f"{root}/SegmentationClass/{name}.png",
        f"{root}/SegmentationObject/{name}.png" if with_objects else None,
    )


def test_pairs_follow_the_list_and_use_object_masks_where_there_are(voc_folder):
    (voc_folder / "SegmentationObject" / "a.png").unlink()
    assert voc_pairs(str(voc_folder), "train", all_if_unlisted=True) == [
        pair(voc_folder, "c"),
        pair(voc_folder, "a", with_objects=False),
        pair(voc_folder, "b"),
    ]
    assert voc_pairs(str(voc_folder), "val", all_if_unlisted=False) == [pair(voc_folder, "v")]


def test_without_lists_every_mask_is_for_training(voc_folder):
    for file in (voc_folder / "ImageSets" / "Segmentation").iterdir():
        file.unlink()
    (voc_folder / "ImageSets" / "Segmentation").rmdir()
    (voc_folder / "ImageSets").rmdir()
    (voc_folder / "SegmentationClass" / "c.png").unlink()
    pairs = voc_pairs(str(voc_folder), "train", all_if_unlisted=True)
    assert [Path(pair.image_uri).stem for pair in pairs] == ["a", "b", "v"]
    assert voc_pairs(str(voc_folder), "val", all_if_unlisted=False) == []


def test_a_missing_list_or_folder_is_named(voc_folder, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r"Segmentation/trainaug\.txt does not exist"):
        voc_pairs(str(voc_folder), "trainaug", all_if_unlisted=True)
    arguments = ["--data", str(voc_folder), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--val-split", "test"], in_process) == 2
    assert "test.txt" in capsys.readouterr().err
    assert main(["--data", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")], in_process) == 2
    assert "nowhere" in capsys.readouterr().err
    write_lists(voc_folder, train=[])
    assert main(arguments, in_process) == 2
    assert not (tmp_path / "out").exists()


def test_wrong_settings_end_with_code_2(voc_folder, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["--data", str(voc_folder), "--output", str(tmp_path / "out"), "--min-iou", "1.5"], in_process)
    assert stopped.value.code == 2


def test_a_training_set_holds_every_object_and_the_proposals_near_them(voc_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--windows-per-image", "6", "--window-shape", "box"]
    assert main(["--data", "voc", "--output", "out", *options], in_process) == 0

    easy = read_index(index_uri("out", 1, "train")).to_pylist()
    assert [row["image_uri"] for row in easy] == [f"{voc_folder}/JPEGImages/{name}.jpg" for name in "cab"]
    assert [row["class_mask_uri"] for row in easy] == [f"{voc_folder}/SegmentationClass/{name}.png" for name in "cab"]
    for row, name in zip(easy, "cab", strict=True):
        tight = np.array([box[:4] for box in BOXES[name]], float)
        np.testing.assert_allclose(np.reshape(row["boxes"], (-1, 4)), extend_boxes(tight, 1.2))
    assert [row["class_ids"] for row in easy] == [[1], [1], [1, 2]]
    assert [row["overlaps"] for row in easy] == [[1], [1], [1, 1]]
    assert [row["repeats"] for row in easy] == [[1], [1], [1, 3]]  # class 1 has three windows, class 2 one

    for split, names in (("train", "cab"), ("val", "v")):
        hard = {Path(row["image_uri"]).stem: row for row in read_index(index_uri("out", 2, split)).to_pylist()}
        assert set(hard) == set(names)
        for name, row in hard.items():
            proposals = extend_boxes(np.reshape(row["boxes"], (-1, 4)), 1 / 1.2)
            assert 1 <= len(proposals) <= 6
            iou = box_iou(proposals, np.array([box[:4] for box in BOXES[name]], float))
            np.testing.assert_allclose(iou.max(axis=1), row["overlaps"], atol=1e-5)
            assert min(row["overlaps"]) >= 0.5
            assert row["class_ids"] == [BOXES[name][best][4] for best in iou.argmax(axis=1)]
        if split == "train":
            assert set(hard["b"]["class_ids"]) == {1, 2}


def test_windows_are_squares_unless_boxes_are_asked_for(voc_folder, tmp_path):
    out = str(tmp_path / "out")
    assert main(["--data", str(voc_folder), "--output", out, "--any-windows-per-image", "2"], in_process) == 0
    assert load_info(out)["config"]["propose"]["window_shape"] == "square"
    for stage in (1, 2):
        for row in read_index(index_uri(out, stage, "train")).to_pylist():
            x0, y0, x1, y1 = np.reshape(row["boxes"], (-1, 4)).T
            np.testing.assert_allclose(x1 - x0, y1 - y0, rtol=1e-4)
            if stage == 1:
                longer = [max(b[2] - b[0], b[3] - b[1]) for b in BOXES[Path(row["image_uri"]).stem]]
                np.testing.assert_allclose(x1 - x0, 1.2 * np.array(longer), rtol=1e-5)


def test_stage_1_keeps_the_centred_object_alone_unless_its_class_is_asked_for(voc_folder, tmp_path):
    write_image(voc_folder, "a", [(20, 30, 90, 110, 1), (95, 30, 165, 110, 1)])  # two of a class, side by side
    pixels = {}
    for keeps in ("object", "class"):
        out = str(tmp_path / keeps)
        assert main(["--data", str(voc_folder), "--output", out, "--stage1-keeps", keeps], in_process) == 0
        rows = {Path(row["image_uri"]).stem: row for row in read_index(index_uri(out, 1, "train")).to_pylist()}
        assert (rows["a"]["object_ids"] == [1, 2]) == (keeps == "object")
        pixels[keeps] = [(window.label_HW == 1).sum() for window in windows_of_row(rows["a"], 1)]
        for row in read_index(index_uri(out, 2, "train")).to_pylist():
            assert row["object_ids"] is row["object_mask_uri"] is None
    # A square of 1.2 x 80 pixels is 250: the object has 70 x 80 pixels of it, and its neighbour 7 columns more.
    scale = 250 / 96
    np.testing.assert_allclose(pixels["object"], 70 * 80 * scale**2, rtol=0.02)
    np.testing.assert_allclose(pixels["class"], 78 * 80 * scale**2, rtol=0.02)


@pytest.mark.slow
def test_a_training_set_of_an_earlier_version_goes_on_as_it_was_begun(voc_folder, tmp_path, capsys):
    out = tmp_path / "out"
    old = ["--window-shape", "box", "--min-side-of", "shorter", "--stage1-keeps", "class"]
    arguments = ["--data", str(voc_folder), "--output", str(out)]
    assert main([*arguments, *old], in_process) == 0
    before = {file: file.read_bytes() for file in out.glob("stage*/*.parquet")}
    settings = json.loads((out / "settings.json").read_text())
    del settings["stage1_keeps"], settings["propose"]["window_shape"], settings["propose"]["min_side_of"]
    (out / "settings.json").write_text(json.dumps(settings))
    for part in (out / "parts").iterdir():
        table = pq.read_table(part)
        pq.write_table(table.drop_columns(["object_mask_uri", "object_ids"]), part)
    assert main(arguments, lambda work, parts: pytest.fail("all parts are there")) == 0
    assert "begun before there was --window-shape: it stays box" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in out.glob("stage*/*.parquet")} == before
    assert main([*arguments, "--min-iou", "0.6"], in_process) == 2


@pytest.mark.slow
def test_the_releases_lists_of_windows_are_stage_2(voc_folder, tmp_path, capsys):
    lists = tmp_path / "stage_2_train_imgset"
    lists.mkdir()
    a, b = (f"/JPEGImages/{n}.jpg /SegmentationClass/{n}.png" for n in "ab")
    (lists / "train.txt").write_text(f"{a} 10 20 99 119\n{b} -20 0 69 89\n{a} 0 0 9 9\n{b} 90 50 180 140\n")
    (lists / "val.txt").write_text("/JPEGImages/v.jpg /SegmentationClass/v.png 0 0 199 199\n")
    out = str(tmp_path / "out")
    arguments = ["--data", str(voc_folder), "--output", out, "--windows-from", str(lists)]
    assert main(arguments, in_process) == 0
    hard = {Path(row["image_uri"]).stem: row for row in read_index(index_uri(out, 2, "train")).to_pylist()}
    assert hard["a"]["boxes"] == [10, 20, 100, 120, 0, 0, 10, 10]
    assert hard["b"]["boxes"] == [-20, 0, 70, 90, 90, 50, 181, 141]
    assert [hard[name]["class_ids"] for name in "ab"] == [[1, 0], [1, 2]]
    assert [window.label_HW.shape for window in windows_of_row(hard["b"], 2)] == [(250, 250)] * 2
    assert read_index(index_uri(out, 2, "val"))["boxes"].to_pylist() == [[0, 0, 200, 200]]
    assert len(read_index(index_uri(out, 1, "train"))) == 2
    for line, said in (("a.jpg a.png 1 2 3", "line 1: 'a.jpg"), (f"{a} 10 20 9 30", "without pixels")):
        (lists / "train.txt").write_text(line)
        assert main([*arguments[:3], str(tmp_path / "other"), *arguments[4:]], in_process) == 2
        assert said in capsys.readouterr().err


@pytest.mark.slow
def test_an_index_of_an_earlier_version_is_read(voc_folder, tmp_path):
    out = str(tmp_path / "out")
    assert main(["--data", str(voc_folder), "--output", out], in_process) == 0
    uri = index_uri(out, 1, "train")
    pq.write_table(pq.read_table(uri).drop_columns(["object_mask_uri", "object_ids"]), uri)
    rows = read_index(uri).to_pylist()
    assert {row["object_mask_uri"] for row in rows} == {None}
    assert len(list(windows_of_row(rows[0], 1))) == 1


def test_its_description_counts_what_the_indexes_hold(voc_folder, tmp_path):
    out = tmp_path / "out"
    assert main(["--data", str(voc_folder), "--output", str(out), "--max-repeats", "2"], in_process) == 0
    info = load_info(str(out))
    assert info == json.loads((out / "training_set.json").read_text())
    assert info["class_names"] == list(CLASSES)
    assert info["config"]["max_repeats"] == 2
    assert info["config"]["propose"]["extend"] == 1.2
    assert info["images"] == {"train": {"listed": 3, "failed": 0}, "val": {"listed": 1, "failed": 0}}
    assert info["errors"] == []
    train, val = (info["windows"]["stage1"][split] for split in ("train", "val"))
    assert (train["images"], train["windows"], train["examples"]) == (3, 4, 5)
    assert train["per_class"] == {"red": {"windows": 3, "examples": 3}, "green": {"windows": 1, "examples": 2}}
    assert (val["images"], val["windows"], val["examples"]) == (1, 1, 1)
    assert val["per_class"] == {"red": {"windows": 0, "examples": 0}, "green": {"windows": 1, "examples": 1}}
    # the longer sides of the objects' boxes: 70x80, 65x80, 70x70, 80x60, extended
    sides = np.array([80, 80, 70, 80]) * 1.2
    assert train["side"]["quantiles"]["0.5"] == pytest.approx(np.median(sides), abs=1e-3)
    assert train["side"]["quantiles"]["1"] == pytest.approx(sides.max(), abs=1e-3)
    assert sum(train["side"]["histogram"]["windows"]) == 4
    for split in ("train", "val"):
        rows = read_index(index_uri(str(out), 2, split)).to_pylist()
        counts = info["windows"]["stage2"][split]
        overlaps = [overlap for row in rows for overlap in row["overlaps"]]
        assert counts["windows"] == len(overlaps)
        assert counts["examples"] == sum(sum(row["repeats"]) for row in rows)
        assert counts["overlap"]["quantiles"]["0"] == pytest.approx(min(overlaps), abs=1e-3)
        histogram = counts["overlap"]["histogram"]
        assert histogram["windows"] == np.histogram(overlaps, histogram["edges"])[0].tolist()
    from pipeline.report.training_set import draw_training_set

    picture = draw_training_set(info)
    assert Image.open(io.BytesIO(picture)).size[0] > 500
    assert (out / "training_set.png").exists()


def test_windows_of_the_index_show_their_objects(voc_folder, tmp_path):
    assert main(["--data", str(voc_folder), "--output", str(tmp_path / "out")], in_process) == 0
    row = read_index(index_uri(str(tmp_path / "out"), 1, "train")).to_pylist()[2]
    red, green = windows_of_row(row, 1)
    assert np.abs(red.image_HW3[125, 125].astype(int) - (230, 20, 20)).max() < 10
    assert np.abs(green.image_HW3[125, 125].astype(int) - (20, 230, 20)).max() < 10
    assert set(np.unique(red.label_HW)) == {0, 1, 255}
    assert set(np.unique(green.label_HW)) == {0, 2, 255}


def test_unusable_images_are_reported_and_the_others_kept(voc_folder, tmp_path, capsys):
    write_image(voc_folder, "label9", [(20, 30, 90, 110, 1)])
    Image.fromarray(np.full((150, 200), 9, np.uint8)).save(voc_folder / "SegmentationClass" / "label9.png")
    write_image(voc_folder, "small", [(20, 30, 90, 110, 1)])
    Image.fromarray(np.zeros((10, 20), np.uint8)).save(voc_folder / "SegmentationClass" / "small.png")
    write_image(voc_folder, "broken", [(20, 30, 90, 110, 1)])
    (voc_folder / "JPEGImages" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    write_lists(voc_folder, train=["label9", "a", "small", "broken", "gone"])
    assert main(["--data", str(voc_folder), "--output", str(tmp_path / "out")], in_process) == 0

    info = load_info(str(tmp_path / "out"))
    assert info["images"]["train"] == {"listed": 5, "failed": 4}
    errors = {Path(error["image_uri"]).stem: error["error_message"] for error in info["errors"]}
    assert list(errors) == ["label9", "small", "broken", "gone"]
    assert "SegmentationClass/label9.png has labels [9], but there are 3 classes" in errors["label9"]
    assert "SegmentationClass/small.png is 20x10 pixels, its image 200x150" in errors["small"]
    assert "JPEGImages/broken.jpg" in errors["broken"]
    assert "gone" in errors["gone"]
    assert "5 images, 4 of them unusable" in capsys.readouterr().out
    assert len(read_index(index_uri(str(tmp_path / "out"), 1, "train"))) == 1


def test_the_job_fails_only_when_every_image_does(voc_folder, tmp_path):
    (voc_folder / "classes.txt").unlink()  # VOC's 21 classes
    for name in "cabv":
        Image.fromarray(np.full((150, 200), 77, np.uint8)).save(voc_folder / "SegmentationClass" / f"{name}.png")
    assert main(["--data", str(voc_folder), "--output", str(tmp_path / "out")], in_process) == 4
    assert load_info(str(tmp_path / "out"))["images"]["train"] == {"listed": 3, "failed": 3}
    assert len(read_index(index_uri(str(tmp_path / "out"), 2, "train"))) == 0


def test_what_a_training_would_stumble_over_is_said(voc_folder, tmp_path, capsys):
    (voc_folder / "classes.txt").write_text("red\ngreen\nblue\n")  # no background: every label means another class
    write_lists(voc_folder, train=list("abc"), val=[])
    arguments = ["--data", str(voc_folder), "--output", str(tmp_path / "out")]
    assert main(arguments, in_process) == 0
    printed = capsys.readouterr().out
    assert "calls it red" in printed
    assert "no validation windows" in printed
    assert train(["--training-set", str(tmp_path / "out"), "--output", str(tmp_path / "run")]) == 2
    assert "holds no val windows for stage 1" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_masks_without_objects_give_nothing_to_train_on(voc_folder, tmp_path, capsys):
    for name in BOXES:
        write_image(voc_folder, name, [])
    assert main(["--data", str(voc_folder), "--output", str(tmp_path / "out")], in_process) == 4
    assert "nothing to train on" in capsys.readouterr().out


@pytest.mark.slow
def test_several_folders_and_a_limit(voc_folder, tmp_path):
    extra = tmp_path / "extra"
    write_image(extra, "e", [(20, 30, 90, 110, 2)])
    (voc_folder / "classes.txt").rename(tmp_path / "names.txt")
    arguments = [
        "--data",
        str(voc_folder),
        str(extra),
        "--output",
        str(tmp_path / "out"),
        "--classes",
        str(tmp_path / "names.txt"),
    ]
    assert main(arguments, in_process) == 0
    assert load_info(str(tmp_path / "out"))["images"] == {
        "train": {"listed": 4, "failed": 0},
        "val": {"listed": 1, "failed": 0},
    }
    arguments[arguments.index("--output") + 1] = str(tmp_path / "two")
    assert main([*arguments, "--limit", "2"], in_process) == 0
    rows = read_index(index_uri(str(tmp_path / "two"), 1, "train")).to_pylist()
    assert [Path(row["image_uri"]).stem for row in rows] == ["c", "a"]


def test_an_index_is_typed_and_other_files_are_refused(voc_folder, tmp_path):
    assert main(["--data", str(voc_folder), "--output", str(tmp_path / "out")], in_process) == 0
    assert pq.read_schema(tmp_path / "out" / "stage2" / "val.parquet").equals(INDEX_SCHEMA)
    pq.write_table(pa.table({"image_uri": ["x"]}), tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("no Parquet")
    for name in ("other.parquet", "text.parquet"):
        with pytest.raises(ValueError, match="is no index of training windows"):
            read_index(str(tmp_path / name))


def put(folder, address):
    """Copy a folder's files to a store."""
    for file in folder.rglob("*"):
        if file.is_file():
            storage.write_atomic(storage.join(address, *file.relative_to(folder).parts), file.read_bytes())
    return address


def test_a_stopped_job_goes_on_and_ends_with_the_same_bytes(voc_folder, tmp_path, store, monkeypatch, capsys):
    monkeypatch.setattr(build, "IMAGES_A_PART", 1)
    data, names = put(voc_folder, storage.join(store, "voc")), ("stage1/train", "stage2/train", "stage2/val")
    whole, stopped = ["--data", data, "--output", f"{store}/whole"], ["--data", data, "--output", f"{store}/stopped"]
    assert main(whole, in_process) == 0

    made = []

    def first_two(work, parts):
        made.extend(work(parts.slice(0, 2))["part_uri"].to_pylist())
        raise WorkBrokenError("lost")

    def the_rest(work, parts):
        made.extend(work(parts)["part_uri"].to_pylist())

    def by_hand(work, parts):
        raise KeyboardInterrupt

    assert main(stopped, first_two) == 3
    assert main(stopped, by_hand) == 3
    assert main(stopped, the_rest) == 0
    assert len(made) == len(set(made)) == 4
    printed = capsys.readouterr()
    assert "2 of 4 blocks of images were done before" in printed.out
    assert "stopped; the same command goes on" in printed.err
    for name in names:
        bytes_of = [storage.read_bytes(f"{store}/{output}/{name}.parquet") for output in ("whole", "stopped")]
        assert bytes_of[0] == bytes_of[1]
    assert main(stopped, lambda work, parts: pytest.fail("nothing was left to do")) == 0


def test_the_same_command_again_tries_failed_images_again(voc_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "IMAGES_A_PART", 2)
    mask, out = voc_folder / "SegmentationClass" / "a.png", str(tmp_path / "out")
    whole = mask.read_bytes()
    mask.write_bytes(whole[:40])
    assert main(["--data", str(voc_folder), "--output", out], in_process) == 0
    assert load_info(out)["images"]["train"]["failed"] == 1
    mask.write_bytes(whole)
    made = []
    again = ["--data", str(voc_folder), "--output", out]
    assert main(again, lambda work, parts: made.extend(work(parts)["images"].to_pylist())) == 0
    assert made == [2]
    assert load_info(out)["images"]["train"]["failed"] == 0


def test_other_settings_in_the_same_folder_are_refused(voc_folder, tmp_path, capsys):
    arguments = ["--data", str(voc_folder), "--output", str(tmp_path / "out")]
    assert main(arguments, in_process) == 0
    assert main([*arguments, "--min-iou", "0.6"], in_process) == 2
    assert "min_iou: 0.5 -> 0.6" in capsys.readouterr().err
    assert main([*arguments, "--window-shape", "box"], in_process) == 2
    assert "propose.window_shape: square -> box" in capsys.readouterr().err
    assert load_info(str(tmp_path / "out"))["config"]["min_iou"] == 0.5


@pytest.mark.usefixtures("in_ray")
def test_ray_builds_the_same_files(voc_folder, tmp_path):
    assert main(["--data", str(voc_folder), "--output", str(tmp_path / "here")], in_process) == 0
    assert main(["--data", str(voc_folder), "--output", str(tmp_path / "ray")]) == 0
    for name in ("stage1/train", "stage1/val", "stage2/train", "stage2/val"):
        here, there = ((tmp_path / folder / f"{name}.parquet").read_bytes() for folder in ("here", "ray"))
        assert here == there
