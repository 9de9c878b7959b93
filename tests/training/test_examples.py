"""The rules of the two training stages, case by case and against naive loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.objects import MIN_PART_PIXELS, Objects, find_objects
from pipeline.imaging.geometry import extend_boxes
from pipeline.training.windows.examples import (
    any_windows,
    balance,
    join_windows,
    stage1_labels,
    stage1_windows,
    stage2_windows,
)


def make_objects(boxes, class_ids):
    return Objects(np.array(boxes, np.float32).reshape(-1, 4), np.array(class_ids, np.int32))


def mask(height, width, *rectangles):
    """A mask of zeros with `(x0, y0, x1, y1, value)` filled in turn."""
    filled = np.zeros((height, width), np.uint8)
    for x0, y0, x1, y1, value in rectangles:
        filled[y0:y1, x0:x1] = value
    return filled


def test_objects_come_from_the_object_mask_where_there_is_one():
    # two touching cats, which the class mask alone cannot tell apart, and a void rim that is no object
    classes = mask(40, 60, (4, 4, 41, 31, 255), (5, 5, 20, 30, 8), (20, 5, 40, 30, 8), (45, 10, 50, 12, 3))
    objects = mask(40, 60, (4, 4, 41, 31, 255), (5, 5, 20, 30, 1), (20, 5, 40, 30, 2), (45, 10, 50, 12, 7))
    found = find_objects(classes, objects)
    assert found.boxes_N4.tolist() == [[5, 5, 20, 30], [20, 5, 40, 30], [45, 10, 50, 12]]
    assert found.class_ids_N.tolist() == [8, 8, 3]


def test_an_object_has_the_class_most_of_its_pixels_have():
    classes = mask(10, 10, (0, 0, 10, 6, 255), (0, 6, 10, 9, 4), (0, 9, 10, 10, 5))
    assert find_objects(classes, mask(10, 10, (0, 0, 10, 10, 1))).class_ids_N.tolist() == [4]


def test_an_object_that_is_mostly_background_or_void_is_dropped():
    classes = mask(10, 10, (0, 0, 4, 10, 4), (5, 5, 10, 10, 255))
    assert len(find_objects(classes, mask(10, 10, (0, 0, 10, 5, 1), (5, 5, 10, 10, 2))).class_ids_N) == 0


def test_without_object_mask_the_8_connected_parts_are_the_objects():
    side = MIN_PART_PIXELS
    classes = mask(
        200,
        300,
        (10, 20, 10 + side, 22, 5),
        (10 + side, 22, 20 + side, 40, 5),  # touch at a corner
        (200, 100, 200 + side, 101, 2),
        (0, 150, side - 1, 151, 2),
        (0, 199, 300, 200, 255),
    )
    found = find_objects(classes, None)
    assert found.boxes_N4.tolist() == [[200, 100, 200 + side, 101], [10, 20, 20 + side, 40]]  # and a speck of class 2
    assert found.class_ids_N.tolist() == [2, 5]


def test_masks_of_different_size_are_refused():
    with pytest.raises(ValueError, match="size of the image"):
        find_objects(mask(10, 10), mask(10, 11))


def test_an_image_without_objects_has_no_windows():
    nothing = find_objects(mask(10, 10), None)
    assert stage1_windows(nothing, 1.2).boxes_N4.shape == (0, 4)
    found = stage2_windows(nothing, np.ones((3, 4)), np.ones(3), min_iou=0.5, windows_per_image=5, extend=1.2)
    assert found.boxes_N4.shape == (0, 4)
    assert len(found.class_ids_N) == len(found.overlaps_N) == 0


def test_stage_1_extends_every_tight_box_1_2_times():
    windows = stage1_windows(make_objects([[10, 20, 110, 70], [0, 0, 10, 10]], [3, 1]), 1.2)
    np.testing.assert_allclose(windows.boxes_N4, [[0, 15, 120, 75], [-1, -1, 11, 11]])
    assert windows.class_ids_N.tolist() == [3, 1]
    assert windows.overlaps_N.tolist() == [1, 1]


def test_both_stages_make_squares_of_the_longer_side_when_asked():
    objects = make_objects([[10, 20, 110, 70]], [3])
    easy = stage1_windows(objects, 1.2, "square")
    hard = stage2_windows(
        objects,
        np.array([[10.0, 20, 110, 60]]),
        np.ones(1),
        min_iou=0.5,
        windows_per_image=9,
        extend=1.2,
        shape="square",
    )
    np.testing.assert_allclose(easy.boxes_N4, [[0, -15, 120, 105]])
    np.testing.assert_allclose(hard.boxes_N4, [[0, -20, 120, 100]])
    np.testing.assert_allclose(hard.overlaps_N, [0.8])  # of the box, not of the square


def test_stage_2_takes_an_overlap_of_exactly_one_half():
    objects = make_objects([[0, 0, 100, 100]], [7])
    proposals = np.array([[0, 0, 50, 100], [0, 0, 49.9, 100], [0, 0, 200, 100], [0, 0, 201, 100]])
    windows = stage2_windows(objects, proposals, np.arange(4.0), min_iou=0.5, windows_per_image=9, extend=1.0)
    assert windows.boxes_N4.tolist() == [[0, 0, 200, 100], [0, 0, 50, 100]]
    assert windows.overlaps_N.tolist() == [0.5, 0.5]


def test_stage_2_compares_unextended_boxes_and_returns_extended_ones():
    # extended 1.2 times, the proposal would overlap by 0.694 only
    windows = stage2_windows(
        make_objects([[0, 0, 100, 50]], [7]),
        np.array([[0.0, 0, 100, 50]]),
        np.ones(1),
        min_iou=0.9,
        windows_per_image=9,
        extend=1.2,
    )
    np.testing.assert_allclose(windows.boxes_N4, [[-10, -5, 110, 55]])
    assert windows.overlaps_N.tolist() == [1]


def test_stage_2_gives_a_proposal_the_class_of_the_object_it_overlaps_best():
    objects = make_objects([[0, 0, 100, 100], [0, 0, 80, 100]], [7, 9])
    proposals = np.array([[0.0, 0, 95, 100], [0, 0, 85, 100]])
    windows = stage2_windows(objects, proposals, np.array([2.0, 1]), min_iou=0.5, windows_per_image=9, extend=1.2)
    assert windows.class_ids_N.tolist() == [7, 9]


def test_stage_2_serves_the_objects_in_turn_best_scored_first():
    objects = make_objects([[0, 0, 100, 100], [200, 0, 300, 100]], [1, 2])
    proposals = np.array([[0.0, 0, 100, 91], [0, 0, 100, 92], [0, 0, 100, 93], [200, 0, 300, 94], [200, 0, 300, 95]])
    scores = np.array([0.7, 0.9, 0.8, 0.1, 0.2])

    def bottoms(limit):
        windows = stage2_windows(objects, proposals, scores, min_iou=0.5, windows_per_image=limit, extend=1.0)
        return windows.boxes_N4[:, 3].tolist()

    assert bottoms(9) == [92, 95, 93, 94, 91]
    assert bottoms(2) == [92, 95]
    assert bottoms(3) == [92, 95, 93]


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_stage_2_equals_a_naive_loop(seed, limit):
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 40, size=(24, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1) + 8], axis=1).astype(np.float32)
    objects, proposals = make_objects(boxes[:4], rng.integers(1, 21, size=4)), boxes[4:]
    scores = rng.permutation(len(proposals)) / 10

    queues = [[] for _ in range(4)]
    for p in sorted(range(len(proposals)), key=lambda p: -scores[p]):
        overlaps = [iou_of(proposals[p], box) for box in objects.boxes_N4]
        best = int(np.argmax(overlaps))
        if overlaps[best] >= 0.5:
            queues[best].append(p)
    expected = []
    while any(queues):
        expected += sorted((queue.pop(0) for queue in queues if queue), key=lambda p: -scores[p])

    windows = stage2_windows(objects, proposals, scores, min_iou=0.5, windows_per_image=limit, extend=1.0)
    np.testing.assert_array_equal(windows.boxes_N4, proposals[expected[:limit]])


def iou_of(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = float(max(width, 0) * max(height, 0))
    return both / (float((a[2] - a[0]) * (a[3] - a[1])) + float((b[2] - b[0]) * (b[3] - b[1])) - both)


def test_balance_repeats_rare_classes_up_to_the_largest():
    assert balance(np.array([1, 1, 1, 1, 2, 2, 3]), 10).tolist() == [1, 1, 1, 1, 2, 2, 4]


def test_balance_spreads_what_does_not_divide_and_stops_at_max_repeats():
    assert balance(np.array([1, 2, 1, 2, 1, 1, 1]), 10).tolist() == [1, 2, 1, 3, 1, 1, 1]
    assert balance(np.array([1, 2, 1, 2, 1, 1, 1]), 2).tolist() == [1, 2, 1, 2, 1, 1, 1]
    assert balance(np.array([], np.int32), 2).tolist() == []


@given(st.lists(st.integers(1, 6), min_size=1, max_size=80), st.integers(1, 12))
def test_balance_makes_every_class_as_frequent_as_allowed(class_ids, max_repeats):
    repeats = balance(np.array(class_ids), max_repeats)
    largest = max(class_ids.count(c) for c in class_ids)
    for c in set(class_ids):
        of_class = repeats[np.array(class_ids) == c]
        assert of_class.sum() == min(largest, len(of_class) * max_repeats)
        assert of_class.min() >= 1
        assert of_class.max() <= max_repeats
        assert of_class.max() - of_class.min() <= 1


def test_stage_1_labels_keep_one_class_and_void():
    assert stage1_labels(np.array([[0, 3, 255], [7, 20, 3]], np.uint8), 3).tolist() == [[0, 3, 255], [0, 0, 3]]


def test_stage_1_labels_keep_the_centred_object_alone_where_its_pixels_are_known():
    labels = np.array([[0, 3, 255], [7, 3, 3]], np.uint8)
    of_object = np.array([[0, 1, 0], [1, 0, 1]], bool)  # it also covers a pixel of another class
    assert stage1_labels(labels, 3, of_object).tolist() == [[0, 3, 255], [0, 0, 3]]


def test_objects_of_an_object_mask_are_known_by_their_number():
    classes = mask(40, 60, (0, 0, 20, 20, 5), (30, 0, 50, 20, 5))
    objects = mask(40, 60, (0, 0, 20, 20, 9), (30, 0, 50, 20, 2))
    assert find_objects(classes, objects).object_ids_N.tolist() == [2, 9]
    assert find_objects(classes, None).object_ids_N is None


def test_any_windows_are_spread_over_what_inference_looks_at_and_know_their_class():
    objects = Objects(np.array([[10, 10, 30, 30]], np.float32), np.array([4], np.int32))
    tight = np.array(
        [[10, 10, 30, 30], [60, 60, 90, 90], [12, 10, 30, 30], [0, 0, 60, 60], [70, 0, 90, 20]], np.float32
    )
    windows = any_windows(objects, tight, count=3, min_iou=0.5, extend=1.2)
    np.testing.assert_allclose(windows.boxes_N4, extend_boxes(tight[[0, 2, 4]], 1.2))
    assert windows.class_ids_N.tolist() == [4, 4, 0]
    np.testing.assert_allclose(windows.overlaps_N, [1, 0.9, 0], atol=1e-5)
    square = any_windows(objects, tight, count=3, min_iou=0.5, extend=1.2, shape="square")
    np.testing.assert_allclose(square.boxes_N4, extend_boxes(tight[[0, 2, 4]], 1.2, "square"))
    np.testing.assert_array_equal(square.overlaps_N, windows.overlaps_N)  # those of the boxes
    everything = any_windows(objects, tight, count=50, min_iou=0.5, extend=1.2)
    assert len(everything.boxes_N4) == 5
    nothing = find_objects(np.zeros((9, 9), np.uint8), None)
    assert any_windows(nothing, tight, count=2, min_iou=0.5, extend=1.2).class_ids_N.tolist() == [0, 0]


def test_joined_windows_keep_their_order():
    first = stage1_windows(Objects(np.array([[0, 0, 9, 9]], np.float32), np.array([2], np.int32)), 1.0)
    nothing = find_objects(np.zeros((9, 9), np.uint8), None)
    second = any_windows(nothing, np.array([[1, 1, 5, 5]], np.float32), count=1, min_iou=0.5, extend=1.0)
    joined = join_windows(first, second)
    assert joined.boxes_N4.tolist() == [[0, 0, 9, 9], [1, 1, 5, 5]]
    assert joined.class_ids_N.tolist() == [2, 0]


def test_background_windows_are_neither_repeated_nor_counted():
    assert balance(np.array([0, 1, 1, 0, 2, 0, 0]), 10).tolist() == [1, 1, 1, 1, 2, 1, 1]
