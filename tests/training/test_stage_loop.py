"""The loop of a stage: stopped and resumed, on several workers, and learning; without Ray."""

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
from conftest import free_port
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.config import TrainConfig
from pipeline.errors import TrainingError
from pipeline.imaging.images import decode_image, decode_mask
from pipeline.models.checkpoint import CheckpointInfo, Preprocessing
from pipeline.models.deconvnet import DeconvNet
from pipeline.models.initialise import initialise
from pipeline.training.loop.metrics import Feed, Meter
from pipeline.training.loop.optimizer import make_optimizer, make_schedule
from pipeline.training.loop.progress import ThroughputLog
from pipeline.training.loop.stage import Hooks, train_stage
from pipeline.training.loop.state import TrainState, check_weights, load_state, save_state
from pipeline.training.loop.steps import Step, share_of_batch, train_steps, validate
from pipeline.training.windows.cut import cut_window
from pipeline.training.windows.order import IMAGES_A_BLOCK, blocks, epoch_rows, examples_of, first_rows

torch.set_num_threads(1)
WIDTH = 1 / 32
INFO = CheckpointInfo(("background", "a", "b"), WIDTH)
CONFIG = TrainConfig(
    "set", "run", epochs=(3, 1), batch_size=2, micro_batch=2, learning_rate=0.02, checkpoint_minutes=0,
    bias_lr_factor=2.0, plateau_patience=0,
)  # fmt: skip
EXAMPLES = 6


class Killed(BaseException):
    """Ends a run where a signal would."""


def windows(count, seed):
    """Windows of one colour each, labelled by it, so that a crop is like any other."""
    labels = torch.randint(0, 3, (count,), generator=torch.Generator().manual_seed(seed))
    noise = torch.randint(0, 40, (count, 3, 1, 1), generator=torch.Generator().manual_seed(seed + 1))
    colours = (60 * labels.view(count, 1, 1, 1) + noise).to(torch.uint8)
    return colours.expand(count, 3, 250, 250), labels.to(torch.uint8).view(count, 1, 1).expand(count, 250, 250)


def new_learner(config: TrainConfig) -> TrainState:
    net = DeconvNet(3, WIDTH)
    initialise(net, 0)
    net = net.to(memory_format=torch.channels_last)  # as the workers have it
    optimizer = make_optimizer(net, config)
    return TrainState(net, INFO, optimizer, make_schedule(optimizer, config, 1))


def train(
    folder: Path, config: TrainConfig, kill_at: int | None = None, stepped: Callable[[Step], None] = lambda _: None
) -> TrainState:
    """Train a stage with its checkpoints in `folder`, from the last one there; die at a checkpoint if told so."""
    state = new_learner(config)
    if (folder / "progress.json").exists():
        load_state(folder, state)
    saves = 0

    def save():
        nonlocal saves
        saves += 1
        if saves == kill_at:
            raise Killed
        save_state(folder, state)

    def epoch_from(epoch, seen):
        images, labels = windows(EXAMPLES, 10 * epoch)
        return ((images[i : i + 2], labels[i : i + 2]) for i in range(seen, EXAMPLES, 2))

    hooks = Hooks(
        train=epoch_from, val=lambda: iter([windows(2, 99)]), save=save, validated=lambda line: None,
        log=lambda line: None, examples=EXAMPLES, stepped=stepped,
    )  # fmt: skip
    train_stage(state, state.net, config=config, stage=1, feed=Feed(Preprocessing(), 3), hooks=hooks)
    return state


@pytest.mark.parametrize(
    ("schedule", "every", "crops"),
    [
        pytest.param("plateau", None, [6, 6, 4], marks=pytest.mark.slow),
        ("plateau", 2, [4, 2, 2, 4, 4]),
        pytest.param("steps", None, [6, 6, 4], marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_within_an_epoch_and_resumed_is_the_undisturbed_run(tmp_path, schedule, every, crops):
    config = replace(CONFIG, schedule=schedule, lr_steps=(2, 2), iterations=(8, 8), validate_every=every)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    undisturbed = train(whole, config)
    for kill_at in (3, 2):  # two steps of the first epoch are kept; then one more
        with pytest.raises(Killed):
            train(broken, config, kill_at)
    resumed = train(broken, config)
    for progress in (undisturbed.progress, resumed.progress):
        assert [line["train"]["crops"] for line in progress.history] == crops  # of eight steps
        for line in progress.history:
            line.pop("seconds")
    assert resumed.progress.history == undisturbed.progress.history
    assert resumed.progress.iterations == 8
    assert resumed.optimizer.param_groups[1]["lr"] == 2 * resumed.optimizer.param_groups[0]["lr"]
    # Nothing differs, so nothing is there that rounding could amplify.
    expected = undisturbed.net.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.net.state_dict().items())
    assert not any(file.suffix in (".pt", ".pth", ".pkl") for file in broken.iterdir())


def test_the_plateau_looks_every_so_many_steps_and_at_the_end_of_an_epoch(tmp_path):
    """Epochs of three steps. What the learning rate does follows from the accuracies alone."""
    config = replace(CONFIG, epochs=(3, 1), validate_every=2, plateau_patience=1, min_learning_rate=1e-9)
    state = train(tmp_path, config)
    history = state.progress.history
    assert [(line["epoch"], line["steps"]) for line in history] == [(0, 2), (0, 3), (1, 4), (1, 6), (2, 8), (2, 9)]
    assert [line["train"]["crops"] for line in history] == [4, 2, 2, 4, 4, 2]
    assert (state.progress.epochs, state.progress.iterations, state.progress.seen) == (3, 9, 0)
    best, without, rate = -1.0, 0, 0.02
    for line in history:
        assert line["learning_rate"] == pytest.approx(rate)
        accuracy = line["val"]["pixel_accuracy"]
        best, without = (accuracy, 0) if accuracy > best * (1 + 1e-4) else (best, without + 1)
        if without > 1:
            rate, without = rate / 10, 0
    assert state.optimizer.param_groups[0]["lr"] == pytest.approx(rate)
    assert rate < 0.02  # it fell: six looks at a network that learns nothing more


def test_each_step_is_told_with_its_loss(tmp_path):
    told: list[Step] = []
    state = train(tmp_path, replace(CONFIG, epochs=(2, 1)), stepped=told.append)
    assert [step.examples for step in told] == [2] * 6
    for line, steps in zip(state.progress.history, (told[:3], told[3:]), strict=True):
        assert line["train"]["loss"] == pytest.approx(sum(step.loss for step in steps) / 3)


def test_a_stage_ends_within_an_epoch_when_the_rate_falls_below_the_least(tmp_path):
    config = replace(CONFIG, epochs=(9, 1), validate_every=1, min_learning_rate=0.003)
    state = train(tmp_path, config)
    last = state.progress.history[-1]
    assert last["learning_rate"] == pytest.approx(0.02)
    assert state.optimizer.param_groups[0]["lr"] == pytest.approx(0.002)
    assert state.progress.iterations == last["steps"] < 27


def strides(tensor):
    """Where the elements lie; of an axis with one element the stride means nothing."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


@pytest.mark.parametrize("schedule", [pytest.param("plateau", marks=pytest.mark.slow), "steps"])
def test_a_checkpoint_restores_all_that_the_next_step_needs(tmp_path, schedule):
    config = replace(CONFIG, schedule=schedule, lr_steps=(2, 2), iterations=(4, 4))
    stopped, restored = train(tmp_path, config), new_learner(config)
    # A count that float32 does not hold, as of an epoch that was stopped in the middle.
    stopped.progress.counted = {"loss_and_crops": [100 / 3, 6.0], "confusion": [[2**40 + 1, 2, 3]] * 3}
    save_state(tmp_path, stopped)
    load_state(tmp_path, restored)
    assert restored.progress == stopped.progress
    assert restored.schedule.state_dict() == stopped.schedule.state_dict()
    assert Meter(restored.net, Feed(Preprocessing(), 3), restored.progress.counted).totals() == stopped.progress.counted
    assert restored.net.fc6.bn.num_batches_tracked == 4
    before, after = stopped.net.state_dict(), restored.net.state_dict()
    for (name, p), q in zip(stopped.net.named_parameters(), restored.net.parameters(), strict=True):
        state, again = stopped.optimizer.state[p], restored.optimizer.state[q]
        assert set(state) == set(again) == {"momentum_buffer"}
        before[f"{name}: momentum"], after[f"{name}: momentum"] = state["momentum_buffer"], again["momentum_buffer"]
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
        assert tensor.dtype == after[name].dtype, name
        assert strides(tensor) == strides(after[name]), name  # else the same step may round in another way
    for group, again in zip(stopped.optimizer.param_groups, restored.optimizer.param_groups, strict=True):
        assert {**group, "params": None} == {**again, "params": None}


def test_weights_that_are_no_numbers_are_not_kept():
    net = DeconvNet(3, WIDTH)
    check_weights(net)
    net.seg_score.bias.data[1] = float("inf")
    with pytest.raises(TrainingError, match="not a finite number"):
        check_weights(net)


class Tiny(nn.Module):
    """A 1x1 convolution: without batch normalisation, workers must take exactly the step of one.

    In float64: each processor adds up a window's 50,000 pixels in an order of its own.
    """

    def __init__(self):
        super().__init__()
        self.score = nn.Conv2d(3, 3, 1, dtype=torch.float64)
        nn.init.constant_(self.score.weight, 0.1)
        nn.init.zeros_(self.score.bias)

    def forward(self, x):
        return self.score(x.double())


def steps_of_worker(rank: int, workers: int, port: int, target: Path) -> None:
    """Three steps of batches of 5, of which this worker has its share; worker 0 of two has a batch too many."""
    if workers > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
        dist.init_process_group("gloo", rank=rank, world_size=workers)
    torch.set_num_threads(1)

    def add(tensor):
        if workers > 1:
            dist.all_reduce(tensor)
        return tensor

    starts = np.cumsum([0] + [share_of_batch(5, r, workers) for r in range(workers)])
    mine = slice(starts[rank], starts[rank + 1])
    batches = [(images[mine], labels[mine]) for images, labels in (windows(5, seed) for seed in range(4))]
    if rank < workers - 1 or workers == 1:
        batches = batches[:3]
    net = Tiny()
    model = DistributedDataParallel(net) if workers > 1 else net
    feed = Feed(Preprocessing(), 3, rank=rank, workers=workers, reduce=add)
    meter = Meter(net, feed)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9)
    losses = [
        step.loss for step in train_steps(model, optimizer, batches, feed=feed, meter=meter, micro_batch=2, seed=(0,))
    ]
    metrics = meter.metrics()
    if rank == 0:
        torch.save({"weight": net.score.weight.detach(), "losses": losses, "crops": metrics.crops}, target)


@pytest.mark.slow
def test_two_workers_take_the_steps_of_one(tmp_path):
    steps_of_worker(0, 1, 0, tmp_path / "one")
    port, spawn = free_port(), multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=steps_of_worker, args=(r, 2, port, tmp_path / "two")) for r in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one", "two"))
    assert one["crops"] == two["crops"] == 15
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-9)
    torch.testing.assert_close(two["weight"], one["weight"], rtol=1e-9, atol=0)


def index(repeats):
    return pa.table({"image_uri": [str(i) for i in range(len(repeats))], "repeats": pa.array(repeats),
                     "class_ids": pa.array([[1] * len(r) for r in repeats])})  # fmt: skip


def test_an_epoch_has_its_own_order_and_skips_what_was_seen():
    rng = np.random.default_rng(0)
    table = index([rng.integers(1, 4, rng.integers(1, 4)).tolist() for _ in range(40)])
    whole = epoch_rows(table, seed=1, epoch=2, seen=0)
    assert sorted(whole["image_uri"].to_pylist(), key=int) == table["image_uri"].to_pylist()
    assert whole.equals(epoch_rows(table, seed=1, epoch=2, seen=0))
    assert not whole.equals(epoch_rows(table, seed=1, epoch=3, seen=0))
    shown = [sum(r) for r in whole["repeats"].to_pylist()]
    assert examples_of(table) == sum(shown)
    for rows in (0, 1, 7, 40):
        for extra in (0, 1) if rows < 40 and shown[rows] > 1 else (0,):
            left = epoch_rows(table, seed=1, epoch=2, seen=sum(shown[:rows]) + extra)
            assert left.equals(whole.slice(rows))
    pieces = blocks(whole)
    assert pa.concat_tables(pieces).equals(whole)
    assert max(len(piece) for piece in pieces) == IMAGES_A_BLOCK
    assert [len(piece) for piece in blocks(whole.slice(40))] == [0]


def test_the_first_rows_hold_enough_windows():
    table = index([[1], [1, 1], [1], [1]])
    assert [len(first_rows(table, windows)) for windows in (1, 2, 3, 4, 5, 9)] == [1, 2, 2, 3, 4, 4]


def test_a_line_a_minute_says_rate_and_time_left():
    throughput = ThroughputLog("epoch 3", 100_000, seen=20_000, now=1000.0)
    assert throughput.line(21_000, 0.5, 1059.0) is None
    line = throughput.line(26_000, 0.5, 1060.0)  # 6,000 in a minute, 74,000 left
    assert line == "epoch 3: 26,000 of 100,000 examples, loss 0.500, 100.0 examples/s, 12 min left"
    assert throughput.line(27_000, 0.5, 1119.0) is None
    assert "2 h 0 min left" in str(ThroughputLog("e", 7_260, 0, now=0.0).line(60, 0.5, 60.0))


@pytest.mark.skipif("DECONVNET_OVERFIT" not in os.environ, reason="eight minutes of a core; DECONVNET_OVERFIT=1")
def test_from_scratch_it_overfits_to_eight_photographs(voc):
    images, labels = [], []
    for name in (voc / "ImageSets" / "Segmentation" / "train.txt").read_text().split()[:8]:
        image = decode_image((voc / "JPEGImages" / f"{name}.jpg").read_bytes(), 10)
        mask = decode_mask((voc / "SegmentationClass" / f"{name}.png").read_bytes())
        window, label = cut_window(image, mask, np.array([0, 0, mask.shape[1], mask.shape[0]]))
        images.append(window)
        labels.append(label)
    eight = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.from_numpy(np.stack(labels))
    net = DeconvNet(21, 0.125).to(memory_format=torch.channels_last)
    initialise(net, 0)
    feed = Feed(Preprocessing(), 21, torch.bfloat16)
    optimizer = make_optimizer(net, replace(CONFIG, learning_rate=0.03, bias_lr_factor=1.0))
    reached = []
    for epoch in range(40):
        meter = Meter(net, feed)
        for _ in train_steps(net, optimizer, [eight] * 25, feed=feed, meter=meter, micro_batch=8, seed=(0, epoch)):
            pass
        reached.append(validate(net, [eight], feed=feed).pixel_accuracy)
        if reached[-1] >= 0.92:
            break
    assert max(reached) >= 0.9, reached  # background alone is 0.73
