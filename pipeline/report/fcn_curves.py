"""Seeing the FCN learn: its history as a table and as a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import storage

COLUMNS = ("step", "train_loss", "mean_iou", "pixel_accuracy")


def csv_bytes(history: Sequence[Mapping[str, Any]]) -> bytes:
    """The figures, a row for each validation."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(dict(line) for line in history)
    return text.getvalue().encode()


def write_curves(output_uri: str, history: Sequence[Mapping[str, Any]]) -> None:
    """Write `OUTPUT/curves.csv` and `OUTPUT/curves.png`: training loss, and figures on the validation photographs."""
    from matplotlib.figure import Figure

    from pipeline.report.figures import png

    storage.write_atomic(storage.join(output_uri, "curves.csv"), csv_bytes(history))
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for axes, key in zip(figure.subplots(1, 3), COLUMNS[1:], strict=True):
        axes.plot([line["step"] for line in history], [line[key] for line in history], "o-", markersize=3)
        axes.set(xlabel="step", title=key.replace("_", " "))
        axes.grid(alpha=0.3)
    storage.write_atomic(storage.join(output_uri, "curves.png"), png(figure))
