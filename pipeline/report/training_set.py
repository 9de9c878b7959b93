"""A training set's figures as a picture."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.figures import png

STAGES = ("stage1", "stage2")


def draw_training_set(info: dict[str, Any]) -> bytes:
    """Draw classes before and after balance, overlaps and sizes of the training windows.

    Args:
        info: content of `training_set.json`.

    Returns:
        A PNG file.
    """
    of_train = {stage: info["windows"][stage]["train"] for stage in STAGES}
    height = 1.6 + 0.16 * len(info["class_names"])
    figure = Figure(figsize=(11, height + 3), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[height, 3])[:, 0]
    for axes, (stage, counts) in zip(above.subplots(1, 2), of_train.items(), strict=True):
        _classes(axes, f"{stage}, train", counts)
    overlaps, sides = below.subplots(1, 2)
    _steps(overlaps, "overlap with the object (IoU), stage 2", {"stage2": of_train["stage2"]["overlap"]})
    _steps(sides, "side of the window (pixels)", {stage: counts["side"] for stage, counts in of_train.items()})
    sides.set_xscale("log", base=2)
    sides.xaxis.set_major_formatter("{x:.0f}")
    return png(figure, dpi=110)


def _classes(axes: Axes, title: str, counts: dict[str, Any]) -> None:
    names = list(counts["per_class"])
    after, before = ([counts["per_class"][name][what] for name in names] for what in ("examples", "windows"))
    axes.barh(names, after, color="tab:orange", label=f"after balance: {counts['examples']:,} examples")
    axes.barh(names, before, height=0.5, color="tab:blue", label=f"before: {counts['windows']:,} windows")
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_title(title)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=2.2, ncols=2, fontsize=8, frameon=False)


def _steps(axes: Axes, title: str, distributions: dict[str, dict[str, Any]]) -> None:
    for stage, distribution in distributions.items():
        histogram = distribution["histogram"]
        total = max(1, sum(histogram["windows"]))
        axes.stairs([count / total for count in histogram["windows"]], histogram["edges"], label=stage, linewidth=1.5)
    axes.set_title(title)
    axes.set_ylabel("share of windows")
    axes.legend(frameon=False)
