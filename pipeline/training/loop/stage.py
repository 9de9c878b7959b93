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
from pipeline.config.training import TrainingStage
from pipeline.training.loop.metrics import Feed, Meter
from pipeline.training.loop.progress import ThroughputLog
from pipeline.training.loop.state import Look, TrainState, check_weights
from pipeline.training.loop.steps import Batch, Step, train_steps, validate


@dataclass(frozen=True)
class Hooks:
    """What the loop needs from outside."""

    train: Callable[[int, int], Iterator[Batch]]
    """This worker's shares of an epoch's batches, given the epoch and the examples seen before."""
    val: Callable[[], Iterator[Batch]]
    """This worker's share of the validation windows."""
    save: Callable[[], None]
    """Stores a checkpoint of the training state."""
    validated: Callable[[Look], None]
    """Called after a validation, before its checkpoint is stored."""
    log: Callable[[str], None]
    """Prints a line for people."""
    examples: int
    """Examples in an epoch, over all workers."""
    stepped: Callable[[Step], None] = lambda _step: None
    """Called after each step."""


def train_stage(
    state: TrainState, model: nn.Module, *, config: TrainConfig, stage: TrainingStage, feed: Feed, hooks: Hooks
) -> None:
    """Train from the position of `state` until the epochs, the iterations or the learning rate end the stage.

    Args:
        state: the network and its state; changed in place.
        model: the network itself, or DistributedDataParallel around it.
        config: the settings.
        stage: 1 or 2.
        feed: how the network is fed.
        hooks: where windows come from and checkpoints go to.

    Raises:
        TrainingError: the loss is no longer a finite number, or exploded; all workers raise it.
    """
    while not _over(state, config, stage):
        _rest_of_epoch(state, model, config=config, stage=stage, feed=feed, hooks=hooks)


def _over(state: TrainState, config: TrainConfig, stage: TrainingStage) -> bool:
    progress = state.progress
    return (
        progress.epochs >= config.epochs[stage - 1]
        or (config.iterations is not None and progress.iterations >= config.iterations[stage - 1])
        or state.optimizer.param_groups[0]["lr"] < config.min_learning_rate
    )


def _rest_of_epoch(
    state: TrainState, model: nn.Module, *, config: TrainConfig, stage: TrainingStage, feed: Feed, hooks: Hooks
) -> None:
    """Train to the end of an epoch or of the stage, with the validations and checkpoints that are due meanwhile."""
    progress = state.progress
    meter = Meter(model, feed, progress.counted)
    throughput = ThroughputLog(f"stage {stage} epoch {progress.epochs}", hooks.examples, progress.seen)
    before, started = progress.seconds, time.perf_counter()
    saved = started
    steps = train_steps(
        model, state.optimizer, hooks.train(progress.epochs, progress.seen), feed=feed, meter=meter,
        micro_batch=config.micro_batch, seed=(config.seed, stage, progress.epochs), seen=progress.seen,
        due=lambda: time.perf_counter() - saved >= 60 * config.checkpoint_minutes,
    )  # fmt: skip
    for step in steps:
        progress.iterations += 1
        progress.seen += step.examples
        progress.seconds = before + time.perf_counter() - started
        if isinstance(state.schedule, StepLR):
            state.schedule.step()
        line = throughput.line(progress.seen, step.loss, time.perf_counter())
        if line is not None and feed.rank == 0:
            hooks.log(line)
        hooks.stepped(step)
        if config.validate_every is not None and progress.iterations % config.validate_every == 0:
            _look(state, meter, feed=feed, hooks=hooks)
            hooks.save()
            model.train()
            before, started = 0.0, time.perf_counter()
            saved = started
        elif step.due:
            check_weights(state.net)
            _share_buffers(state.net)
            progress.counted = meter.totals()
            hooks.save()
            saved = time.perf_counter()
        if _over(state, config, stage):
            break
    looked = progress.seen and progress.history and progress.history[-1]["steps"] == progress.iterations
    if not looked:
        _look(state, meter, feed=feed, hooks=hooks)
    progress.epochs, progress.seen = progress.epochs + 1, 0
    hooks.save()


def _look(state: TrainState, meter: Meter, *, feed: Feed, hooks: Hooks) -> None:
    """Validate, step a plateau's schedule, and start counting from 0 again."""
    progress = state.progress
    trained, rate = meter.metrics(), state.optimizer.param_groups[0]["lr"]
    _share_buffers(state.net)
    validated = validate(state.net, hooks.val(), feed=feed)
    if isinstance(state.schedule, ReduceLROnPlateau):
        state.schedule.step(validated.pixel_accuracy)
    line = Look(progress.epochs, progress.iterations, rate, progress.seconds, trained, validated)
    progress.history.append(asdict(line))
    progress.seconds, progress.counted = 0.0, None
    meter.reset()
    check_weights(state.net)
    hooks.validated(line)


def _share_buffers(net: nn.Module) -> None:
    """Give all workers the running statistics of worker 0, which are those of the checkpoint."""
    if dist.is_initialized():
        with torch.no_grad():
            for buffer in net.buffers():
                dist.broadcast(buffer, 0)
