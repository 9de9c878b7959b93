"""Figures near boundaries against loops over pixels."""

from pathlib import Path

import numpy as np
import pytest
from evaluation_files import NAMES, labels, write_results, write_truth
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.evaluation.metrics import confusion_matrix
from pipeline.evaluation.results import evaluate_results
from pipeline.evaluation.trimap import boundary_distances, trimap_confusions
from pipeline.imaging.classes import VOID

SHAPE = (7, 9)
# Mostly one class, so that there are large distances too.
TRUTH = arrays(np.uint8, SHAPE, elements=st.sampled_from([0, 1, 2, VOID]), fill=st.sampled_from([0, 0, 1, VOID]))
PREDICTED = arrays(np.uint8, SHAPE, elements=st.integers(0, 3))


def distance_by_hand(truth: np.ndarray, pixel: tuple[int, int]) -> float:
    others = [p for p in np.ndindex(truth.shape) if truth[p] != truth[pixel]]
    return min((float(np.hypot(p[0] - pixel[0], p[1] - pixel[1])) for p in others), default=np.inf)


@given(TRUTH, PREDICTED)
def test_bands_agree_with_a_loop_over_pixels(truth, predicted):
    confusions = trimap_confusions(truth, predicted, 4, 6)
    assert confusions.shape == (6, 4, 4)
    for r in range(1, 7):
        expected = np.zeros((4, 4), dtype=int)
        for p in np.ndindex(SHAPE):
            if truth[p] != VOID and distance_by_hand(truth, p) <= r:
                expected[truth[p], predicted[p]] += 1
        np.testing.assert_array_equal(confusions[r - 1], expected)


@pytest.mark.parametrize("r", [1, 5, 12, 20])
def test_a_disc_in_a_void_contour_counts_from_the_contour(r):
    """As in VOC: object, contour of void, background; exact distances on a map of real size."""
    rows, columns = np.mgrid[:120, :150]
    from_centre = np.hypot(rows - 60, columns - 70)
    truth = np.where(from_centre < 30, 3, np.where(from_centre < 35, VOID, 0)).astype(np.uint8)
    void = np.argwhere(truth == VOID)
    near = np.zeros(truth.shape, dtype=bool)
    for pixel in np.argwhere(truth != VOID):
        near[tuple(pixel)] = (((void - pixel) ** 2).sum(axis=1) <= r * r).any()
    predicted = np.where(columns < 70, 3, 0).astype(np.uint8)
    masked = np.where(near, truth, VOID).astype(np.uint8)
    np.testing.assert_array_equal(trimap_confusions(truth, predicted, 4, r)[-1], confusion_matrix(masked, predicted, 4))


def test_a_map_of_one_label_has_no_boundary():
    truth = np.zeros(SHAPE, dtype=np.uint8)
    assert np.isinf(boundary_distances(truth)).all()
    assert not trimap_confusions(truth, truth, 2, 3).any()


def test_evaluation_adds_the_bands_of_all_images_up(tmp_path: Path):
    truth = {"a": labels([0, 0, 0, 1, 1]), "b": labels([2, 2, VOID, 0, 0])}
    found = {"a.jpg": labels([0, 0, 1, 1, 0]), "b.jpg": labels([0, 2, 2, 0, 0])}
    write_truth(tmp_path / "voc", truth)
    write_results(tmp_path / "run", found, NAMES)
    evaluation = evaluate_results(str(tmp_path / "run"), str(tmp_path / "voc"), trimap=3)
    np.testing.assert_array_equal(
        evaluation.trimaps, sum(trimap_confusions(truth[n], found[f"{n}.jpg"], 4, 3) for n in truth)
    )
    np.testing.assert_array_equal(evaluation.trimaps[-1], evaluation.confusion)  # 3 pixels reach everything here
    near = evaluation.summary()["trimap"]
    assert [one["pixels"] for one in near] == [1, 2, 3]
    assert near[0]["pixel_accuracy"] == pytest.approx(3 / 4)
