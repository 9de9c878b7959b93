"""Each rule of training that the paper states, broken on purpose or computed by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.models.weights import Preprocessing
from pipeline.training.state import Progress, load_state, save_state
from pipeline.training.steps import (
    Feed,
    TrainingError,
    central_crops,
    confusion_of,
    make_optimizer,
    make_schedule,
    micro_batches,
    random_crops,
    train_epoch,
    validate,
    window_loss,
)

torch.set_num_threads(1)
FEED = Feed(Preprocessing(), num_classes=3)


def windows(n: int, seed: int = 0):
    """Red is the column, green the row and the label the column's parity: crops tell where they came from."""
    columns = torch.arange(250).expand(250, 250)
    image = torch.stack([columns, columns.T, torch.zeros(250, 250)]).to(torch.uint8)
    return image.expand(n, 3, 250, 250), (columns % 2).to(torch.uint8).expand(n, 250, 250)


def test_training_crops_are_224_of_250_at_every_offset_and_mirrored_half_of_the_time():
    crops, labels = random_crops(windows(1500), torch.Generator().manual_seed(0))
    assert crops.shape == (1500, 3, 224, 224)
    xs = crops[:, 0].amin((1, 2)).tolist()
    ys = crops[:, 1].amin((1, 2)).tolist()
    assert set(xs) == set(ys) == set(range(27))
    assert xs != ys
    mirrored = crops[:, 0, 0, 0] > crops[:, 0, 0, -1]
    assert 0.45 < mirrored.float().mean() < 0.55
    assert torch.equal(labels, crops[:, 0] % 2)  # labels are cut and mirrored with their pixels


def test_crops_repeat_with_the_seed():
    one, other = (random_crops(windows(8), torch.Generator().manual_seed(s))[0] for s in (1, 1))
    assert torch.equal(one, other)
    assert not torch.equal(one, random_crops(windows(8), torch.Generator().manual_seed(2))[0])


def test_validation_crops_are_central():
    crops, labels = central_crops(windows(2))
    assert crops.shape == (2, 3, 224, 224)
    assert (crops[0, 0].min(), crops[0, 0].max(), crops[0, 1].min()) == (13, 236, 13)
    assert torch.equal(labels, crops[:, 0] % 2)


def test_the_loss_is_softmax_cross_entropy_over_labelled_pixels():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(2, 3, 4, 5))
    labels = rng.choice([0, 1, 2, 255], size=(2, 4, 5))
    terms = [
        math.log(sum(math.exp(s) for s in scores[n, :, r, c])) - scores[n, labels[n, r, c], r, c]
        for n, r, c in np.ndindex(labels.shape)
        if labels[n, r, c] != 255
    ]
    loss = window_loss(torch.from_numpy(scores), torch.from_numpy(labels).to(torch.uint8))
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_void_pixels_give_no_gradient_and_all_void_gives_no_loss():
    scores = torch.randn(1, 3, 4, 4, requires_grad=True)
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    labels[0, 1:3] = 255
    window_loss(scores, labels).backward()
    assert scores.grad[0, :, 1:3].abs().max() == 0
    assert scores.grad[0, :, 0].abs().min() > 0
    assert window_loss(scores, torch.full_like(labels, 255)).item() == 0


def test_sgd_has_momentum_and_weight_decay():
    weight = nn.Parameter(torch.tensor([2.0]))
    module = nn.Module()
    module.w = weight
    optimizer = make_optimizer(module, 0.1, 0.9, 0.5)
    velocity, value = 0.0, 2.0
    for gradient in (1.0, -3.0, 0.5):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        velocity = 0.9 * velocity + gradient + 0.5 * value
        value -= 0.1 * velocity
        assert weight.item() == pytest.approx(value)


def test_the_learning_rate_falls_tenfold_when_accuracy_stops_improving():
    optimizer = make_optimizer(nn.Linear(1, 1), 0.01, 0.9, 0.0)
    schedule = make_schedule(optimizer, patience=1)
    rates = []
    for accuracy in (0.5, 0.6, 0.7, 0.7, 0.69, 0.8, 0.79, 0.78):
        schedule.step(accuracy)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.01, 0.01, 0.01, 0.01, 0.001, 0.001, 0.001, 0.0001])


class Tiny(nn.Module):
    """A 1x1 convolution: no batch normalisation, so gradients of micro-batches must add up exactly."""

    def __init__(self):
        super().__init__()
        self.score = nn.Conv2d(3, 3, 1)
        nn.init.zeros_(self.score.weight)

    def forward(self, x):
        return self.score(x)


def some_batches(count=2, n=5):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randint(0, 256, (n, 3, 250, 250), generator=generator, dtype=torch.uint8),
         torch.randint(0, 3, (n, 250, 250), generator=generator, dtype=torch.uint8))
        for _ in range(count)
    ]  # fmt: skip


def test_micro_batches_cover_the_batch_and_mark_the_last():
    pieces = list(micro_batches(some_batches(1, 5)[0], 2))
    assert [len(images) for (images, _), _ in pieces] == [2, 2, 1]
    assert [last for _, last in pieces] == [False, False, True]


def test_micro_batches_give_the_step_of_the_whole_batch():
    ends = []
    for micro_batch in (5, 2):
        net = Tiny()
        net.load_state_dict({"score.weight": torch.full((3, 3, 1, 1), 0.1), "score.bias": torch.zeros(3)})
        train_epoch(net, make_optimizer(net, 0.1, 0.9, 0.0), some_batches(), feed=FEED, micro_batch=micro_batch,
                    generator=torch.Generator().manual_seed(0))  # fmt: skip
        ends.append(net.score.weight.detach().clone())
    # crops are drawn per micro-batch from the same generator, so only their pixels differ: the labels here are noise,
    # and the gradient of noise is small; the steps must agree to that noise
    torch.testing.assert_close(ends[0], ends[1], atol=2e-3, rtol=0)


def test_metrics_count_what_the_network_says():
    net = Tiny()
    net.score.bias.data = torch.tensor([0.0, 5.0, 0.0])  # always says class 1
    images = torch.zeros(2, 3, 250, 250, dtype=torch.uint8)
    labels = torch.ones(2, 250, 250, dtype=torch.uint8)
    labels[:, :125], labels[:, :, :20] = 2, 255
    metrics = validate(net, [(images, labels)], feed=FEED)
    # of the central 224 rows (13..236), 112 are class 2 and 112 class 1
    assert metrics.pixel_accuracy == pytest.approx(0.5)
    assert metrics.mean_iou == pytest.approx((0.5 + 0) / 2)
    assert metrics.crops == 2


def test_confusion_counts_pairs_and_skips_void():
    scores = torch.eye(3).view(1, 3, 1, 3)  # says 0, 1, 2
    confusion = confusion_of(scores, torch.tensor([[[0, 2, 255]]], dtype=torch.uint8))
    assert confusion.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_a_loss_that_is_not_finite_stops_the_training():
    net = Tiny()
    net.score.bias.data.fill_(float("nan"))
    with pytest.raises(TrainingError, match="finite"):
        train_epoch(net, make_optimizer(net, 0.1, 0.9, 0), some_batches(1), feed=FEED, micro_batch=4,
                    generator=torch.Generator())  # fmt: skip


def test_an_empty_training_set_says_so():
    with pytest.raises(TrainingError, match="no examples"):
        validate(Tiny(), [], feed=FEED)


def test_training_state_comes_back(tmp_path):
    from pipeline.models.deconvnet import DeconvNet
    from pipeline.models.weights import CheckpointInfo

    info = CheckpointInfo(("background", "a"), 1 / 16)
    net = DeconvNet(2, 1 / 16)
    optimizer = make_optimizer(net, 0.01, 0.9, 0.0)
    schedule = make_schedule(optimizer, 1)
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    for accuracy in (0.5, 0.5, 0.5):
        schedule.step(accuracy)
    save_state(tmp_path, net, info, optimizer, Progress(schedule.state_dict(), [{"epoch": 0}]))

    other = DeconvNet(2, 1 / 16)
    other_optimizer = make_optimizer(other, 0.01, 0.9, 0.0)
    progress = load_state(tmp_path, other, other_optimizer)
    assert progress.history == [{"epoch": 0}]
    assert other_optimizer.param_groups[0]["lr"] == pytest.approx(0.001)
    for (name, p), q in zip(net.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), name
        assert torch.equal(optimizer.state[p]["momentum_buffer"], other_optimizer.state[q]["momentum_buffer"]), name
    assert not any(file.suffix in (".pt", ".pth", ".pkl") for file in tmp_path.iterdir())
