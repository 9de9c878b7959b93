"""Scores of single objects against loops over pixels, and their means by size."""

import json
from pathlib import Path

import numpy as np
import pytest
from evaluation_files import NAMES, write_results, write_truth
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.evaluation.objects import ScoredObject, by_size, score_objects
from pipeline.evaluation.results import evaluate_results
from pipeline.imaging.classes import VOID
from pipeline.imaging.images import encode_mask

SHAPE = (7, 8)
# Objects 1 to 3; each pixel of the truth has its object's class or is void.
OBJECTS = arrays(np.uint8, SHAPE, elements=st.integers(0, 3), fill=st.just(0))
PREDICTED = arrays(np.uint8, SHAPE, elements=st.integers(0, 2))
CLASS_OF = (0, 1, 1, 2)


def ious_by_hand(truth: np.ndarray, objects: np.ndarray, predicted: np.ndarray) -> dict[int, float]:
    pixels = [p for p in np.ndindex(SHAPE) if truth[p] != VOID]
    members = {n: [p for p in pixels if objects[p] == n] for n in (1, 2, 3)}
    members = {n: own for n, own in members.items() if own}
    union = {n: len(own) for n, own in members.items()}
    right = {n: sum(predicted[p] == CLASS_OF[n] for p in own) for n, own in members.items()}
    for p in pixels:
        rivals = [n for n in members if CLASS_OF[n] == predicted[p]]
        if rivals and truth[p] != predicted[p]:
            nearest = min(rivals, key=lambda n: min((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2 for q in members[n]))
            union[nearest] += 1
    return {n: right[n] / union[n] for n in members}


@given(OBJECTS, PREDICTED, arrays(np.bool_, SHAPE, elements=st.booleans(), fill=st.just(False)))
def test_scores_agree_with_a_loop_over_pixels(objects, predicted, void):
    truth = np.where(void, VOID, np.array(CLASS_OF)[objects]).astype(np.uint8)
    expected = ious_by_hand(truth, objects, predicted)
    scored = score_objects(truth, objects, predicted)
    assert [one.class_id for one in scored] == [CLASS_OF[n] for n in expected]
    assert [one.iou for one in scored] == pytest.approx(list(expected.values()))
    shares = [((objects == n) & (truth != VOID)).sum() / truth.size for n in expected]
    assert [one.share for one in scored] == pytest.approx(shares)


def test_objects_are_connected_parts_where_there_is_no_mask_of_them():
    truth = np.zeros((40, 60), np.uint8)
    truth[5:15, 5:15], truth[5:15, 40:60], truth[30:33, 30:33] = 1, 1, 1  # the last one is a speck
    predicted = np.zeros_like(truth)
    predicted[5:15, 5:10], predicted[5:15, 40:60], predicted[5:15, 38:40] = 1, 1, 1
    half, whole = score_objects(truth, None, predicted)
    assert (half.iou, half.share, half.parts) == (0.5, 100 / 2400, 1)
    assert whole.iou == pytest.approx(200 / 220)


def test_an_object_behind_another_one_has_several_parts():
    objects = np.zeros((40, 60), np.uint8)
    objects[10:30, 5:55] = 1
    objects[:, 28:32] = 2
    truth = np.array([0, 1, 2], np.uint8)[objects]
    assert [(one.class_id, one.parts) for one in score_objects(truth, objects, truth)] == [(1, 2), (2, 1)]


def test_means_by_size_by_hand():
    images = [
        [ScoredObject(1, 0.005, 1, 0.0), ScoredObject(1, 0.3, 2, 0.6)],
        [ScoredObject(2, 0.009, 1, 0.4), ScoredObject(2, 0.01, 1, 0.5), ScoredObject(2, 1.0, 1, 1.0)],
    ]
    small, second, third, large, in_parts = by_size(images)
    assert (small["share_from"], small["share_to"], small["objects"], small["missed"]) == (0, 0.01, 2, 0.5)
    assert small["mean_iou"] == pytest.approx(0.2)
    assert small["mean_iou_interval"] == pytest.approx([0, 0.4])  # both images are drawn twice now and then
    assert (second["objects"], second["mean_iou"]) == (1, 0.5)
    assert (third["objects"], third["mean_iou"], third["missed"]) == (0, None, None)
    assert (large["objects"], large["mean_iou"]) == (2, pytest.approx(0.8))
    assert (in_parts["objects"], in_parts["mean_iou"]) == (1, 0.6)


@pytest.mark.parametrize("with_objects", [True, False])
def test_evaluation_reads_masks_of_objects_where_there_are_some(tmp_path: Path, with_objects):
    truth = np.zeros((20, 40), np.uint8)
    truth[5:15, 2:38] = 1
    objects = np.where(truth == 1, 1 + (np.arange(40) >= 20), 0).astype(np.uint8)  # two cats side by side
    found = np.where(np.arange(40) < 20, truth, 0).astype(np.uint8)
    write_truth(tmp_path / "voc", {"a": truth})
    if with_objects:
        (tmp_path / "voc" / "SegmentationObject").mkdir()
        (tmp_path / "voc" / "SegmentationObject" / "a.png").write_bytes(encode_mask(objects, None))
    write_results(tmp_path / "run", {"a.jpg": found}, NAMES)
    evaluation = evaluate_results(str(tmp_path / "run"), str(tmp_path / "voc"), objects=True)
    ((*ious,),) = [[one.iou for one in image] for image in evaluation.objects]
    assert ious == ([1, 0] if with_objects else [0.5])
    groups = evaluation.summary()["objects"]
    assert json.loads(json.dumps(groups)) == groups
    assert sum(one["objects"] for one in groups[:4]) == len(ious)
    assert evaluate_results(str(tmp_path / "run"), str(tmp_path / "voc")).summary()["objects"] == []


def test_a_mask_of_objects_that_does_not_fit_is_a_problem_of_its_image(tmp_path: Path):
    truth = np.ones((10, 12), np.uint8)
    write_truth(tmp_path / "voc", {"a": truth, "b": truth})
    (tmp_path / "voc" / "SegmentationObject").mkdir()
    (tmp_path / "voc" / "SegmentationObject" / "b.png").write_bytes(encode_mask(truth[:5], None))
    write_results(tmp_path / "run", {"a.jpg": truth, "b.jpg": truth}, NAMES)
    evaluation = evaluate_results(str(tmp_path / "run"), str(tmp_path / "voc"), objects=True)
    assert evaluation.images == 1
    ((problem),) = evaluation.problems
    assert (problem.image, "object mask" in problem.message) == ("b.jpg", True)
    assert evaluation.confusion.sum() == truth.size
