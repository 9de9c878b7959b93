"""From training windows to a network: the stages one after the other, each resumed where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline import storage
from pipeline.config import AT_WORK, ConfigError, TrainConfig
from pipeline.config.training import TrainingStage
from pipeline.datasets.layouts import SPLITS
from pipeline.errors.claim import after_claim
from pipeline.outputs import layout
from pipeline.outputs.folder import check_folder
from pipeline.training.windows.index import load_info

EXPORT = layout.DECONVNET
CURVES = "curves.png"
RECORD = layout.TRAINING_RECORD

History = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        network: the address of the checkpoint.
        curves: the address of a picture of the losses and accuracies.
        best: the figures of the epoch that the network comes from, such as `best["val"]["mean_iou"]`.
    """

    network: str
    curves: str
    best: dict[str, Any]


def _do_nothing() -> None:
    pass


def train(
    config: TrainConfig, log: Callable[[str], None] = print, stage_ended: Callable[[], None] = _do_nothing
) -> Trained:
    """Train a network on a Ray cluster, which is joined or started; the same call resumes a training that was stopped.

    Args:
        config: the settings.
        log: prints a line for people, before the training starts.
        stage_ended: called when a stage has ended and another follows; the figures of the first are in the output.

    Raises:
        UserError: the settings, the training set or a file cannot be used; nothing was written.
        ClusterError: no cluster could be reached or started.
        TrainingError: the workers failed, or the loss exploded.
        StoppedError: the store gives no answer; the same call resumes later.
        KeyboardInterrupt: Ctrl-C.
    """
    config = _with_absolute_paths(config)
    info = load_info(config.training_set)
    _check_windows(config, info)
    record = check_folder(config.output, RECORD, asdict(config), below="config", neutral=AT_WORK | {"output"})
    history: History = {} if record is None else record["history"]
    log(f"training on {config.training_set}: {len(info['class_names'])} classes; starting")
    from pipeline.training.loop.networks import export, first_network  # brings torch

    shape = info["config"]["propose"].get("window_shape", "box")
    start = first_network(config, tuple(info["class_names"]), shape)
    target = storage.join(config.output, EXPORT)
    if not storage.exists(target):
        from pipeline.cluster import connect

        connect.start_ray()
    with after_claim():
        if record is None:
            _write_record(config, info["class_names"], {})
        network, best = _train_stages(config, info["class_names"], start, history, stage_ended)
        storage.write_atomic(target, export(config, network, best))
    return Trained(target, storage.join(config.output, CURVES), best)


def _with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """The settings with absolute paths, which mean the same in every worker."""
    return replace(
        config,
        training_set=storage.absolute(config.training_set),
        output=storage.absolute(config.output),
        init=config.init and storage.absolute(config.init),
        vgg16=config.vgg16 and storage.absolute(config.vgg16),
    )


def _train_stages(
    config: TrainConfig, class_names: list[str], start: bytes, history: History, stage_ended: Callable[[], None]
) -> tuple[bytes, dict[str, Any]]:
    """Run what is left of the stages.

    Args:
        config: the settings.
        class_names: background first.
        start: the checkpoint that the first stage starts from.
        history: every epoch's figures by stage; those of each finished stage are added.
        stage_ended: called when a stage has ended and another follows.

    Returns:
        The last stage's best network, and the figures of the epoch that it comes from.
    """
    try:
        for stage in config.stages:
            start = _network_of_stage(config, class_names, stage, start, history)
            if stage != config.stages[-1]:
                stage_ended()
        effect = _renew_statistics(config)
    except SystemExit:  # what Ray Train makes of Ctrl-C
        raise KeyboardInterrupt from None
    best = max(history[f"stage{config.stages[-1]}"], key=lambda line: line["val"]["pixel_accuracy"])
    if effect is None:
        return start, best
    _write_record(config, class_names, history, effect)
    return storage.read_bytes(_statistics_uri(config)), {**best, "val": effect["after"]}


def _check_windows(config: TrainConfig, info: dict[str, Any]) -> None:
    """Make sure that each stage has enough examples to learn from, and windows to choose its best network by.

    Raises:
        ConfigError: a stage has no validation windows, or fewer training examples than a batch takes.
    """
    for stage in config.stages:
        windows = info["windows"][f"stage{stage}"]
        for split in SPLITS:
            if not windows[split]["windows"]:
                raise ConfigError(
                    f"{config.training_set} holds no {split} windows for stage {stage}: annotate and list images for "
                    f"it (ImageSets/Segmentation/{split}.txt in VOC's layout) and build the training set again"
                )
        examples = windows["train"]["examples"]
        if examples < config.batch_size:
            raise ConfigError(
                f"--batch-size is {config.batch_size}, and {config.training_set} has {examples} training examples for "
                f"stage {stage}; an epoch must fill a batch at least: give --batch-size {examples} or less"
            )


def _network_of_stage(
    config: TrainConfig, class_names: list[str], stage: TrainingStage, start: bytes, history: History
) -> bytes:
    """The best network of a stage: trained from `start`, or read if an earlier call finished the stage."""
    done_uri = storage.join(config.output, f"stage{stage}.safetensors")
    if storage.exists(done_uri):
        return storage.read_bytes(done_uri)
    from pipeline.training.ray.stage import run_stage

    start_uri = storage.join(config.output, f"stage{stage}_start.safetensors")
    if not storage.exists(start_uri):
        storage.write_atomic(start_uri, start)
    result = run_stage(config, stage, start_uri, history)
    history[f"stage{stage}"] = result.history
    _write_record(config, class_names, history)
    storage.write_atomic(done_uri, result.network)
    return result.network


def _statistics_uri(config: TrainConfig) -> str:
    """Where the last stage's network with recomputed statistics of batch normalisation goes."""
    return storage.join(config.output, f"stage{config.stages[-1]}_statistics.safetensors")


def _renew_statistics(config: TrainConfig) -> dict[str, Any] | None:
    """Recompute batch normalisation's statistics of the last stage's network, unless that is done or not wanted.

    Returns:
        The figures on the validation windows before and after; None if it is not wanted.
    """
    if not config.bn_statistics:
        return None
    if storage.exists(_statistics_uri(config)):
        record = json.loads(storage.read_bytes(storage.join(config.output, RECORD)))
        if record.get("bn_statistics"):
            effect: dict[str, Any] = record["bn_statistics"]
            return effect
    from pipeline.training.ray.stage import run_statistics

    network_uri = storage.join(config.output, f"stage{config.stages[-1]}.safetensors")
    return run_statistics(config, network_uri, _statistics_uri(config))


def _write_record(
    config: TrainConfig, class_names: list[str], history: History, effect: dict[str, Any] | None = None
) -> None:
    """Write settings, classes, every epoch's figures, and the effect of recomputed batch normalisation statistics."""
    record = {"config": asdict(config), "classes": class_names, "history": history, "bn_statistics": effect}
    storage.write_atomic(storage.join(config.output, RECORD), json.dumps(record, indent=1).encode())
