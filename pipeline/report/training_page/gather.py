"""Reads a training's output folder into what its report says; the training may be at work in it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import PurePath
from typing import Any

from pipeline import storage
from pipeline.config import TRAIN_RECIPES, TrainConfig
from pipeline.config.fcn import TrainFcnConfig
from pipeline.config.lite import TrainLiteConfig
from pipeline.errors import ImageError, UserError
from pipeline.imaging.images import decode_image, working_size
from pipeline.models.checkpoint_header import read_info
from pipeline.outputs import layout
from pipeline.outputs.folder import read_record
from pipeline.report.page.parts import labels_of, settings_of
from pipeline.report.run_page.gallery import data_uri, jpeg
from pipeline.report.training_page.facts import ClassIou, Point, Sample, TrainingFacts
from pipeline.storage import listing

NOT_HOW = ("training_set", "data", "output")
"""Settings that do not say how a training works."""
SAMPLE_SIDE, SAMPLE_BYTES = 1200, 400_000
"""Of a picture of examples, at most: pixels, and bytes as JPEG."""
MEGAPIXELS = 100

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """A command that trains: what differs between them. The functions take the recorded settings."""

    command: str
    usual: Callable[[Config], Any]
    network: str
    data: Callable[[Config], tuple[str, ...]]
    started_from: Callable[[Config], tuple[str, ...]]
    validated_on: str
    examples: str


def _start_of_windows(config: Config) -> tuple[str, ...]:
    if config["init"]:
        first = f"the checkpoint {config['init']}"
    elif config["vgg16"]:
        first = f"ImageNet's VGG-16 in the encoder, from {config['vgg16']}, and random weights in the decoder"
    else:
        first = "random weights"
    return tuple(
        f"stage {stage}: {'the best network of the stage before' if number else first}"
        for number, stage in enumerate(config["stages"])
    )


def _start_of_fcn(config: Config) -> tuple[str, ...]:
    if config["imagenet"] == "none":
        return ("random weights",)
    source = "its package" if config["imagenet"] == "package" else config["imagenet"]
    return (f"ImageNet's EfficientNet-{config['encoder']} in the encoder, from {source}, and random weights elsewhere",)


def _start_of_lite(config: Config) -> tuple[str, ...]:
    return (f"encoder and context of {config['fcn']}, which stay as they are, and random weights in the decoder",)


def _usual_of_windows(config: Config) -> TrainConfig:
    made: TrainConfig = TRAIN_RECIPES[config["recipe"]](TrainConfig(config["training_set"], config["output"]))
    return made


WINDOWS = Kind(
    "train", _usual_of_windows, layout.DECONVNET, lambda config: (config["training_set"],), _start_of_windows,
    "validation windows", "windows",
)  # fmt: skip
PHOTOGRAPHS = Kind(
    "train-fcn", lambda config: TrainFcnConfig(tuple(config["data"]), config["output"]), layout.FCN,
    lambda config: tuple(config["data"]), _start_of_fcn, "validation photographs", "crops",
)  # fmt: skip
LITE = Kind(
    "train-lite", lambda config: TrainLiteConfig(tuple(config["data"]), config["output"]), layout.DECONVNET,
    lambda config: tuple(config["data"]), _start_of_lite, "validation photographs, each in one window", "windows",
)  # fmt: skip


def kind_of(config: Config) -> Kind:
    """Which command a training's settings are of."""
    if "training_set" in config:
        return WINDOWS
    return LITE if "fcn" in config else PHOTOGRAPHS


def gather(output: str) -> TrainingFacts:
    """Read what an output folder of a training holds. Writes nothing.

    Raises:
        FolderError: its record is damaged, or not a training's.
        OSError: the store cannot be read.
    """
    uri = storage.absolute(output)
    record = read_record(storage.join(uri, layout.TRAINING_RECORD), needs=("config", "history"))
    config, history = record["config"], record["history"]
    kind = kind_of(config)
    network = storage.join(uri, kind.network)
    ended = storage.exists(network)
    points = _points(uri, config)
    iou, effect = _class_ious(history, record.get("bn_statistics"), len(points))
    names = record.get("classes") or (_names_in(network) if ended and iou else ())
    return TrainingFacts(
        output=uri,
        command=kind.command,
        data=kind.data(config),
        started_from=kind.started_from(config),
        settings=tuple(settings_of(config, asdict(kind.usual(config)), NOT_HOW)),
        validated_on=kind.validated_on,
        examples=f"{config['batch_size']:,} {kind.examples}",
        network=network if ended else None,
        steps_planned=config.get("steps"),
        stages=_stages(points, config),
        points=points,
        chosen=_chosen(points, kind),
        classes=tuple(map(ClassIou, labels_of(names), iou)) if len(names) == len(iou) else (),
        statistics=effect,
        samples=tuple(_samples(uri)),
    )


def _points(uri: str, config: Config) -> tuple[Point, ...]:
    """The validations, from the file that is written at each of them: the record has them only later."""
    curves = storage.join(uri, layout.CURVES)
    if not storage.exists(curves):
        return ()
    rows = list(csv.DictReader(io.StringIO(storage.read_bytes(curves).decode())))
    return tuple(_of_windows(rows) if "training_set" in config else map(_of_photographs, rows))


def _of_windows(rows: list[dict[str, str]]) -> Iterator[Point]:
    stage, before, last = 0, 0, 0
    for row in rows:
        if (of_row := int(float(row["stage"]))) != stage:
            stage, before = of_row, last
        step = int(float(row["step"]))
        last = before + step
        yield Point(
            stage, step, last, float(row["lr"]), float(row["train_loss"]), float(row["val_loss"]),
            float(row["train_accuracy"]), float(row["val_accuracy"]), float(row["train_mean_iou"]),
            float(row["val_mean_iou"]), float(row["examples_per_second"]),
        )  # fmt: skip


def _of_photographs(row: dict[str, str]) -> Point:
    step = int(row["step"])
    return Point(
        None, step, step, None, float(row["train_loss"]), None, None, float(row["pixel_accuracy"]), None,
        float(row["mean_iou"]), None,
    )  # fmt: skip


def _stages(points: tuple[Point, ...], config: Config) -> tuple[int, ...]:
    if "stage1_share" in config:  # of train-lite, whose steps are counted on
        begins = round(config["stage1_share"] * config["steps"])
        return (begins,) if 0 < begins < config["steps"] else ()
    return tuple(before.steps for before, after in pairwise(points) if before.stage != after.stage)


def _chosen(points: tuple[Point, ...], kind: Kind) -> Point | None:
    """The validation of the network that is exported: the most accurate of the last stage, or the last one."""
    if not points or kind is not WINDOWS:
        return points[-1] if points else None
    return max((one for one in points if one.stage == points[-1].stage), key=lambda one: one.accuracy)


def _class_ious(history: Any, effect: Any, validations: int) -> tuple[list[float | None], tuple[float, float] | None]:
    """IoU of each class of the exported network, if it was recorded; mean IoU before and after new statistics.

    Args:
        history: of the record, which has the validations of a stage only when it has ended.
        effect: of new statistics; None: there are none.
        validations: how many there were.
    """
    if isinstance(history, list):
        return (history[-1].get("iou", []) if history and len(history) == validations else []), None
    if effect:
        return effect["after"].get("iou", []), (effect["before"]["mean_iou"], effect["after"]["mean_iou"])
    if not history or sum(map(len, history.values())) != validations:
        return [], None
    best = max(history[max(history)], key=lambda line: line["val"]["pixel_accuracy"])
    return best["val"].get("iou", []), None


def _names_in(network: str) -> tuple[str, ...]:
    """Classes of a training of an earlier version, which did not record them."""
    try:
        return read_info(storage.read_bytes(network), network).class_names
    except UserError:
        return ()


def _samples(uri: str) -> Iterator[Sample]:
    folder = storage.join(uri, "windows")
    if not storage.exists(folder):
        return
    latest = {PurePath(file.uri).name.partition("_")[0]: file.uri for file in listing.list_files(folder, (".png",))}
    for stage in sorted(latest):
        try:
            picture = working_size(decode_image(storage.read_bytes(latest[stage]), MEGAPIXELS), SAMPLE_SIDE)
        except ImageError:  # it may be missing, the rest is still worth a page
            continue
        shown = data_uri(jpeg(picture, SAMPLE_BYTES))
        if shown is not None and stage.removeprefix("stage").isdigit():
            yield Sample(int(stage.removeprefix("stage")), shown)
