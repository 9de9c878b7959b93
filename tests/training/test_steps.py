"""Each rule of training that the paper states, broken on purpose or computed by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.config import TRAIN_RECIPES, ConfigError, TrainConfig
from pipeline.errors import TrainingError
from pipeline.models.checkpoint import Preprocessing
from pipeline.models.deconvnet import DeconvNet
from pipeline.training.loop.bn_statistics import recompute_statistics
from pipeline.training.loop.metrics import Feed, Meter, confusion_of, window_loss
from pipeline.training.loop.optimizer import make_optimizer, make_schedule
from pipeline.training.loop.steps import (
    EXPLODED_STEPS,
    Health,
    central_crops,
    micro_batches,
    random_crops,
    share_of_batch,
    train_steps,
    validate,
)

torch.set_num_threads(1)
FEED = Feed(Preprocessing(), num_classes=3)
CONFIG = TrainConfig("set", "run")


def train(net, optimizer, batches, micro_batch):
    """The figures of a pass."""
    meter = Meter(net, FEED)
    for _ in train_steps(net, optimizer, batches, feed=FEED, meter=meter, micro_batch=micro_batch, seed=(0,)):
        pass
    return meter.metrics()


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
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-12)


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
    optimizer = make_optimizer(module, replace(CONFIG, learning_rate=0.1, momentum=0.9, weight_decay=0.5))
    velocity, value = 0.0, 2.0
    for gradient in (1.0, -3.0, 0.5):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        velocity = 0.9 * velocity + gradient + 0.5 * value
        value -= 0.1 * velocity
        assert weight.item() == pytest.approx(value)


class Normalised(nn.Module):
    """A convolution and a batch normalisation, in float64."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, dtype=torch.float64)
        self.bn = nn.BatchNorm2d(3, eps=1e-9, dtype=torch.float64)
        generator = torch.Generator().manual_seed(2)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)

    def forward(self, x):
        return self.bn(self.conv(x.double()))


def test_a_step_of_the_release_is_that_of_its_solver():
    """Its solver: gradients of 8 micro-batches are summed, decay is added once, the sum is divided by 8.

    Its batch normalisation overwrites its gradients, so the last micro-batch's alone are left. All 8 are alike here, as
    ours takes their mean.
    """
    config = replace(TRAIN_RECIPES["release"](CONFIG), batch_size=24, micro_batch=3)
    net, reference = Normalised(), Normalised()
    images, labels = coloured([0, 1, 2] * 8)
    batches = [(images, labels)] * 3
    train(net, make_optimizer(net, config), batches, config.micro_batch)
    velocity = {name: torch.zeros_like(p) for name, p in reference.named_parameters()}
    crops, truths = central_crops(coloured([0, 1, 2]))  # any crop of one colour is like any other
    for _ in batches:
        summed = {}
        for _ in range(8):
            reference.zero_grad()
            scores = reference(FEED.preprocessing(crops))
            nn.functional.cross_entropy(scores, truths.long()).backward()
            for name, p in reference.named_parameters():
                summed[name] = p.grad.clone() if "bn" in name or name not in summed else summed[name] + p.grad
        with torch.no_grad():
            for name, p in reference.named_parameters():
                rate, decay = (2.0, 0.0) if name == "conv.bias" else (1.0, 0.0005)
                velocity[name] = 0.9 * velocity[name] + rate * 0.01 * (summed[name] + decay * p) / 8
                p.sub_(velocity[name])
    for (name, p), expected in zip(net.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-9, atol=1e-12, msg=name)


def test_the_release_lets_biases_learn_twice_as_fast_without_decay_and_normalisation_an_eighth_as_fast():
    net = DeconvNet(3, 1 / 16)
    optimizer = make_optimizer(net, TRAIN_RECIPES["release"](CONFIG))
    rules = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert len(rules) == len(list(net.parameters()))
    for name, p in net.named_parameters():
        of_convolution = name.endswith(("conv.bias", "seg_score.bias"))
        expected = (0.02, 0.0) if of_convolution else (0.00125, 0.0005) if ".bn." in name else (0.01, 0.0000625)
        assert rules[id(p)] == pytest.approx(expected), name


def test_the_learning_rate_falls_tenfold_when_accuracy_stops_improving():
    optimizer = make_optimizer(nn.Linear(1, 1), CONFIG)
    schedule = make_schedule(optimizer, CONFIG, 1)
    rates = []
    for accuracy in (0.5, 0.6, 0.7, 0.7, 0.69, 0.8, 0.79, 0.78):
        schedule.step(accuracy)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.01, 0.01, 0.01, 0.01, 0.001, 0.001, 0.001, 0.0001])


def test_the_release_divides_every_learning_rate_by_ten_every_so_many_steps():
    config = replace(TRAIN_RECIPES["release"](CONFIG), lr_steps=(2, 3))
    for stage, every in ((1, 2), (2, 3)):
        optimizer = make_optimizer(nn.Conv2d(1, 1, 1), config)
        schedule = make_schedule(optimizer, config, stage)
        for step in range(7):
            rates = [group["lr"] for group in optimizer.param_groups]
            assert rates == pytest.approx([0.01 / 10 ** (step // every), 0.02 / 10 ** (step // every)])
            optimizer.step()
            schedule.step()


class Tiny(nn.Module):
    """A 1x1 convolution: no batch normalisation, so gradients of micro-batches must add up exactly.

    In float64: each processor adds up a window's 50,000 pixels in an order of its own.
    """

    def __init__(self):
        super().__init__()
        self.score = nn.Conv2d(3, 3, 1, dtype=torch.float64)
        nn.init.zeros_(self.score.weight)

    def forward(self, x):
        return self.score(x.double())


def some_batches(count=2, n=5):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randint(0, 256, (n, 3, 250, 250), generator=generator, dtype=torch.uint8),
         torch.randint(0, 3, (n, 250, 250), generator=generator, dtype=torch.uint8))
        for _ in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("examples", "size", "expected"),
    [(64, 16, [16] * 4), (7, 3, [3, 4]), (5, 3, [3, 2]), (3, 2, [3]), (2, 16, [2]), (17, 16, [17])],
)
def test_micro_batches_cover_the_batch_mark_the_last_and_leave_none_alone(examples, size, expected):
    numbers = torch.arange(examples)
    pieces = list(micro_batches((numbers, -numbers), size))
    assert [len(images) for (images, _), _ in pieces] == expected
    assert torch.cat([images for (images, _), _ in pieces]).tolist() == numbers.tolist()
    assert all(torch.equal(images, -labels) for (images, labels), _ in pieces)
    assert [last for _, last in pieces] == [False] * (len(expected) - 1) + [True]


@pytest.mark.parametrize(("batch_size", "micro_batch", "workers"), [(5, 4, 1), (7, 2, 2), (6, 2, 3)])
def test_whatever_settings_are_taken_batch_normalisation_gets_through_a_step(batch_size, micro_batch, workers):
    config = replace(CONFIG, batch_size=batch_size, micro_batch=micro_batch, workers=workers)
    net = nn.Sequential(nn.Conv2d(3, 3, 224), nn.BatchNorm2d(3), nn.ConvTranspose2d(3, 3, 224))  # as fc6: one value
    for rank in range(workers):
        batch = some_batches(1, share_of_batch(config.batch_size, rank, workers))
        assert train(net, torch.optim.SGD(net.parameters(), 0.0), batch, config.micro_batch).crops == len(batch[0][0])
    for refused in ({"micro_batch": 1}, {"batch_size": 2 * workers - 1}):
        with pytest.raises(ConfigError, match=r"must be at least 2"):
            replace(config, **refused)


def coloured(labels: list[int]):
    """Windows of one colour each, labelled by it, so that a crop is like any other."""
    numbers = torch.tensor(labels, dtype=torch.uint8)
    return (60 * numbers).view(-1, 1, 1, 1).expand(-1, 3, 250, 250), numbers.view(-1, 1, 1).expand(-1, 250, 250)


def test_micro_batches_give_the_step_of_the_whole_batch():
    ends = []
    for micro_batch in (5, 3, 2):
        net = Tiny()
        net.load_state_dict(
            {"score.weight": torch.full((3, 3, 1, 1), 0.1, dtype=torch.float64), "score.bias": torch.zeros(3)}
        )
        train(net, torch.optim.SGD(net.parameters(), 0.1, 0.9), [coloured([0, 1, 2, 2, 1])] * 2, micro_batch)
        ends.append(net.score.weight.detach().clone())
    assert (ends[0] - 0.1).abs().min() > 1e-3
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], atol=0, rtol=1e-9)


def test_the_loss_of_a_pass_is_the_mean_over_windows_and_goes_on_where_one_worker_counted():
    net = Tiny()
    net.score.bias.data = torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64)
    images, labels = coloured([0, 0, 0, 1])
    meter = Meter(net, FEED)
    for part in (slice(0, 3), slice(3, 4)):
        meter.count(net, images[part] * 0, labels[part])
    right = math.log(math.exp(2) + 2) - 2
    assert meter.metrics().loss == pytest.approx((3 * right + right + 2) / 4, rel=1e-5)
    resumed = [Meter(net, replace(FEED, rank=rank), meter.totals()) for rank in (0, 1)]
    assert [one.totals()["loss_and_crops"][1] for one in resumed] == [4, 0]  # all workers add theirs up
    assert [np.sum(one.totals()["confusion"]) for one in resumed] == [4 * 250 * 250, 0]


def test_metrics_count_what_the_network_says():
    net = Tiny()
    net.score.bias.data = torch.tensor([0.0, 5.0, 0.0], dtype=torch.float64)  # always says class 1
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
    with pytest.raises(TrainingError, match="loss is nan"):
        train(net, torch.optim.SGD(net.parameters(), 0.1), some_batches(1), 4)
    assert not net.score.weight.any()  # the weights are those before that step


def test_an_exploding_loss_stops_the_training_and_a_spike_does_not():
    health = Health(num_classes=21)  # ten times ln(21) is 30.4
    for loss in [3.0] * 30 + [1e6] + [3.0, 1e6, 29.0] * 20 + [3.0] * 20:
        health.check(loss)
    for _ in range(EXPLODED_STEPS // 2):
        health.check(31.0)
    with pytest.raises(TrainingError, match="exploded"):
        health.check(31.0)


def test_an_empty_training_set_says_so():
    with pytest.raises(TrainingError, match="no examples"):
        validate(Tiny(), [], feed=FEED)


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 64])
def test_shares_of_a_batch_add_up(workers):
    shares = [share_of_batch(64, rank, workers) for rank in range(workers)]
    assert sum(shares) == 64
    assert max(shares) - min(shares) <= 1


def test_new_statistics_are_the_mean_over_the_micro_batches():
    net = nn.Sequential(nn.BatchNorm2d(3))
    net[0].weight.data = torch.tensor([2.0, 3.0, 4.0])
    colours = torch.randint(0, 256, (8, 3, 1, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    batch = (colours.expand(8, 3, 250, 250), torch.zeros(8, 250, 250, dtype=torch.uint8))  # crops change nothing
    momentum = net[0].momentum
    feed = Feed(Preprocessing(mean=(0, 0, 0), std=(1, 1, 1)), num_classes=3)
    assert recompute_statistics(net, [batch], feed=feed, micro_batch=3, seed=0) == 8
    values = colours.double().view(8, 3)
    pieces = [values[0:3], values[3:6], values[6:8]]
    means = torch.stack([piece.mean(0) for piece in pieces]).mean(0)
    variances = torch.stack([piece.var(0, correction=0) for piece in pieces]).mean(0)  # N or N - 1: of 50,176 pixels
    assert net[0].running_mean.tolist() == pytest.approx(means.tolist(), rel=2e-3)
    assert net[0].running_var.tolist() == pytest.approx(variances.tolist(), rel=2e-3)
    assert net[0].weight.tolist() == [2, 3, 4]
    assert net[0].momentum == momentum
    assert not net.training
