"""Synthetic scenes: the dataset on disk, its masks, its refusal of foreign directories; pose and light."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from examples.scenes import dataset
from examples.scenes.compose import CLASSES, LONGER_SIDE, MOST_OBJECTS, SHORTEST_SIDE
from examples.scenes.config import ScenesConfig
from examples.scenes.forms import FORMS
from examples.scenes.objects import Light, crop_to, lay, lit_sprite, shade
from pipeline.config import ConfigError
from pipeline.errors import FolderError
from pipeline.imaging.classes import VOID, voc_palette

TRAIN, VAL = 30, 2
"""Enough images that a machine with two CPUs starts two processes."""


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    made = list(dataset.write_dataset(ScenesConfig(output=str(root), train=TRAIN, val=VAL, seed=3)))
    assert len(made) == len(set(made)) == TRAIN + VAL
    return root


def masks(root: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (np.asarray(Image.open(path)), np.asarray(Image.open(root / "SegmentationObject" / path.name)))
        for path in sorted((root / "SegmentationClass").iterdir())
    ]


def test_layout_is_vocs(scenes: Path):
    names = {split: (scenes / f"ImageSets/Segmentation/{split}.txt").read_text().split() for split in ("train", "val")}
    assert names["train"] == [f"train_{i:06d}" for i in range(TRAIN)]
    assert names["val"] == [f"val_{i:06d}" for i in range(VAL)]
    assert (scenes / "classes.txt").read_text().split() == ["background", *FORMS]
    wanted = {"classes.txt", "scenes.json", *(f"ImageSets/Segmentation/{split}.txt" for split in names)}
    for name in names["train"] + names["val"]:
        wanted |= {f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png", f"SegmentationObject/{name}.png"}
        image = Image.open(scenes / f"JPEGImages/{name}.jpg")
        assert (image.format, image.mode, max(image.size)) == ("JPEG", "RGB", LONGER_SIDE)
        assert min(image.size) >= SHORTEST_SIDE
        for folder in ("SegmentationClass", "SegmentationObject"):
            mask = Image.open(scenes / folder / f"{name}.png")
            assert (mask.mode, mask.size) == ("P", image.size)
            assert mask.getpalette() == voc_palette().ravel().tolist()
    assert set(files_of(scenes)) == wanted


def test_masks_agree(scenes: Path):
    for classes, objects in masks(scenes):
        assert set(np.unique(classes)) <= {*range(len(CLASSES)), VOID}
        assert np.array_equal(classes == VOID, objects == VOID)
        assert np.array_equal(classes == 0, objects == 0)
        ids = sorted(set(np.unique(objects).tolist()) - {0, VOID})
        assert ids == list(range(1, len(ids) + 1))
        assert 1 <= len(ids) <= MOST_OBJECTS
        for number in ids:
            assert len(np.unique(classes[objects == number])) == 1


def test_contour_keeps_objects_apart_and_is_thin(scenes: Path):
    for _, objects in masks(scenes):
        height, width = objects.shape
        padded = np.pad(objects.astype(int), 1, constant_values=VOID)
        around = np.stack([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)])
        known = objects != VOID
        assert ((around == objects) | (around == VOID))[:, known].all()
        # Two pixels wide, but for corners and where contours meet: nearly every void pixel touches one that is not.
        assert (around != VOID).any(axis=0)[~known].mean() > 0.9


def test_every_class_appears(scenes: Path):
    seen = set().union(*(np.unique(classes).tolist() for classes, _ in masks(scenes)))
    assert seen == {*range(len(CLASSES)), VOID}


def test_any_image_comes_again_alone(scenes: Path, tmp_path: Path):
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject"):
        (tmp_path / folder).mkdir()
    dataset.write_image(tmp_path, 3, "train_000017")
    dataset.write_image(tmp_path, 3, "val_000001")
    all_files, again = files_of(scenes), files_of(tmp_path)
    assert len(again) == 6
    assert all(all_files[name] == data for name, data in again.items())


def test_seed_split_and_index_all_matter():
    scenes = [
        dataset.scene_of(*key).image_HW3.tobytes()
        for key in ((0, "train", 0), (1, "train", 0), (0, "val", 0), (0, "train", 1), (0, "train", 0))
    ]
    assert scenes[0] == scenes[4]
    assert len(set(scenes)) == 4


def test_a_stopped_run_goes_on_to_the_same_dataset(tmp_path: Path):
    config = ScenesConfig(output=str(tmp_path / "scenes"), train=3, val=1)
    writer = dataset.write_dataset(config)
    next(writer)
    writer.close()
    assert not (tmp_path / "scenes/classes.txt").exists()
    assert list(dataset.write_dataset(config)) == ["train_000001", "train_000002", "val_000000"]
    whole = files_of(tmp_path / "scenes")
    assert list(dataset.write_dataset(config)) == []
    assert files_of(tmp_path / "scenes") == whole


def test_an_address_is_no_place_for_scenes():
    with pytest.raises(ConfigError, match="path on this machine"):
        ScenesConfig("s3://bucket/scenes")


def test_refuses_a_directory_of_something_else(tmp_path: Path):
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(FolderError, match=r"holds holiday\.jpg without a scenes\.json"):
        list(dataset.write_dataset(ScenesConfig(output=str(tmp_path), train=1, val=0)))
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"train": 2}, {"val": 1}])
def test_refuses_a_directory_of_other_scenes(tmp_path: Path, change: dict[str, int]):
    settings = {"train": 1, "val": 0, "seed": 0}
    list(dataset.write_dataset(ScenesConfig(output=str(tmp_path), **settings)))
    before = files_of(tmp_path)
    name = next(iter(change))
    with pytest.raises(FolderError, match=f"{name}: {settings[name]} -> {change[name]}"):
        list(dataset.write_dataset(ScenesConfig(output=str(tmp_path), **settings | change)))
    assert files_of(tmp_path) == before


def test_refuses_scenes_of_another_renderer(tmp_path: Path):
    config = ScenesConfig(output=str(tmp_path), train=0, val=0)
    list(dataset.write_dataset(config))
    mark = tmp_path / "scenes.json"
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"renderer": -1}))
    with pytest.raises(FolderError, match="renderer: -1 -> 1"):
        list(dataset.write_dataset(config))


def test_job_makes_a_dataset_and_refuses_another(tmp_path: Path):
    job = [sys.executable, "-m", "examples.scenes", "--output", str(tmp_path / "scenes"), "--train", "2", "--val", "1"]
    root = Path(__file__).parents[2]
    done = subprocess.run(job, cwd=root, capture_output=True, text=True, check=True)
    assert "3 made now" in done.stdout
    refused = subprocess.run([*job, "--seed", "9"], cwd=root, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "seed: 0 -> 9" in refused.stderr


LAMP = Light(np.array([0.36, -0.48, 0.8], np.float32), ambient=0.4, shadow=0.0, softness=0.05)
DARK = np.array([[0.2, 0.1, 0.3], [0.05, 0.3, 0.1]], np.float32)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("size", [45.0, 190.0])
def test_an_object_covers_its_mask_and_nothing_else(name: str, size: float):
    for seed in range(4):
        sprite = lit_sprite(np.random.default_rng(seed), name, size, DARK, LAMP)
        assert 0.6 * size < max(sprite.alpha_HW.shape) < 1.3 * size
        picture = np.ones((300, 320, 3), np.float32)
        lay(picture, sprite, 20, 30, LAMP)
        alpha = np.zeros((300, 320), np.float32)
        alpha[30 : 30 + sprite.alpha_HW.shape[0], 20 : 20 + sprite.alpha_HW.shape[1]] = sprite.alpha_HW
        change = np.abs(picture - 1).max(axis=2)
        assert change[alpha == 0].max() == 0
        assert np.median(change[alpha > 0.5]) > 0.4
        assert (change[alpha > 0.5] > 0.1).mean() > 0.9


def test_shadow_falls_away_from_the_lamp():
    lamp = Light(np.array([0.6, 0.0, 0.8], np.float32), ambient=0.4, shadow=0.6, softness=0.04)
    sprite = lit_sprite(np.random.default_rng(0), "ball", 80.0, DARK, lamp)
    picture = np.ones((200, 200, 3), np.float32)
    height, width = sprite.alpha_HW.shape
    lay(picture, sprite, 60, 60, lamp)
    row = picture[60 + height // 2, :, 0]
    assert row[50:59].mean() < row[61 + width : 70 + width].mean() - 0.05
    assert row[:5].min() == 1
    assert row[-5:].min() == 1


def test_shading_is_lamberts_on_a_sphere():
    y, x = np.mgrid[-50:51, -50:51].astype(np.float32)
    inside = x * x + y * y < 40**2
    relief = np.sqrt(np.maximum(50**2 - x * x - y * y, 0)).astype(np.float32)
    grey = np.full((101, 101, 3), 0.5, np.float32)
    lit = shade(grey, relief, Light(LAMP.direction_3, ambient=0.0, shadow=0, softness=0), gloss=0, hardness=1)
    normals = np.stack([x, y, relief], axis=2) / 50
    expected = 0.5 * np.maximum(normals @ LAMP.direction_3, 0) / LAMP.direction_3[2]
    assert np.abs(lit[inside] - expected[inside][:, None]).max() < 0.01


@given(st.integers(-30, 30), st.integers(-30, 30), st.integers(1, 25), st.integers(1, 25))
def test_crop_to_pairs_the_pixels_of_canvas_and_sprite(left: int, top: int, height: int, width: int):
    canvas, sprite = np.zeros((20, 17), int), np.arange(1, height * width + 1).reshape(height, width)
    where, part = crop_to(canvas.shape, sprite.shape, left, top)
    canvas[where] = sprite[part]
    for y in range(20):
        for x in range(17):
            on = 0 <= y - top < height and 0 <= x - left < width
            assert canvas[y, x] == (sprite[y - top, x - left] if on else 0)
