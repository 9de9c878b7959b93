"""Seeing a training learn: its history as a table, as TensorBoard events and as a picture."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import storage

COLUMNS = (
    "stage", "epoch", "step", "lr", "train_loss", "train_accuracy", "train_mean_iou", "val_loss", "val_accuracy",
    "val_mean_iou", "examples_per_second",
)  # fmt: skip
History = Mapping[str, Sequence[Mapping[str, Any]]]
"""Lines of each stage's history (`state.Epoch` as dicts), under `stage1` and `stage2`."""


def table(history: History) -> list[dict[str, float]]:
    """A row for each validation of each stage, with `COLUMNS`."""
    return [_row(int(stage.removeprefix("stage")), line) for stage in sorted(history) for line in history[stage]]


def _row(stage: int, line: Mapping[str, Any]) -> dict[str, float]:
    train, val = line["train"], line["val"]
    step = line.get("steps", line["epoch"])  # older histories do not know it
    values = (
        stage, line["epoch"], step, line["learning_rate"], train["loss"], train["pixel_accuracy"], train["mean_iou"],
        val["loss"], val["pixel_accuracy"], val["mean_iou"], train["crops"] / max(line["seconds"], 1e-9),
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def csv_bytes(history: History) -> bytes:
    """The table as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in table(history))
    return text.getvalue().encode()


def png_bytes(history: History) -> bytes:
    """Loss, accuracy and mean IoU over the validations of all stages, training and validation, as a PNG."""
    from matplotlib.figure import Figure

    from pipeline.report.figures import png

    rows = table(history)
    x = range(1, len(rows) + 1)
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    names = {"loss": "loss", "accuracy": "pixel accuracy", "mean_iou": "mean IoU"}
    for axes, (key, name) in zip(figure.subplots(1, 3), names.items(), strict=True):
        for part, style in (("train", "o--"), ("val", "o-")):
            axes.plot(x, [row[f"{part}_{key}"] for row in rows], style, markersize=3, label=part)
        for i in range(1, len(rows)):
            if rows[i]["stage"] != rows[i - 1]["stage"]:
                axes.axvline(i + 0.5, color="grey", linewidth=1)
            elif rows[i]["lr"] != rows[i - 1]["lr"]:
                axes.axvline(i + 0.5, color="grey", linewidth=1, linestyle=":")
        axes.set(xlabel="validation, over all stages", title=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.supxlabel("line: next stage; dots: lower learning rate", fontsize=8, color="grey")
    return png(figure)


def write_curves(output_uri: str, history: History) -> None:
    """Write `OUTPUT/curves.csv` and `OUTPUT/curves.png`."""
    storage.write_atomic(storage.join(output_uri, "curves.csv"), csv_bytes(history))
    storage.write_atomic(storage.join(output_uri, "curves.png"), png_bytes(history))


def write_events(output_uri: str, stage: int, line: Mapping[str, Any]) -> None:
    """Write a validation's figures for TensorBoard, as a file of its own below `OUTPUT/tensorboard/stage<N>`.

    One that is done again after a stop replaces its file, and a store that cannot append will do.
    """
    from tensorboardX import SummaryWriter

    row = _row(stage, line)
    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            for key in COLUMNS[3:]:
                part, _, name = key.partition("_")
                tag = f"{name}/{part}" if part in {"train", "val"} else key
                writer.add_scalar(tag, row[key], int(row["step"]))
        (events,) = Path(folder).iterdir()
        name = f"events.out.tfevents.{int(row['step']):08}"
        storage.write_atomic(storage.join(output_uri, "tensorboard", f"stage{stage}", name), events.read_bytes())
