"""Outputs of trainings, made without one by the project's own writers, for the tests of what reads them.

They lack `curves.png`, which nothing reads and which takes half a second to draw.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.api import photographs
from pipeline.api import train as windows
from pipeline.config import TrainConfig
from pipeline.config.fcn import TrainFcnConfig
from pipeline.config.lite import TrainLiteConfig
from pipeline.report import curves, fcn_curves

NAMES = ("background", "cat", "dog", "cow")


def measured(loss: float, accuracy: float, iou: Sequence[float | None], crops: int = 640) -> dict[str, Any]:
    """The figures of a pass (`loop.metrics.Metrics` as a record holds them)."""
    known = [one for one in iou if one is not None]
    return {"crops": crops, "loss": loss, "pixel_accuracy": accuracy, "mean_iou": float(np.mean(known)), "iou": [*iou]}


def look(epoch: int, steps: int, accuracy: float, iou: Sequence[float | None], rate: float = 0.01) -> dict[str, Any]:
    """A validation; the training before it was a little better."""
    train, val = measured(1 - accuracy, accuracy + 0.02, iou), measured(1.1 - accuracy, accuracy, iou)
    return {"epoch": epoch, "steps": steps, "learning_rate": rate, "seconds": 64.0, "train": train, "val": val}


def window_training(
    output: Path,
    history: dict[str, list[dict[str, Any]]],
    names: Sequence[str] = NAMES,
    effect: dict[str, Any] | None = None,
    *,
    ended: bool = True,
    **changes: Any,
) -> str:
    """An output of `train`, after these validations.

    Args:
        output: the folder.
        history: by stage.
        names: of the classes.
        effect: that of new statistics of batch normalisation.
        ended: whether the network is exported.
        changes: settings that are not the defaults.
    """
    output.mkdir(parents=True)
    config = TrainConfig("/data/windows", str(output), **changes)
    windows._write_record(config, list(names), history, effect)
    if history:
        (output / "curves.csv").write_bytes(curves.csv_bytes(history))
    for stage, lines in history.items():
        for line in lines:
            sheet = Image.fromarray(np.full((40, 90, 3), 10 * line["epoch"], np.uint8))
            (output / "windows").mkdir(exist_ok=True)
            sheet.save(output / "windows" / f"{stage}_epoch{line['epoch']:03}.png")
    if ended:
        (output / windows.EXPORT).write_bytes(b"a network")
    return str(output)


def photograph_training(
    output: Path,
    config: TrainFcnConfig | TrainLiteConfig,
    lines: Sequence[tuple[int, float, Sequence[float | None]]],
    names: Sequence[str] = NAMES,
) -> str:
    """An output of `train-fcn` or `train-lite` that has ended.

    Args:
        output: the folder.
        config: the settings.
        lines: step, loss and IoU of each class at each validation.
        names: of the classes.
    """
    output.mkdir(parents=True)
    config = replace(config, output=str(output))
    history = [
        {"step": step, "train_loss": loss, "mean_iou": float(np.mean([one for one in iou if one is not None])),
         "pixel_accuracy": 0.9, "iou": [*iou]} for step, loss, iou in lines
    ]  # fmt: skip
    photographs._write_record(config, tuple(names), history)
    (output / "curves.csv").write_bytes(fcn_curves.csv_bytes(history))
    name = "fcn.safetensors" if isinstance(config, TrainFcnConfig) else "deconvnet.safetensors"
    (output / name).write_bytes(b"a network")
    return str(output)
