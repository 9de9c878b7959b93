"""The light networks' training on Ray Train: workers read the photographs; it returns checkpoints and history."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import safetensors.torch
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import get_device, prepare_model
from torch import Tensor, nn

from pipeline import storage
from pipeline.config.fcn import TrainFcnConfig
from pipeline.datasets.layouts import Pair
from pipeline.errors import TrainingError
from pipeline.evaluation.metrics import mean_iou, per_class_iou, pixel_accuracy
from pipeline.models.checkpoint import dump_state_dict
from pipeline.models.efficientnet import INPUT, fold
from pipeline.models.litefcn import LiteFCN, fed_size
from pipeline.models.members import Member
from pipeline.report.fcn_curves import write_curves
from pipeline.run.worker_lines import say
from pipeline.training.fcn.crops import Draw, cut, draw_of, rng_of
from pipeline.training.fcn.loop import (
    Batch,
    Config,
    Hooks,
    Training,
    by_turns,
    load_training,
    new_training,
    save_training,
    train,
)
from pipeline.training.fcn.photographs import load, looked_at
from pipeline.training.loop.metrics import confusion_of
from pipeline.training.ray.metrics import TrainingMetrics
from pipeline.training.ray.run import Workers, run_workers

Cut = Callable[[Any, int, NDArray[np.uint8], NDArray[np.uint8], int, np.random.Generator], tuple[Any, Any]]
LOOKED_AT = 64
"""Photographs that one task checks."""
READERS = 4
"""Threads of a worker that read its crops, at least; with a remote store, reading is mostly waiting."""


@dataclass(frozen=True)
class Method:
    """The parts of a training that depend on the network, as functions of modules, since they are sent to workers."""

    network: Callable[[Any, int], nn.Module]
    """An untrained network, from the settings and the number of classes."""
    begin: Callable[[Any, Any], Training]
    """A new run, from a network and the settings."""
    cut: Cut
    """Crop and labels, from the settings, a step, a photograph, its mask, a label and the randomness."""
    loss: Callable[[Any, Any, Tensor, int], Tensor]
    """As `Hooks.loss`, with the settings first."""
    scorer: Callable[[Any, Any], Callable[[Tensor], Tensor]]
    """A function from whole photographs to scores `[C, H, W]`, from a network and the settings."""


@dataclass(frozen=True)
class Photographs:
    """The photographs to train and validate on."""

    train: list[Pair]
    labels: list[list[int]]
    """The labels that each of them shows."""
    val: list[Pair]


@dataclass(frozen=True)
class Share:
    """A worker's part of each batch."""

    rank: int
    workers: int
    readers: int
    """Threads that cut its crops; a GPU takes them faster than four do."""


def look_at(pairs: Sequence[Pair], num_classes: int) -> list[list[int] | str]:
    """The labels that each photograph shows, or what is wrong with it; uses all CPUs of the cluster."""
    task = ray.remote(num_cpus=1)(looked_at)
    blocks = [list(pairs[start : start + LOOKED_AT]) for start in range(0, len(pairs), LOOKED_AT)]
    return list(chain.from_iterable(ray.get([task.remote(block, num_classes) for block in blocks])))


def run_training(
    method: Method, config: Config, photographs: Photographs, start_uri: str, num_classes: int
) -> list[dict[str, Any]]:
    """Train, write the network to `trained_uri` and return the history; the same call again resumes.

    Args:
        method: the network's.
        config: the settings.
        photographs: those to train and to validate on.
        start_uri: the state dict of the network that training starts from.
        num_classes: background included.

    Raises:
        TrainingError: the workers failed, or the loss exploded.
    """
    given = {"photographs": photographs, "start_uri": start_uri, "num_classes": num_classes}
    loop = {"method": method, "config": config, **given}
    workers = Workers(
        config.output,
        config.workers,
        config.workers,
        cpus_left=0,
        keep_checkpoints=config.keep_checkpoints,
        max_failures=config.max_failures,
    )
    result = run_workers(_worker, loop, "network", workers)
    if result.return_value is not None:
        raise TrainingError(result.return_value)
    with result.checkpoint.as_directory() as folder:
        training = method.begin(method.network(config, num_classes), config)
        load_training(Path(folder), training)
    storage.write_atomic(trained_uri(config.output), dump_state_dict(training.net))
    return training.history


def trained_uri(output: str) -> str:
    """Where the state dict of the trained network goes."""
    return storage.join(output, "trained.safetensors")


def network(config: TrainFcnConfig, num_classes: int) -> LiteFCN:
    """A network in the form that is trained: an encoder from ImageNet has its fixed statistics folded in."""
    net = LiteFCN(num_classes, config.encoder)
    if config.imagenet != "none":
        fold(net.encoder)
    return net


def _fcn_cut(
    config: TrainFcnConfig, step: int, image_HW3: NDArray[np.uint8], mask_HW: NDArray[np.uint8], label: int,
    rng: np.random.Generator,
) -> tuple[Any, Any]:  # fmt: skip
    del step
    return cut(image_HW3, mask_HW, label, config.crop, rng)


def _fcn_loss(config: TrainFcnConfig, found: Tensor, labels_NHW: Tensor, step: int) -> Tensor:
    del config
    return by_turns(found, labels_NHW, step)


def _fcn_scorer(net: LiteFCN, config: TrainFcnConfig) -> Callable[[Tensor], Tensor]:
    return Member(net, INPUT, net.num_classes, "", size=partial(fed_size, long_side=config.long_side)).scores


FCN = Method(network, new_training, _fcn_cut, _fcn_loss, _fcn_scorer)


def _worker(loop: dict[str, Any]) -> str | None:
    method: Method = loop["method"]
    config: Config = loop["config"]
    photographs: Photographs = loop["photographs"]
    torch.set_num_threads(loop["threads"])
    net = method.network(config, loop["num_classes"])
    net.load_state_dict(safetensors.torch.load(storage.read_bytes(loop["start_uri"])))
    net = net.train().to(get_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    training = method.begin(net, config)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            load_training(Path(folder), training)
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    draw = draw_of(photographs.labels, loop["num_classes"])
    share = Share(rank, workers, max(READERS, loop["threads"]))
    hooks = Hooks(
        batches=partial(_batches, config, method.cut, photographs, draw, share),
        validate=partial(_validate, config, method, loop["num_classes"], photographs.val[rank::workers]),
        save=partial(_report, config, training, rank),
        due=lambda due: bool(broadcast_from_rank_zero(due)),
        log=say if rank == 0 else _be_silent,
        loss=partial(method.loss, config),
        stepped=_exported(config, training) if rank == 0 else lambda _loss: None,
    )
    try:
        train(training, prepare_model(net), config, hooks)
    except TrainingError as error:  # returned, not raised, because Ray Train would try again
        return str(error)
    return None


def _exported(config: Config, training: Training) -> Callable[[float], None]:
    """A function that exports each step's loss, and where the training is."""
    metrics = TrainingMetrics(config.output, "network")

    def stepped(loss: float) -> None:
        seen = training.history[-1]["mean_iou"] if training.history else None
        metrics.see(training.step, config.batch_size, loss, epoch=None, mean_iou=seen)

    return stepped


def _be_silent(line: str) -> None:
    del line


def _batches(
    config: Config, cut: Cut, photographs: Photographs, draw: Draw, share: Share, start: int
) -> Iterator[Batch]:
    """This worker's share of the batches from a step on; each is made while the one before is in use."""

    def crop(step: int, place: int) -> tuple[Any, Any]:
        rng = rng_of(config.seed, step, place)
        choice = draw(rng)
        return cut(config, step, *load(photographs.train[choice.photograph]), choice.label, rng)

    with ThreadPoolExecutor(share.readers) as pool:
        places = range(share.rank, config.batch_size, share.workers)
        coming = [pool.submit(crop, start, place) for place in places]
        for step in range(start, config.steps):
            images, masks = zip(*(one.result() for one in coming), strict=True)
            if step + 1 < config.steps:
                coming = [pool.submit(crop, step + 1, place) for place in places]
            yield torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.from_numpy(np.stack(masks))


def _validate(
    config: Config, method: Method, num_classes: int, pairs: Sequence[Pair], net: nn.Module
) -> dict[str, Any]:
    """Figures over all workers; each photograph is scored whole, at its own size."""
    device = next(net.parameters()).device
    scores_of = method.scorer(net.eval(), config)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    for pair in pairs:
        image_HW3, mask_HW = load(pair)
        scores_CHW = scores_of(torch.from_numpy(image_HW3).to(device).permute(2, 0, 1))
        confusion += confusion_of(scores_CHW[None], torch.from_numpy(mask_HW).to(device)[None])
    if dist.is_initialized():
        dist.all_reduce(confusion)
    counts = confusion.cpu().numpy()
    ious = [None if np.isnan(iou) else float(iou) for iou in per_class_iou(counts)]
    return {"mean_iou": mean_iou(counts), "pixel_accuracy": pixel_accuracy(counts), "iou": ious}


def _report(config: Config, training: Training, rank: int) -> None:
    """Store a checkpoint; returns when all workers have called it."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if rank == 0:
            write_curves(config.output, training.history)
            save_training(Path(folder), training)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report({"step": training.step}, checkpoint=checkpoint)
