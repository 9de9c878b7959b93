"""The interval around a mean IoU, against cases whose answer is known."""

import numpy as np
import pytest

from pipeline.evaluation.bootstrap import counts_of, mean_iou_interval
from pipeline.evaluation.metrics import mean_iou


def test_images_that_agree_leave_nothing_to_chance():
    confusion = np.array([[50, 10], [5, 35]])
    counts = np.stack([counts_of(confusion)] * 7)
    assert mean_iou_interval(counts) == pytest.approx([mean_iou(confusion)] * 2)


def test_the_interval_is_that_of_the_binomial_distribution():
    """Images of one class, each right or all wrong: the IoU is the share of right ones."""
    right = np.array([np.diag([100])] * 70 + [np.zeros((1, 1), int)] * 30)
    counts = np.stack([np.stack([np.diag(one), [100], np.diag(one)]) for one in right])
    low, high = mean_iou_interval(counts)
    deviation = np.sqrt(0.7 * 0.3 / 100)
    assert low == pytest.approx(0.7 - 1.96 * deviation, abs=0.015)
    assert high == pytest.approx(0.7 + 1.96 * deviation, abs=0.015)
    assert mean_iou_interval(counts) == (low, high)


def test_classes_that_a_draw_does_not_show_do_not_count():
    confusions = [np.array([[10, 0], [0, 0]]), np.array([[0, 0], [0, 10]])]
    assert mean_iou_interval(np.stack([counts_of(one) for one in confusions])) == (1, 1)
