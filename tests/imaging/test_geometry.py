"""Boxes and windows against per-pixel references."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.imaging.geometry import CROP, box_iou, covered_pixels, extend_boxes, fed_rectangles

coordinates = st.floats(-300, 600, width=32)
sides = st.floats(0.5, 700, width=32)
boxes = st.tuples(coordinates, coordinates, sides, sides).map(
    lambda b: np.array([b[0], b[1], b[0] + b[2], b[1] + b[3]])
)


@given(boxes, st.floats(1.0, 3.0))
def test_extending_keeps_the_centre_and_scales_the_sides(box, factor):
    x0, y0, x1, y1 = extend_boxes(box, factor)[0].astype(float)
    np.testing.assert_allclose(
        [(x0 + x1) / 2, (y0 + y1) / 2], [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2], atol=1e-3
    )
    np.testing.assert_allclose([x1 - x0, y1 - y0], (box[2:] - box[:2]) * factor, rtol=1e-4, atol=1e-3)


@given(boxes)
def test_a_fed_rectangle_samples_where_the_250_grid_does(box):
    x0, y0, x1, y1 = fed_rectangles(box, "250-224")[0]
    j = np.arange(CROP)
    np.testing.assert_allclose(x0 + (j + 0.5) * (x1 - x0) / 224, box[0] + (13 + j + 0.5) * (box[2] - box[0]) / 250)
    np.testing.assert_allclose(y0 + (j + 0.5) * (y1 - y0) / 224, box[1] + (13 + j + 0.5) * (box[3] - box[1]) / 250)


@given(boxes)
def test_the_central_window_leaves_13_of_250_on_each_side_and_direct_leaves_none(box):
    x0, y0, x1, y1 = fed_rectangles(box, "250-224")[0]
    w, h = box[2] - box[0], box[3] - box[1]
    np.testing.assert_allclose(
        [x0, y0, x1, y1], [box[0] + w * 13 / 250, box[1] + h * 13 / 250, box[2] - w * 13 / 250, box[3] - h * 13 / 250]
    )
    np.testing.assert_array_equal(fed_rectangles(box, "direct")[0], box)


@pytest.mark.parametrize("box", [[0, 0, 0, 5], [3, 0, 1, 5], [0, 0, 5, np.nan]])
def test_a_box_without_area_is_refused(box):
    with pytest.raises(ValueError, match="no area"):
        fed_rectangles(np.array([box], dtype=float), "direct")


def test_no_boxes_give_no_rectangles():
    assert fed_rectangles(np.zeros((0, 4)), "250-224").shape == (0, 4)
    assert extend_boxes(np.zeros((0, 4)), 1.2).shape == (0, 4)


@given(boxes, st.integers(1, 40), st.integers(1, 40))
def test_covered_pixels_are_those_whose_centres_lie_inside(box, height, width):
    r0, r1, c0, c1 = covered_pixels(box, height, width)
    rows = [r for r in range(height) if box[1] <= r + 0.5 < box[3]]
    columns = [c for c in range(width) if box[0] <= c + 0.5 < box[2]]
    assert list(range(r0, r1)) == rows
    assert list(range(c0, c1)) == columns


def test_iou_by_counting_unit_squares():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 12, (40, 2, 2))
    found = np.concatenate([corners.min(1), corners.max(1)], axis=1).astype(float)
    iou = box_iou(found, found)
    squares = np.zeros((40, 12, 12), bool)
    for square, (x0, y0, x1, y1) in zip(squares, found.astype(int), strict=True):
        square[y0:y1, x0:x1] = True
    for i, j in np.ndindex(40, 40):
        union = (squares[i] | squares[j]).sum()
        assert iou[i, j] == pytest.approx((squares[i] & squares[j]).sum() / union if union else 0)
