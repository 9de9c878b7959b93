"""What each worker of Ray Train runs: the loop of a stage, or batch normalisation's statistics."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from ray.train.torch import get_device, prepare_model
from torch import Tensor, nn

from pipeline import storage
from pipeline.config import TrainConfig
from pipeline.config.training import TrainingStage
from pipeline.errors import TrainingError
from pipeline.models.checkpoint import Checkpoint, CheckpointInfo, dump_checkpoint, load_checkpoint, set_norm_eps
from pipeline.report.curves import write_curves, write_events
from pipeline.run.worker_lines import say
from pipeline.training.loop.bn_statistics import recompute_statistics
from pipeline.training.loop.metrics import Feed
from pipeline.training.loop.optimizer import make_optimizer, make_schedule
from pipeline.training.loop.stage import Hooks, train_stage
from pipeline.training.loop.state import Look, TrainState, load_state, save_state
from pipeline.training.loop.steps import Batch, Step, share_of_batch, validate
from pipeline.training.loop.window_sheet import some_windows, write_sheet
from pipeline.training.ray.metrics import TrainingMetrics
from pipeline.training.ray.shares import my_share, training_batches, validation_batches
from pipeline.training.seeds import seed_of
from pipeline.training.windows.index import index_uri, read_index
from pipeline.training.windows.packing import POOL


def best_uri(output: str, stage: TrainingStage) -> str:
    """Address of the best network of a stage so far."""
    return storage.join(output, f"stage{stage}_best.safetensors")


def train_worker(loop: dict[str, Any]) -> str | None:
    """Train a stage, from the last checkpoint of the same run if there is one.

    Returns:
        None, or why the training cannot go on. It is returned, not raised, because Ray Train would try again.
    """
    config: TrainConfig = loop["config"]
    stage: TrainingStage = loop["stage"]
    torch.set_num_threads(loop["threads"])
    state = _learner(config, stage, load_checkpoint(storage.read_bytes(loop["start_uri"]), loop["start_uri"]))
    model = prepare_model(state.net)
    if config.compile:
        model.compile()
    feed = _feed(config, state.info)
    try:
        train_stage(state, model, config=config, stage=stage, feed=feed, hooks=_surroundings(loop, state, feed))
    except TrainingError as error:
        return str(error)
    return None


def _learner(config: TrainConfig, stage: TrainingStage, start: Checkpoint) -> TrainState:
    net: nn.Module = start.net
    set_norm_eps(net, config.norm_eps)
    if config.sync_bn:
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    # Channels last: 1.7 times faster on a CPU (width 1/8, bfloat16); on a GPU not compared for this network.
    net = net.to(get_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(net, config)
    info = replace(start.info, norm_eps=config.norm_eps)
    state = TrainState(net, info, optimizer, make_schedule(optimizer, config, stage))  # type: ignore[arg-type]
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            load_state(Path(folder), state)
    return state


def _feed(config: TrainConfig, info: CheckpointInfo) -> Feed:
    context = ray.train.get_context()
    autocast = torch.bfloat16 if config.precision == "bfloat16" else None
    rank, workers = context.get_world_rank(), context.get_world_size()
    return Feed(info.preprocessing, info.num_classes, autocast, rank, workers, _sum_over_workers)


def _sum_over_workers(tensor: Tensor) -> Tensor:
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def _surroundings(loop: dict[str, Any], state: TrainState, feed: Feed) -> Hooks:
    config: TrainConfig = loop["config"]
    stage: TrainingStage = loop["stage"]
    shown = metrics = None
    if feed.rank == 0:
        metrics = TrainingMetrics(config.output, f"stage{stage}")
        shown = some_windows(read_index(index_uri(config.training_set, stage, "val")), stage)

    def validated(line: Look) -> None:
        if feed.rank != 0:
            return
        history = state.progress.history  # this validation is its last entry
        if all(line.val.pixel_accuracy > one["val"]["pixel_accuracy"] for one in history[:-1]):
            storage.write_atomic(best_uri(config.output, stage), dump_checkpoint(state.net, state.info))
        write_curves(config.output, {**loop["earlier"], f"stage{stage}": history})
        write_events(config.output, stage, asdict(line))
        if shown is not None:
            name = f"stage{stage}_epoch{line.epoch:03}.png"
            write_sheet(storage.join(config.output, "windows", name), state.net, shown, feed)
        say(describe(stage, line))

    def stepped(step: Step) -> None:
        progress = state.progress
        if metrics is not None:
            seen = progress.history[-1]["val"]["mean_iou"] if progress.history else None
            metrics.see(progress.iterations, step.examples, step.loss, epoch=progress.epochs, mean_iou=seen)

    return Hooks(
        train=partial(_train_batches, loop, feed),
        val=partial(validation_batches, my_share(loop["sharder"], "val"), config.micro_batch),
        save=partial(_report, state, feed.rank),
        validated=validated,
        log=say,
        examples=loop["examples"],
        stepped=stepped,
    )


def _train_batches(loop: dict[str, Any], feed: Feed, epoch: int, seen: int) -> Iterator[Batch]:
    config: TrainConfig = loop["config"]
    size = share_of_batch(config.batch_size, feed.rank, feed.workers)
    seed = seed_of(config.seed, loop["stage"], epoch, seen, feed.rank) % 2**32
    share = my_share(loop["sharder"], "train", epoch=epoch, seen=seen)
    return training_batches(share, size, max(POOL, size), seed)


def _report(state: TrainState, rank: int) -> None:
    """Store a checkpoint; returns when all workers have called it."""
    progress = state.progress
    position = {"epoch": progress.epochs, "steps": progress.iterations, "seen": progress.seen}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if rank == 0:
            save_state(Path(folder), state)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(position, checkpoint=checkpoint)


def renew_statistics(loop: dict[str, Any]) -> dict[str, Any] | None:
    """Recompute batch normalisation's statistics; see `stage.run_statistics`."""
    config: TrainConfig = loop["config"]
    torch.set_num_threads(loop["threads"])
    start = load_checkpoint(storage.read_bytes(loop["network_uri"]), loop["network_uri"])
    net = start.net.to(get_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    feed = _feed(config, start.info)
    val = my_share(loop["sharder"], "val")
    before = validate(net, validation_batches(val, config.micro_batch), feed=feed)
    batches = _train_batches(loop, feed, 0, 0)
    wanted = itertools.islice(batches, -(-config.bn_statistics // config.batch_size))
    windows = recompute_statistics(net, wanted, feed=feed, micro_batch=config.micro_batch, seed=config.seed)
    after = validate(net, validation_batches(val, config.micro_batch), feed=feed)
    storage.write_atomic(loop["target_uri"], dump_checkpoint(net, start.info))
    say(
        f"batch normalisation's statistics over {windows} windows: accuracy on validation windows "
        f"{before.pixel_accuracy:.3f} before, {after.pixel_accuracy:.3f} after; mean IoU {before.mean_iou:.3f}, "
        f"{after.mean_iou:.3f}"
    )
    return {"windows": windows, "before": asdict(before), "after": asdict(after)}


def describe(stage: TrainingStage, line: Look) -> str:
    """A line about a validation and the training before it."""
    return (
        f"stage {stage} epoch {line.epoch}, step {line.steps:,}: lr {line.learning_rate:g}, loss {line.train.loss:.3f} "
        f"(val {line.val.loss:.3f}), accuracy {line.train.pixel_accuracy:.3f} (val {line.val.pixel_accuracy:.3f}), "
        f"mean IoU {line.train.mean_iou:.3f} (val {line.val.mean_iou:.3f}), "
        f"{line.train.crops / line.seconds:.0f} examples/s"
    )
