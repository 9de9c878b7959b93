"""Compare a run's results with ground truth in VOC's layout; draw pictures of results; write them for the VOC server.

python jobs/evaluate.py --results runs/voc --ground-truth data/VOC2012 --split val --trimap 20
python jobs/evaluate.py --results runs/photos --panels 20
python jobs/evaluate.py --results runs/voc_test --submission submissions/voc_test
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs import commands
from jobs.common import EXIT_DONE, call, counted, end_process
from pipeline import storage
from pipeline.config import EvaluateConfig
from pipeline.errors import EvaluationError
from pipeline.evaluation.results import PUBLISHED, PUBLISHED_CLASSES, Evaluation, evaluate_results
from pipeline.evaluation.submission import write_submission
from pipeline.imaging.classes import VOC_CLASSES
from pipeline.inputs.named import check_named
from pipeline.outputs.results import read_errors
from pipeline.report.panels import write_panels

SHOWN_DISTANCES = (1, 2, 3, 5, 10, 20, 50, 100)  # widths of the bands around boundaries; the JSON has all

console = Console(soft_wrap=True, markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; returns the exit code."""
    return call(commands.EVALUATE, arguments, run)


def run(config: EvaluateConfig) -> int:
    """Compare, print, write."""
    check_named("results", config.results)
    check_named("ground-truth", config.ground_truth)
    left_out = compare(config, config.ground_truth) if config.ground_truth is not None else 0
    draw_panels(config)
    if config.submission is not None:
        submit(config.results, config.submission)
    if config.require_all and left_out:
        raise EvaluationError(f"{left_out} images were left out, and --require-all was given")
    return EXIT_DONE


def compare(config: EvaluateConfig, ground_truth: str) -> int:
    """Compare, print and write; returns how many images of the ground truth were left out."""
    evaluation = evaluate_results(config.results, ground_truth, config.split, config.trimap, objects=config.objects)
    target = config.json or storage.join(config.results, "run", "evaluation.json")
    content = {
        "results": storage.absolute(config.results),
        "ground_truth": storage.absolute(ground_truth),
        "split": config.split,
        **evaluation.summary(),
    }
    storage.write_atomic(target, json.dumps(content, indent=1).encode())
    show(evaluation, target)
    if evaluation.trimaps.any():
        console.print(f"mean IoU near boundaries: {draw_trimap(evaluation, storage.parent(target))}")
    return len(evaluation.missing) + len(evaluation.problems)


def draw_panels(config: EvaluateConfig) -> None:
    """Draw the pictures that were asked for, and print where they are."""
    if not config.panels:
        return
    panels = write_panels(config.results, config.ground_truth, config.split, config.panels)
    shown = "photograph and result" if config.ground_truth is None else "photograph, truth and result"
    console.print(f"{len(panels)} pictures, {shown}: {storage.join(config.results, 'panels')}")


def draw_trimap(evaluation: Evaluation, folder: str) -> str:
    """Draw mean IoU over the distance from a boundary; returns the picture's address."""
    from pipeline.report.figures import line_figure

    near = [(one["pixels"], one["mean_iou"]) for one in evaluation.summary()["trimap"] if one["mean_iou"] is not None]
    target = storage.join(folder, "trimap.png")
    storage.write_atomic(target, line_figure(near, "pixels from a boundary, at most", "mean IoU"))
    return target


def submit(results: str, target: str) -> None:
    """Write the masks for the VOC server, and print what to do with them."""
    names = write_submission(results, target)
    console.print(f"{len(names)} masks for the VOC server; its archive: tar -czf results.tgz -C {target} results")
    if failed := len(read_errors(results)):
        console.print(f"{failed} images of the run failed and have no mask; the server wants one of every test image")


def show(evaluation: Evaluation, target: str) -> None:
    """Print the tables, the means, and what was left out."""
    content = evaluation.summary()
    table = Table("class", box=None)
    table.add_column("IoU", justify="right")
    table.add_column("pixels", justify="right")
    for one in content["classes"]:
        table.add_row(one["name"], "-" if one["iou"] is None else f"{one['iou']:.4f}", f"{one['true_pixels']:,}")
    console.print(table)
    if near := [one for one in content["trimap"] if one["pixels"] in SHOWN_DISTANCES and one["mean_iou"] is not None]:
        table = Table("pixels from a boundary", "mean IoU", "pixel accuracy", box=None)
        for one in near:
            table.add_row(f"at most {one['pixels']}", f"{one['mean_iou']:.4f}", f"{one['pixel_accuracy']:.4f}")
        console.print(table)
    if content["objects"]:
        show_objects(content["objects"])
    low, high = content["mean_iou_interval"] or (content["mean_iou"],) * 2
    console.print(f"{counted(evaluation.images, 'image')}: mean IoU {content['mean_iou']:.4f} ({low:.3f} to {high:.3f} "
                  f"in 95 % of draws of so many images), pixel accuracy {content['pixel_accuracy']:.4f}")  # fmt: skip
    if evaluation.class_names == VOC_CLASSES:
        show_published(content)
    for names, what in (
        (evaluation.missing, "ground truths have no result and are not in these figures"),
        (evaluation.without_truth, "results have no ground truth"),
        (tuple(f"{one.image} ({one.message})" for one in evaluation.problems), "images could not be compared"),
        (evaluation.void_only, "ground truths hold nothing but 0 and 255 (void); is their foreground drawn as 255?"),
    ):
        if names:
            console.print(f"{len(names)} {what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}")
    console.print(f"figures: {target}")


def show_objects(groups: list[dict[str, Any]]) -> None:
    """Print the means over single objects, by their size."""
    table = Table("objects", box=None)
    for heading in ("number", "mean IoU", "95 % of draws", "missed"):
        table.add_column(heading, justify="right")
    for one in groups:
        name = "in several parts"
        if "share_from" in one:
            name = f"{one['share_from']:.0%} to {one['share_to']:.0%} of the image"
        figures = ["-"] * 3
        if one["objects"]:
            low, high = one["mean_iou_interval"]
            figures = [f"{one['mean_iou']:.3f}", f"{low:.3f} to {high:.3f}", f"{one['missed']:.0%}"]
        table.add_row(name, str(one["objects"]), *figures)
    console.print(table)


def show_published(content: dict[str, Any]) -> None:
    """Print the paper's figures for VOC's classes beside the run's."""
    table = Table("class", box=None, padding=(0, 1, 0, 0), caption="the paper's are of VOC 2012 test")
    for heading in ("here", *PUBLISHED):
        table.add_column(heading, justify="right")
    ours = [*((one["name"], one["iou"]) for one in content["classes"]), ("mean", content["mean_iou"])]
    theirs = zip(*((*PUBLISHED_CLASSES[name], mean) for name, mean in PUBLISHED.items()), strict=True)
    for (name, iou), percents in zip(ours, theirs, strict=True):
        here = "-" if iou is None else f"{iou:.3f}"
        table.add_row(name, here, *(f"{percent / 100:.3f}" for percent in percents))
    console.print(table)


if __name__ == "__main__":
    end_process(main)
