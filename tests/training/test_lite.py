"""The training of the light DeconvNet without Ray: its windows, what it minimises, that it learns, that it resumes."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from killed_training import check_that_a_killed_run_goes_on

from pipeline.checkpoints.bundled import weights_uri
from pipeline.config.lite import TrainLiteConfig
from pipeline.imaging.classes import VOID
from pipeline.imaging.geometry import CROP
from pipeline.models.checkpoint import Checkpoint, CheckpointInfo
from pipeline.models.deconvnet import DeconvNet
from pipeline.models.efficientnet import INPUT
from pipeline.models.litedeconvnet import initialise
from pipeline.models.litefcn import LiteFCN, folded
from pipeline.models.members import load_member
from pipeline.training.fcn.crops import rng_of
from pipeline.training.fcn.loop import Hooks, train, train_step
from pipeline.training.lite.loop import Taught, loss_of_stage, new_training
from pipeline.training.lite.losses import distance, loss_of
from pipeline.training.lite.teacher import Teacher
from pipeline.training.lite.windows import cut, object_of

torch.set_num_threads(1)
CONFIG = TrainLiteConfig(("data",), "out", steps=4, batch_size=2, val_every=2, stage1_share=0.5)


def scene():
    """Two bright things of one class and a grey one of another, on black; the colour tells the label."""
    mask_HW = np.zeros((150, 200), np.uint8)
    mask_HW[20:60, 30:80] = 2
    mask_HW[90:120, 130:150] = 2
    mask_HW[70:90, 20:60] = 1
    image_HW3 = np.choose(mask_HW, (20, 110, 230)).astype(np.uint8)[..., None].repeat(3, axis=2)
    return image_HW3, mask_HW


@pytest.mark.parametrize("stage", [1, 2])
def test_a_window_shows_its_object_and_labels_stay_on_what_they_label(stage):
    image_HW3, mask_HW = scene()
    for seed in range(30):
        window_SS3, labels_SS = cut(image_HW3, mask_HW, 2, stage, rng_of(seed, 0, 0))
        assert window_SS3.shape == (CROP, CROP, 3)
        assert set(np.unique(labels_SS)) <= ({0, 2, VOID} if stage == 1 else {0, 1, 2, VOID})
        assert (labels_SS == 2).any()
        known_SS = labels_SS != VOID
        assert ((window_SS3 == 0).all(axis=2) | known_SS).all()  # black where the photograph has ended
        bright_SS = window_SS3.mean(axis=2) > 1.2 * np.median(window_SS3[labels_SS == 0])
        assert bright_SS[labels_SS == 2].mean() > 0.95
        again = cut(image_HW3, mask_HW, 2, stage, rng_of(seed, 0, 0))
        assert all(np.array_equal(*pair) for pair in zip((window_SS3, labels_SS), again, strict=True))


def test_the_first_stage_keeps_one_object_alone():
    image_HW3, mask_HW = scene()
    mask_HW[62:80, 30:80] = 2  # a second part, two pixels below the first: in the same window
    whole = CROP / (1.2 * np.array([0.9, 1.3]) * 50)  # pixels of the window to one of the photograph
    for seed in range(20):
        found = object_of(mask_HW, 2, rng_of(seed, 0, 0))
        area = found.pixels_HW.sum()
        kept = (cut(image_HW3, mask_HW, 2, 1, rng_of(seed, 0, 0))[1] == 2).sum()
        longer = max(found.box_4[2] - found.box_4[0], found.box_4[3] - found.box_4[1])
        low, high = area * (whole * 50 / max(longer, 40 / 1.2)) ** 2
        assert min(low, high) * 0.6 < kept < max(low, high) * 1.1


def test_small_specks_are_no_objects_unless_there_is_nothing_else():
    mask_HW = np.zeros((100, 100), np.uint8)
    mask_HW[5, 5] = 1
    assert object_of(mask_HW, 1, rng_of(0, 0, 0)).box_4 == (5, 5, 6, 6)
    mask_HW[50:70, 50:80] = 1
    assert all(object_of(mask_HW, 1, rng_of(seed, 0, 0)).box_4 == (50, 50, 80, 70) for seed in range(10))


def test_void_pixels_do_not_count_and_the_teacher_is_met_at_distance_zero():
    torch.manual_seed(0)
    scores = torch.randn(2, 3, 8, 8)
    labels = torch.full((2, 16, 16), VOID)
    assert loss_of(scores, labels, 0).item() == 0
    labels[0, :8] = 1
    changed = scores.clone()
    changed[1] += torch.randn(3, 8, 8)
    torch.testing.assert_close(loss_of(scores, labels, 1), loss_of(changed, labels, 1))
    coarse = torch.randn(2, 3, 4, 4)
    fine = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert distance(fine, coarse).item() == pytest.approx(0, abs=1e-6)
    other = torch.randn(2, 3, 4, 4)
    p, q = other.softmax(1), coarse.softmax(1)
    naive = np.mean(
        [float((p[n, :, i, j] * (p[n, :, i, j] / q[n, :, i, j]).log()).sum()) for n, i, j in np.ndindex(2, 4, 4)]
    )
    assert distance(fine, other).item() == pytest.approx(naive, rel=1e-4)


def batches(config: TrainLiteConfig, start: int):
    """Windows of two colours, each a class; a function of the step, as the real ones are."""
    for step in range(start, config.steps):
        generator = torch.Generator().manual_seed(step)
        labels = torch.randint(0, 2, (config.batch_size, 2, 2), generator=generator).to(torch.uint8)
        labels = labels.repeat_interleave(CROP // 2, 1).repeat_interleave(CROP // 2, 2)
        yield torch.where(labels == 1, 220, 30).to(torch.uint8)[:, None].repeat(1, 3, 1, 1), labels


def hooks_of(config: TrainLiteConfig, save=lambda: None) -> Hooks:
    def validate(net):
        return {"mean_iou": 0.0, "pixel_accuracy": 0.0}

    loss = partial(loss_of_stage, config)
    return Hooks(partial(batches, config), validate, save, lambda due: due, lambda line: None, loss)


def fresh(config: TrainLiteConfig, fcn: LiteFCN | None = None):
    torch.manual_seed(0)
    net = Taught(folded(2, "lite0") if fcn is None else fcn, all_layers=config.backbone_factor > 0)
    initialise(net.decoder)
    return new_training(net, config)


def test_another_network_teaches_in_the_place_of_the_fcn_and_is_no_part_of_what_is_trained():
    torch.manual_seed(1)
    info = CheckpointInfo(("background", "thing"), 1 / 64, window_shape="square")  # with another input than the FCN's
    teacher = DeconvNet(2, 1 / 64).eval()
    net = Taught(folded(2, "lite0"), Teacher(Checkpoint(teacher, info, ""))).eval()
    crops = torch.randint(0, 256, (2, 3, CROP, CROP), dtype=torch.uint8)
    with torch.inference_mode():
        wanted = net(INPUT(crops))[1]
        scores = teacher(info.preprocessing(crops))
    quarter = scores.unfold(2, 4, 4).unfold(3, 4, 4).mean(dim=(4, 5))
    torch.testing.assert_close(wanted, quarter, rtol=1e-3, atol=1e-3 * float(scores.std()))
    alone = Taught(folded(2, "lite0"))
    assert net.state_dict().keys() == alone.state_dict().keys()
    assert not {*map(id, teacher.parameters())} & {*map(id, net.parameters())}


@pytest.mark.slow
def test_it_learns_and_the_fcn_stays_as_it_is():
    """On the bundled FCN's maps, which tell bright from dark; the rate is still rising in so few steps."""
    config = TrainLiteConfig(
        ("data",), "out", steps=16, batch_size=2, stage1_share=1.0, learning_rate=0.2, backbone_factor=0
    )
    uri = weights_uri("voc-fcn")
    training = fresh(config, load_member(Path(uri).read_bytes(), uri).net)
    before = {name: tensor.clone() for name, tensor in training.net.fcn.state_dict().items()}
    losses = []

    def watched(found, labels, step):
        loss = loss_of_stage(config, found, labels, step)
        losses.append(loss.item())
        return loss

    hooks = hooks_of(config)
    train(
        training,
        training.net,
        config,
        Hooks(hooks.batches, hooks.validate, hooks.save, hooks.due, hooks.log, watched),
    )
    assert np.mean(losses[-4:]) < 0.6 * np.mean(losses[:2])
    for name, tensor in training.net.fcn.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.slow
def test_a_killed_run_that_goes_on_ends_as_one_that_was_not_killed(tmp_path):
    """Across the change of stage."""
    check_that_a_killed_run_goes_on(tmp_path, CONFIG, fresh, hooks_of, killed_at=2)


@pytest.mark.parametrize("factor", [0, 0.1])
def test_encoder_and_context_learn_if_they_have_a_rate_and_never_the_teacher(factor):
    config = replace(CONFIG, stage1_share=0, backbone_factor=factor)
    training = fresh(config)
    before = {name: tensor.clone() for name, tensor in training.net.state_dict().items()}
    train_step(training, training.net, config, next(batches(config, 0)), partial(loss_of_stage, config))
    changed = {
        name.split(".")[0] for name, tensor in training.net.state_dict().items() if (tensor != before[name]).any()
    }
    assert changed == ({"decoder", "encoder", "context"} if factor else {"decoder"})
    rates = {round(group["rate"] / config.learning_rate, 3) for group in training.optimizer.param_groups}
    assert rates == ({1, factor} if factor else {1})


@pytest.mark.parametrize("factor", [0, 0.1])
def test_the_whole_network_gives_what_was_trained_and_scores_a_photograph(factor):
    config = replace(CONFIG, backbone_factor=factor)
    training = fresh(config)
    train_step(training, training.net, config, next(batches(config, 0)), partial(loss_of_stage, config))
    net = training.net.eval()
    x = torch.randn(1, 3, CROP, CROP)
    with torch.inference_mode():
        torch.testing.assert_close(net.whole()(x), net(x)[0])
    image = torch.randint(0, 256, (3, 60, 100), dtype=torch.uint8)
    scores = net.scores(image)
    assert scores.shape == (2, 60, 100)
    assert scores.isfinite().all()
    assert (scores != 0).all()
