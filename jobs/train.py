"""Train DeconvNet in two stages: centred objects first, then object proposals.

    python jobs/train.py --training-set data/training_set --output runs/train --epochs 10 10

Give it a folder made by jobs/build_training_set.py. It writes OUTPUT/deconvnet.safetensors, the network for
`segment_dataset.py --weights`, and after every epoch OUTPUT/curves.csv, curves.png, tensorboard/ and windows/. Run
again, a stopped training goes on from its last checkpoint. `--recipe release` follows the authors' solvers instead of
the paper. Exit codes: 0 done, 1 the workers failed or the loss exploded, 2 bad arguments, 3 stopped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
import tyro

from pipeline import storage
from pipeline.config import AT_WORK, ConfigError, TrainConfig, recipe_defaults
from pipeline.config.recipes import first_look
from pipeline.datasets.layouts import SPLITS
from pipeline.errors import CheckpointError, ClusterError, TrainingError
from pipeline.imaging.geometry import Shape
from pipeline.models.background import hold_back_background
from pipeline.models.checkpoint import CheckpointInfo, dump_checkpoint, load_checkpoint, load_state_dict
from pipeline.models.deconvnet import DeconvNet
from pipeline.models.initialise import initialise, load_vgg16
from pipeline.training.windows.examples import Stage
from pipeline.training.windows.index import load_info

EXIT_DONE, EXIT_FAILED, EXIT_ARGUMENTS, EXIT_STOPPED = 0, 1, 2, 3
EXPORT = "deconvnet.safetensors"
RECORD = "train.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, check, train the stages one after the other, export."""
    try:
        config = parse(arguments)
        info = load_info(config.training_set)
        check_windows(config, info)
        class_names = tuple(info["class_names"])
        start = first_network(config, class_names, info["config"]["propose"].get("window_shape", "box"))
        history = take_up(config)
    except (ConfigError, CheckpointError, storage.StorageError, OSError, ValueError) as error:
        print(f"train: {storage.redact(str(error))}", file=sys.stderr)
        return EXIT_ARGUMENTS
    try:
        for stage in config.stages:
            start = network_of_stage(config, stage, start, history)
        effect = renew_statistics(config)
    except (ClusterError, TrainingError) as error:
        print(f"train: {storage.redact(str(error))}", file=sys.stderr)
        return EXIT_FAILED
    except (KeyboardInterrupt, SystemExit):  # the latter is what Ray Train makes of Ctrl-C
        print("train: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return EXIT_STOPPED
    best = max(history[f"stage{config.stages[-1]}"], key=lambda line: line["val"]["pixel_accuracy"])
    if effect is not None:
        write_record(config, history, effect)
        start, best = storage.read_bytes(statistics_uri(config)), {**best, "val": effect["after"]}
    target = storage.join(config.output, EXPORT)
    storage.write_atomic(target, export(config, start, best))
    print(f"mean IoU on validation windows {best['val']['mean_iou']:.3f}; network: {target}")
    return EXIT_DONE


def check_windows(config: TrainConfig, info: dict[str, Any]) -> None:
    """Make sure that each stage has something to learn from, and something to choose its best network by.

    Raises:
        ConfigError: a stage has no training or no validation windows.
    """
    for stage in config.stages:
        for split in SPLITS:
            if not info["windows"][f"stage{stage}"][split]["windows"]:
                raise ConfigError(
                    f"{config.training_set} holds no {split} windows for stage {stage}: annotate and list images for "
                    f"it (ImageSets/Segmentation/{split}.txt in VOC's layout) and build the training set anew"
                )


def parse(arguments: Sequence[str] | None) -> TrainConfig:
    """The settings: the recipe's, but for the options that are given."""
    recipe = first_look(arguments, "recipe", TrainConfig.recipe)
    default = recipe_defaults(TrainConfig(tyro.MISSING, tyro.MISSING), recipe)
    return tyro.cli(TrainConfig, args=arguments, default=default, description=__doc__)


def network_of_stage(
    config: TrainConfig, stage: Stage, start: bytes, history: dict[str, list[dict[str, Any]]]
) -> bytes:
    """The best network of a stage: trained now from `start`, or read where an earlier call finished the stage."""
    done_uri = storage.join(config.output, f"stage{stage}.safetensors")
    if storage.exists(done_uri):
        return storage.read_bytes(done_uri)
    from pipeline.cluster import connect
    from pipeline.training.ray.stage import run_stage

    connect.start_ray()
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
    from pipeline.cluster import connect
    from pipeline.training.ray.stage import run_statistics

    connect.start_ray()
    network_uri = storage.join(config.output, f"stage{config.stages[-1]}.safetensors")
    return run_statistics(config, network_uri, statistics_uri(config))


def first_network(config: TrainConfig, class_names: tuple[str, ...], window_shape: Shape) -> bytes:
    """The checkpoint that training starts from: `init`, or random weights with VGG-16 in the encoder if given.

    Its description names what it will be trained on: classes and shape of the training set's windows.
    """
    if config.init is not None:
        checkpoint = load_checkpoint(storage.read_bytes(config.init), config.init)
        if checkpoint.info.class_names != class_names:
            raise CheckpointError(
                f"{config.init} knows the classes {', '.join(checkpoint.info.class_names)}; the training set has "
                f"{', '.join(class_names)}"
            )
        # Training gathers the statistics that a converted training file lacks.
        info = replace(checkpoint.info, batch_statistics=True, window_shape=window_shape)
        return dump_checkpoint(checkpoint.net, info)
    # First the file: drawing a full network's random numbers takes seconds.
    vgg16 = None if config.vgg16 is None else load_state_dict(storage.read_bytes(config.vgg16), config.vgg16)
    net = DeconvNet(len(class_names), config.width)
    initialise(net, config.seed)
    if vgg16 is not None:
        load_vgg16(net, vgg16)
    return dump_checkpoint(net, CheckpointInfo(class_names, config.width, window_shape=window_shape), torch.float32)


def export(config: TrainConfig, network: bytes, best: dict[str, Any]) -> bytes:
    """The checkpoint for users: the best network, with a line that says how it came about."""
    checkpoint = load_checkpoint(network)
    hold_back_background(checkpoint.net, config.export_background)
    name = storage.absolute(config.training_set).rpartition("/")[2]
    trained_on = (
        f"{name}, stages {config.stages}, {best['epoch'] + 1} epochs of the last; validation windows: "
        f"pixel accuracy {best['val']['pixel_accuracy']:.3f}, mean IoU {best['val']['mean_iou']:.3f}"
    )
    dtype = torch.float16 if config.export_precision == "float16" else torch.float32
    return dump_checkpoint(checkpoint.net, replace(checkpoint.info, trained_on=trained_on), dtype)


def take_up(config: TrainConfig) -> dict[str, list[dict[str, Any]]]:
    """History of an earlier, stopped run of the same config in the same folder; empty for a new folder.

    Raises:
        ConfigError: the folder holds a run with other settings.
    """
    record_uri = storage.join(config.output, RECORD)
    if storage.exists(record_uri):
        record = json.loads(storage.read_bytes(record_uri))
        before, now = record["config"], json.loads(json.dumps(asdict(config)))
        changed = [
            f"{name}: {before.get(name)} -> {value}"
            for name, value in now.items()
            if name not in AT_WORK and before.get(name) != value
        ]
        if changed:
            raise ConfigError(
                f"{config.output} holds a run with other settings ({'; '.join(changed)}); choose another --output"
            )
        history: dict[str, list[dict[str, Any]]] = record["history"]
        return history
    write_record(config, {})
    return {}


def write_record(
    config: TrainConfig, history: dict[str, list[dict[str, Any]]], effect: dict[str, Any] | None = None
) -> None:
    """Write the settings, every epoch's figures and what new statistics of batch normalisation changed."""
    record = {"config": asdict(config), "history": history, "bn_statistics": effect}
    storage.write_atomic(storage.join(config.output, RECORD), json.dumps(record, indent=1).encode())


if __name__ == "__main__":
    sys.exit(main())
