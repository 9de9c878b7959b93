"""Train DeconvNet in two stages: centred objects first, then object proposals.

    python jobs/train.py --training-set data/training_set --output runs/train --epochs 10 10

A stopped training goes on from its last checkpoint when it is called again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from jobs import commands
from jobs.common import EXIT_DONE, after_claim, call, end_process
from pipeline import storage
from pipeline.config import AT_WORK, ConfigError, TrainConfig
from pipeline.datasets.layouts import SPLITS
from pipeline.inputs.named import check_named
from pipeline.outputs.folder import check_folder
from pipeline.training.windows.examples import Stage
from pipeline.training.windows.index import load_info

COMMAND = commands.TRAIN
EXPORT = "deconvnet.safetensors"
RECORD = "train.json"

History = dict[str, list[dict[str, Any]]]
parse = partial(commands.parse, COMMAND)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; returns the exit code."""
    return call(COMMAND, arguments, run)


def run(options: TrainConfig) -> int:
    """Check, train the stages one after the other, export."""
    config = with_absolute_paths(options)
    for option in ("training_set", "init", "vgg16"):
        check_named(option.replace("_", "-"), getattr(config, option))
    info = load_info(config.training_set)
    check_windows(config, info)
    record = check_folder(config.output, RECORD, asdict(config), below="config", neutral=AT_WORK | {"output"})
    history: History = {} if record is None else record["history"]
    print(f"training on {config.training_set}: {len(info['class_names'])} classes; starting", flush=True)
    from pipeline.training.loop.networks import export, first_network  # brings torch

    shape = info["config"]["propose"].get("window_shape", "box")
    start = first_network(config, tuple(info["class_names"]), shape)
    if not storage.exists(storage.join(config.output, EXPORT)):
        from pipeline.cluster import connect

        connect.start_ray()
    with after_claim():
        if record is None:
            write_record(config, {})
        network, best = train(config, start, history)
        target = storage.join(config.output, EXPORT)
        storage.write_atomic(target, export(config, network, best))
    print(f"mean IoU on validation windows {best['val']['mean_iou']:.3f}; network: {target}")
    print(f"curves: {storage.join(config.output, 'curves.png')}")
    print(f"segment with it: {commands.SEGMENT.line('photos', '--output runs/photos --weights', target)}")
    return EXIT_DONE


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """Paths that mean the same in every worker, wherever it runs."""
    return replace(
        config,
        training_set=storage.absolute(config.training_set),
        output=storage.absolute(config.output),
        init=config.init and storage.absolute(config.init),
        vgg16=config.vgg16 and storage.absolute(config.vgg16),
    )


def train(config: TrainConfig, start: bytes, history: History) -> tuple[bytes, dict[str, Any]]:
    """Run what is left of the stages.

    Args:
        config: the settings.
        start: the checkpoint that the first stage starts from.
        history: every epoch's figures by stage; those of a stage that ends are added.

    Returns:
        The last stage's best network, and the figures of the epoch that it comes from.
    """
    try:
        for stage in config.stages:
            start = network_of_stage(config, stage, start, history)
        effect = renew_statistics(config)
    except SystemExit:  # what Ray Train makes of Ctrl-C
        raise KeyboardInterrupt from None
    best = max(history[f"stage{config.stages[-1]}"], key=lambda line: line["val"]["pixel_accuracy"])
    if effect is None:
        return start, best
    write_record(config, history, effect)
    return storage.read_bytes(statistics_uri(config)), {**best, "val": effect["after"]}


def check_windows(config: TrainConfig, info: dict[str, Any]) -> None:
    """Make sure that each stage has something to learn from, and something to choose its best network by.

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


def network_of_stage(config: TrainConfig, stage: Stage, start: bytes, history: History) -> bytes:
    """The best network of a stage: trained now from `start`, or read where an earlier call finished the stage."""
    done_uri = storage.join(config.output, f"stage{stage}.safetensors")
    if storage.exists(done_uri):
        return storage.read_bytes(done_uri)
    from pipeline.training.ray.stage import run_stage

    start_uri = storage.join(config.output, f"stage{stage}_start.safetensors")
    if not storage.exists(start_uri):
        storage.write_atomic(start_uri, start)
    result = run_stage(config, stage, start_uri, history)
    history[f"stage{stage}"] = result.history
    write_record(config, history)
    storage.write_atomic(done_uri, result.network)
    return result.network


def statistics_uri(config: TrainConfig) -> str:
    """Where the last stage's network with recomputed statistics of batch normalisation goes."""
    return storage.join(config.output, f"stage{config.stages[-1]}_statistics.safetensors")


def renew_statistics(config: TrainConfig) -> dict[str, Any] | None:
    """Compute batch normalisation's statistics of the last stage's network anew, unless that is done or not wanted.

    Returns:
        What it changed on the validation windows; None if it is not wanted.
    """
    if not config.bn_statistics:
        return None
    if storage.exists(statistics_uri(config)):
        record = json.loads(storage.read_bytes(storage.join(config.output, RECORD)))
        if record.get("bn_statistics"):
            effect: dict[str, Any] = record["bn_statistics"]
            return effect
    from pipeline.training.ray.stage import run_statistics

    network_uri = storage.join(config.output, f"stage{config.stages[-1]}.safetensors")
    return run_statistics(config, network_uri, statistics_uri(config))


def write_record(config: TrainConfig, history: History, effect: dict[str, Any] | None = None) -> None:
    """Write the settings, every epoch's figures and what new statistics of batch normalisation changed."""
    record = {"config": asdict(config), "history": history, "bn_statistics": effect}
    storage.write_atomic(storage.join(config.output, RECORD), json.dumps(record, indent=1).encode())


if __name__ == "__main__":
    end_process(main)
