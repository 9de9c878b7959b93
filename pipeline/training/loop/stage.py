"""The loop of one stage: epochs of steps and validation, and when a checkpoint is due. Plain torch, no Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from pipeline.config import TrainConfig
from pipeline.training.loop.metrics import Feed, Tally
from pipeline.training.loop.progress import Pace
from pipeline.training.loop.state import Learner, Look, check_weights
from pipeline.training.loop.steps import Batch, train_steps, validate
from pipeline.training.windows.examples import Stage


@dataclass(frozen=True)
class Surroundings:
    """What the loop needs from outside."""

    train: Callable[[int, int], Iterator[Batch]]
    """This worker's shares of an epoch's batches, from a position on: epoch and examples seen to batches."""
    val: Callable[[], Iterator[Batch]]
    """This worker's share of the validation windows."""
    save: Callable[[], None]
    """Keeps a checkpoint of the learner."""
    validated: Callable[[Look], None]
    """Hears of a validation before its checkpoint is kept."""
    tell: Callable[[str], None]
    """Says a line to people."""
    examples: int
    """In an epoch, over all workers."""


def train_stage(
    learner: Learner, model: nn.Module, *, config: TrainConfig, stage: Stage, feed: Feed, around: Surroundings
) -> None:
    """Train until the epochs, the iterations or the learning rate end the stage, from where `learner` is.

    Args:
        learner: the network and its state; changed in place.
        model: what runs in training: the network itself or DistributedDataParallel around it.
        config: the settings.
        stage: 1 or 2.
        feed: how the network is fed.
        around: where windows come from and checkpoints go to.

    Raises:
        TrainingError: the loss is no number any more, or exploded; the same on all workers.
    """
    while not _over(learner, config, stage):
        _rest_of_epoch(learner, model, config=config, stage=stage, feed=feed, around=around)


def _over(learner: Learner, config: TrainConfig, stage: Stage) -> bool:
    progress = learner.progress
    return (
        progress.epochs >= config.epochs[stage - 1]
        or (config.iterations is not None and progress.iterations >= config.iterations[stage - 1])
        or learner.optimizer.param_groups[0]["lr"] < config.min_learning_rate
    )


def _rest_of_epoch(
    learner: Learner, model: nn.Module, *, config: TrainConfig, stage: Stage, feed: Feed, around: Surroundings
) -> None:
    """Train to the end of an epoch or of the stage, with the validations and checkpoints that are due meanwhile."""
    progress = learner.progress
    tally = Tally(model, feed, progress.counted)
    pace = Pace(f"stage {stage} epoch {progress.epochs}", around.examples, progress.seen)
    before, started = progress.seconds, time.perf_counter()
    saved = started
    steps = train_steps(
        model, learner.optimizer, around.train(progress.epochs, progress.seen), feed=feed, tally=tally,
        micro_batch=config.micro_batch, seed=(config.seed, stage, progress.epochs), seen=progress.seen,
        due=lambda: time.perf_counter() - saved >= 60 * config.checkpoint_minutes,
    )  # fmt: skip
    for step in steps:
        progress.iterations += 1
        progress.seen += step.examples
        progress.seconds = before + time.perf_counter() - started
        if isinstance(learner.schedule, StepLR):
            learner.schedule.step()
        line = pace.line(progress.seen, step.loss, time.perf_counter())
        if line is not None and feed.rank == 0:
            around.tell(line)
        if config.validate_every is not None and progress.iterations % config.validate_every == 0:
            _look(learner, tally, feed=feed, around=around)
            around.save()
            model.train()
            before, started = 0.0, time.perf_counter()
            saved = started
        elif step.due:
            check_weights(learner.net)
            _share_buffers(learner.net)
            progress.counted = tally.totals()
            around.save()
            saved = time.perf_counter()
        if _over(learner, config, stage):
            break
    looked = progress.seen and progress.history and progress.history[-1]["steps"] == progress.iterations
    if not looked:
        _look(learner, tally, feed=feed, around=around)
    progress.epochs, progress.seen = progress.epochs + 1, 0
    around.save()


def _look(learner: Learner, tally: Tally, *, feed: Feed, around: Surroundings) -> None:
    """Validate, let a plateau's schedule know, and begin to count anew."""
    progress = learner.progress
    trained, rate = tally.metrics(), learner.optimizer.param_groups[0]["lr"]
    _share_buffers(learner.net)
    validated = validate(learner.net, around.val(), feed=feed)
    if isinstance(learner.schedule, ReduceLROnPlateau):
        learner.schedule.step(validated.pixel_accuracy)
    line = Look(progress.epochs, progress.iterations, rate, progress.seconds, trained, validated)
    progress.history.append(asdict(line))
    progress.seconds, progress.counted = 0.0, None
    tally.reset()
    check_weights(learner.net)
    around.validated(line)


def _share_buffers(net: nn.Module) -> None:
    """Give all workers the running statistics of worker 0, which are those of the checkpoint."""
    if dist.is_initialized():
        with torch.no_grad():
            for buffer in net.buffers():
                dist.broadcast(buffer, 0)
