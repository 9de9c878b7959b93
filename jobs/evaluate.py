"""Compare a run's results with ground truth in VOC's layout: IoU of each class, mean IoU, pixel accuracy.

    python jobs/evaluate.py --results runs/voc --ground-truth data/VOC2012 --split val

Prints a table and writes the figures, the confusion matrix and the names of images left out as JSON
(default RESULTS/run/evaluation.json). Exit codes: 0 compared, 2 bad arguments or missing data.
"""

from __future__ import annotations

import json
import sys

import tyro
from rich.console import Console
from rich.table import Table

from pipeline import storage
from pipeline.config import EvaluateConfig
from pipeline.evaluation import Evaluation, EvaluationError, evaluate_results
from pipeline.images import ImageError
from pipeline.report.panels import write_panels
from pipeline.results import ResultsError

EXIT_DONE, EXIT_ARGUMENTS = 0, 2

console = Console(soft_wrap=True)


def main() -> int:
    """Parse, compare, print, write."""
    config = tyro.cli(EvaluateConfig, description=__doc__)
    try:
        evaluation = evaluate_results(config.results, config.ground_truth, config.split)
        target = config.json or storage.join(config.results, "run", "evaluation.json")
        content = {
            "results": storage.absolute(config.results),
            "ground_truth": storage.absolute(config.ground_truth),
            "split": config.split,
            **evaluation.summary(),
        }
        storage.write_atomic(target, json.dumps(content, indent=1).encode())
        panels = write_panels(config.results, config.ground_truth, config.panels)
    except (EvaluationError, ResultsError, ImageError, storage.StorageError, OSError) as error:
        print(f"evaluate: {storage.redact(str(error))}", file=sys.stderr)
        return EXIT_ARGUMENTS
    show(evaluation, target)
    if panels:
        console.print(f"{len(panels)} pictures, photograph, truth and result: {storage.parent(panels[0])}")
    left_out = len(evaluation.missing) + len(evaluation.problems)
    if config.require_all and left_out:
        print(f"evaluate: {left_out} images were left out, and --require-all was given", file=sys.stderr)
        return EXIT_ARGUMENTS
    return EXIT_DONE


def show(evaluation: Evaluation, target: str) -> None:
    """Print the table, the means, and what was left out."""
    content = evaluation.summary()
    table = Table("class", box=None)
    table.add_column("IoU", justify="right")
    table.add_column("pixels", justify="right")
    for one in content["classes"]:
        table.add_row(one["name"], "-" if one["iou"] is None else f"{one['iou']:.4f}", f"{one['true_pixels']:,}")
    console.print(table)
    console.print(f"{evaluation.images} images: mean IoU {content['mean_iou']:.4f}, "
                  f"pixel accuracy {content['pixel_accuracy']:.4f}")  # fmt: skip
    for names, what in (
        (evaluation.missing, "ground truths have no result and are not in these figures"),
        (evaluation.without_truth, "results have no ground truth"),
        (tuple(f"{one.image} ({one.message})" for one in evaluation.problems), "images could not be compared"),
    ):
        if names:
            console.print(f"{len(names)} {what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}")
    console.print(f"figures: {target}")


if __name__ == "__main__":
    sys.exit(main())
