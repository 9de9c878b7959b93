"""Cutting of training windows, against plain numpy and by hand-made images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.datasets.objects import find_objects
from pipeline.imaging.geometry import fed_rectangles
from pipeline.inference.crops import cut_crops
from pipeline.training.loop.steps import as_batch, central_crops
from pipeline.training.windows.cut import cut_window, windows_of_row, windows_of_rows
from pipeline.training.windows.examples import stage1_windows, stage2_windows


def bilinear(image, ys, xs):
    """Bilinear samples at continuous coordinates with black around the image, in float64."""
    padded = np.pad(image.astype(float), ((1, 1), (1, 1), (0, 0)))
    top, left = np.floor(ys - 0.5).astype(int), np.floor(xs - 0.5).astype(int)
    down, right = (ys - 0.5 - top)[:, None, None], (xs - 0.5 - left)[None, :, None]

    def at(r, c):
        return padded[np.ix_(np.clip(r + 1, 0, padded.shape[0] - 1), np.clip(c + 1, 0, padded.shape[1] - 1))]

    upper = at(top, left) * (1 - right) + at(top, left + 1) * right
    lower = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
    return upper * (1 - down) + lower * down


def nearest(label, ys, xs):
    height, width = label.shape
    return np.array([[label[int(y), int(x)] if 0 <= y < height and 0 <= x < width else 255 for x in xs] for y in ys])


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (90, 120, 3), dtype=np.uint8), rng.integers(0, 21, (90, 120), dtype=np.uint8)


@pytest.mark.parametrize("box", [(10.3, 5.1, 100.9, 80.2), (-40, -30, 60, 50), (-50, -50, 400, 300), (20, 30, 25, 34)])
def test_a_window_is_the_box_resized_to_250(picture, box):
    image, label = picture
    x0, y0, x1, y1 = box
    xs, ys = x0 + (np.arange(250) + 0.5) * (x1 - x0) / 250, y0 + (np.arange(250) + 0.5) * (y1 - y0) / 250
    window, labels = cut_window(image, label, np.array(box))
    assert window.dtype == labels.dtype == np.uint8
    assert np.abs(window - bilinear(image, ys, xs)).max() < 1  # a rounding step of uint8
    np.testing.assert_array_equal(labels, nearest(label, ys, xs))


@pytest.mark.parametrize("box", [(10.3, 5.1, 100.9, 80.2), (-40, -30, 60, 50), (20, 30, 25, 34)])
def test_the_central_crop_is_what_inference_sees(picture, box):
    image_HW3, label_HW = picture
    rectangles_14 = torch.from_numpy(fed_rectangles(np.array([box]), "250-224"))
    seen_3HW = cut_crops(torch.from_numpy(image_HW3).permute(2, 0, 1), rectangles_14)[0]
    trained_13HW, _ = central_crops(
        as_batch(tuple(one[None] for one in cut_window(image_HW3, label_HW, np.array(box))))
    )
    assert (trained_13HW[0] - seen_3HW).abs().max() < 1  # a rounding step of uint8


def test_a_250_pixel_box_is_cut_without_resampling():
    image = np.random.default_rng(1).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    window, labels = cut_window(image, image[..., 0], np.array([20, 30, 270, 280]))
    np.testing.assert_array_equal(window, image[30:280, 20:270])
    np.testing.assert_array_equal(labels, image[30:280, 20:270, 0])


def test_outside_the_image_is_black_and_void():
    image, label = np.full((100, 100, 3), 200, np.uint8), np.full((100, 100), 5, np.uint8)
    window, labels = cut_window(image, label, np.array([-125, -125, 125, 125]))
    inside = np.zeros((250, 250), bool)
    inside[125:225, 125:225] = True
    assert (labels[inside] == 5).all()
    assert (labels[~inside] == 255).all()
    assert (window[inside] == 200).all()
    assert (window[~inside] == 0).all()


@pytest.fixture
def row(tmp_path, picture):
    image, _ = picture
    label = np.zeros((90, 120), np.uint8)
    label[:, 40:60], label[:, 60:80], label[:, 80:90] = 3, 7, 255
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(label).save(tmp_path / "label.png")
    return {
        "image_uri": str(tmp_path / "image.png"), "class_mask_uri": str(tmp_path / "label.png"),
        "boxes": [0.0, 0, 120, 90, 10, 0, 110, 90], "class_ids": [3, 7], "repeats": [1, 2],
    }  # fmt: skip


def labels_in(row, stage):
    return [(set(np.unique(window.label_HW)), window.repeats) for window in windows_of_row(row, stage)]


def test_stage_1_keeps_only_the_class_of_the_centred_object_and_void(row):
    assert labels_in(row, 1) == [({0, 3, 255}, 1), ({0, 7, 255}, 2)]


def test_stage_2_keeps_all_classes(row):
    assert labels_in(row, 2) == [({0, 3, 7, 255}, 1), ({0, 3, 7, 255}, 2)]


def test_an_object_with_a_void_rim_at_the_border_by_hand(tmp_path):
    # Object 1, a cat (8), fills x 0..50, y 20..70 of 100x100 pixels, with a void rim of 5 pixels to its right; object
    # 2, a dog (12), lies below it at x 0..50, y 72..100. Extended 1.2 times the cat's box is x -5..55, y 15..75: 60
    # pixels become 250, so pixel j of the window lies at x = -5 + 0.24 (j + 0.5).
    classes, objects = np.zeros((2, 100, 100), np.uint8)
    classes[20:70, 0:50], classes[20:70, 50:55], classes[72:100, 0:50] = 8, 255, 12
    objects[20:70, 0:50], objects[20:70, 50:55], objects[72:100, 0:50] = 1, 255, 2
    Image.fromarray(np.zeros((100, 100, 3), np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(classes).save(tmp_path / "label.png")
    found = find_objects(classes, objects)
    easy = stage1_windows(found, 1.2)
    hard = stage2_windows(found, easy.boxes_N4[:0], np.zeros(0), min_iou=0.5, windows_per_image=5, extend=1.2)
    assert len(hard.class_ids_N) == 0
    proposals = np.array([[0, 20, 50, 70], [0, 20, 50, 45], [0, 20, 50, 44]], float)  # IoU 1, 25/50, 24/50
    hard = stage2_windows(found, proposals, np.array([3.0, 2, 1]), min_iou=0.5, windows_per_image=5, extend=1.2)
    assert hard.class_ids_N.tolist() == easy.class_ids_N[[0, 0]].tolist() == [8, 8]
    np.testing.assert_allclose(hard.boxes_N4, [[-5, 15, 55, 75], [-5, 17.5, 55, 47.5]])

    every_class = np.zeros((250, 250), np.uint8)
    every_class[21:229, 21:229] = 8  # y 20 is reached from 15 at j + 0.5 >= 5 / 0.24 = 20.8, y 70 at 229.2
    every_class[21:229, 229:] = 255  # x 50 at (50 + 5) / 0.24 = 229.2: the rim, to the window's edge
    every_class[237:, 21:229] = 12  # y 72 at 237.5
    every_class[:, :21] = 255  # x < 0, outside the image
    one_class = np.where(every_class == 12, 0, every_class)
    row = {
        "image_uri": str(tmp_path / "image.png"), "class_mask_uri": str(tmp_path / "label.png"),
        "boxes": hard.boxes_N4[0].tolist(), "class_ids": [8], "repeats": [1],
    }  # fmt: skip
    for stage, expected in ((1, one_class), (2, every_class)):
        (shown,) = windows_of_row(row, stage)
        np.testing.assert_array_equal(shown.label_HW, expected)


def test_windows_of_several_images_are_mixed_as_far_as_memory_allows(row, tmp_path, monkeypatch):
    rows = []
    for name, red in (("a", 10), ("b", 20), ("c", 30)):
        Image.fromarray(np.full((90, 120, 3), red, np.uint8)).save(tmp_path / f"{name}.png")
        rows.append(row | {"image_uri": str(tmp_path / f"{name}.png"), "boxes": [0.0, 0, 120, 90] * 20,
                           "class_ids": [3, 7] * 10, "repeats": list(range(red, red + 20))})  # fmt: skip
    one_by_one = [(*map(np.ndarray.tobytes, window[:2]), window.repeats) for row in rows
                  for window in windows_of_row(row, 1)]  # fmt: skip

    def reds():
        found = list(windows_of_rows(rows, 1))
        assert sorted((w.image_HW3.tobytes(), w.label_HW.tobytes(), w.repeats) for w in found) == sorted(one_by_one)
        return [int(window.image_HW3[125, 125, 0]) for window in found]

    together = reds()
    assert set(together[:20]) == {10, 20, 30}
    assert together == reds()
    monkeypatch.setattr("pipeline.training.windows.cut.MIXED_BYTES", 2 * 90 * 120 * 4)
    two, third = reds()[:40], reds()[40:]
    assert set(two[:20]) == {10, 20}
    assert third == [30] * 20
