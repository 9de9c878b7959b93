"""Cutting of training windows, against plain numpy and by hand-made images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.training.windows import cut_window, windows_of_row


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


def labels_in(row, stage, *, training):
    return [set(np.unique(found["label"])) for found in windows_of_row(row, stage, training=training)]


def test_stage_1_keeps_only_the_class_of_the_centred_object_and_void(row):
    assert labels_in(row, 1, training=True) == [{0, 3, 255}, {0, 7, 255}, {0, 7, 255}]


def test_stage_2_keeps_all_classes(row):
    assert labels_in(row, 2, training=True) == [{0, 3, 7, 255}] * 3


def test_validation_shows_each_window_once(row):
    assert labels_in(row, 1, training=False) == [{0, 3, 255}, {0, 7, 255}]
