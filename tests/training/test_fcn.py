"""The training of the FCN without Ray: what is drawn, cut and minimised, that it learns, and that it resumes."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from killed_training import check_that_a_killed_run_goes_on
from torch.nn import functional as F

from pipeline.config.fcn import TrainFcnConfig
from pipeline.errors import TrainingError
from pipeline.imaging.classes import VOID
from pipeline.models.litefcn import LiteFCN
from pipeline.training.fcn.crops import cut, draw_of, rng_of
from pipeline.training.fcn.loop import Hooks, new_training, train
from pipeline.training.fcn.losses import jaccard, loss_of

torch.set_num_threads(1)
CONFIG = TrainFcnConfig(("data",), "out", imagenet="none", steps=8, batch_size=2, crop=64, val_every=4)


def test_a_crop_shows_its_class_and_labels_stay_on_what_they_label():
    """A photograph whose colour tells the label, so that a crop can be checked against itself."""
    mask_HW = np.zeros((120, 160), np.uint8)
    mask_HW[40:52, 100:118] = 2
    mask_HW[:, :4] = VOID
    image_HW3 = np.where(mask_HW == 2, 240, 15)[..., None].repeat(3, axis=2).astype(np.uint8)
    turned = 0
    for seed in range(40):
        crop_SS3, labels_SS = cut(image_HW3, mask_HW, 2, 96, rng_of(seed, 0, 0))
        assert crop_SS3.shape == (96, 96, 3)
        assert set(np.unique(labels_SS)) <= {0, 2, VOID}
        assert (labels_SS == 2).any()
        bright_SS = crop_SS3.mean(axis=2) > 110
        known_SS = labels_SS != VOID
        assert (bright_SS == (labels_SS == 2))[known_SS].mean() > 0.97
        ys, xs = np.nonzero(labels_SS == 2)
        turned += (np.ptp(xs) + 1) / (np.ptp(ys) + 1) > 1
        again = cut(image_HW3, mask_HW, 2, 96, rng_of(seed, 0, 0))
        assert all(np.array_equal(*pair) for pair in zip((crop_SS3, labels_SS), again, strict=True))
    assert turned > 30  # the object is wider than high, in whole


def test_rare_classes_are_drawn_more_often_than_they_occur():
    labels = [[0, 1]] * 80 + [[0, 2]] * 10 + [[0]] * 5
    draw = draw_of(labels, 4)
    drawn = [draw(rng_of(0, step, 0)) for step in range(3000)]
    counts = np.bincount([choice.label for choice in drawn], minlength=4)
    assert counts[0] == counts[3] == 0
    assert counts[1] / counts[2] == pytest.approx((80 / 10) ** 0.3, rel=0.15)
    assert all(choice.label in labels[choice.photograph] for choice in drawn)
    with pytest.raises(ValueError, match="nothing to learn"):
        draw_of([[0], []], 2)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 4), pixels=st.integers(1, 12))
def test_the_jaccard_loss_of_labels_is_one_minus_iou(seed, classes, pixels):
    """At the corners of the cube, where every probability is 0 or 1, the Lovasz extension is the loss itself."""
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, classes, (2, 1, 1, pixels))
    labels[rng.random(labels.shape) < 0.2] = VOID
    hard = F.one_hot(torch.from_numpy(predicted), classes).permute(0, 3, 1, 2).float()
    known = labels != VOID
    losses = []
    for label in np.unique(labels[known]):
        a, b = (labels == label) & known, (predicted == label) & known
        losses.append(1 - (a & b).sum() / (a | b).sum())
    expected = np.mean(losses) if losses else 0
    assert float(jaccard(hard, torch.from_numpy(labels))) == pytest.approx(expected, abs=1e-5)


def test_void_pixels_do_not_count():
    torch.manual_seed(0)
    scores = torch.randn(2, 3, 8, 8, requires_grad=True)
    labels = torch.full((2, 32, 32), VOID)
    assert loss_of(scores, labels, 0).item() == 0
    labels[0, :16] = 1
    changed = scores.detach().clone()
    changed[1] += torch.randn(3, 8, 8)
    torch.testing.assert_close(loss_of(scores, labels, 1), loss_of(changed, labels, 1))


def batches(config: TrainFcnConfig, start: int):
    """Crops of two colours, each a class; a function of the step, as the real ones are."""
    for step in range(start, config.steps):
        generator = torch.Generator().manual_seed(step)
        labels = torch.randint(0, 2, (config.batch_size, 4, 4), generator=generator).to(torch.uint8)
        labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2)
        images = torch.where(labels == 1, 220, 30).to(torch.uint8)[:, None].repeat(1, 3, 1, 1)
        noise = torch.randint(0, 30, images.shape, generator=generator).to(torch.uint8)
        yield images + noise, labels


def hooks_of(config: TrainFcnConfig, save=lambda: None) -> Hooks:
    def validate(net: LiteFCN):
        return {"mean_iou": 0.0, "pixel_accuracy": 0.0}

    return Hooks(partial(batches, config), validate, save, lambda due: due, lambda line: None)


def fresh(config: TrainFcnConfig):
    torch.manual_seed(0)
    return new_training(LiteFCN(2).train(), config)


@pytest.mark.slow
def test_it_learns_what_colour_tells():
    config = TrainFcnConfig(("data",), "out", imagenet="none", steps=60, batch_size=4, crop=64, learning_rate=3e-3)
    training = fresh(config)
    train(training, training.net, config, hooks_of(config))
    assert training.step == 60
    assert [line["step"] for line in training.history] == [60]
    images, labels = next(batches(config, 0))
    with torch.inference_mode():
        found = training.net.eval()((images.float() - 127) / 128).argmax(1)
    assert (found == labels[:, 2::4, 2::4]).float().mean() > 0.9


@pytest.mark.slow
def test_a_killed_run_that_goes_on_ends_as_one_that_was_not_killed(tmp_path):
    check_that_a_killed_run_goes_on(tmp_path, CONFIG, fresh, hooks_of, killed_at=4)


def test_each_step_is_told_with_its_loss():
    training, told = fresh(CONFIG), []
    train(training, training.net, CONFIG, replace(hooks_of(CONFIG), stepped=told.append))
    assert len(told) == CONFIG.steps
    means = [line["train_loss"] for line in training.history]
    every = CONFIG.val_every
    assert means == [pytest.approx(float(np.mean(told[at : at + every]))) for at in range(0, CONFIG.steps, every)]


def test_a_loss_that_is_no_number_ends_the_training():
    training = fresh(CONFIG)
    with torch.no_grad():
        training.net.score.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="step 0"):
        train(training, training.net, CONFIG, hooks_of(CONFIG))
