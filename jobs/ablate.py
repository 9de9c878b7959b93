"""What each part of the method is worth: the main job with one thing changed at a time, scored, in one table.

    python jobs/ablate.py --data data/demo --split val --output runs/ablation
    python jobs/ablate.py ... --also structured='--edges structured --edge-model model.yml.gz' --only base structured

Each variant is its own run of jobs/segment_dataset.py, OUTPUT/<variant>, all on one Ray; the same command again
finishes what is left. Writes OUTPUT/ablation.json, ablation.csv and, if variants differ only in the number of
proposals, proposals.png. If the run of a variant fails, its exit code becomes this job's.
"""

from __future__ import annotations

import io
import json
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv
from rich.console import Console
from rich.table import Table

from jobs import commands, segment_dataset
from jobs.common import EXIT_DONE, call, end_process
from pipeline import storage
from pipeline.checkpoints.bundled import weights_uri
from pipeline.config import AblateConfig
from pipeline.datasets import voc
from pipeline.errors import EvaluationError
from pipeline.evaluation.results import evaluate_results
from pipeline.evaluation.truths import list_truths, truth_name
from pipeline.inputs.manifest import build_manifest
from pipeline.inputs.named import check_named

Row = dict[str, Any]

console = Console(soft_wrap=True, markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; returns the exit code."""
    return call(commands.ABLATE, arguments, run)


def run(config: AblateConfig) -> int:
    """Run and score each variant, print, write."""
    check_named("data", config.data)
    check_named("weights", weights_uri(config.weights))
    images = storage.join(config.output, "images.parquet")
    calls = {name: main_arguments(config, images, name, options) for name, options in config.variants().items()}
    for one in calls.values():  # a wrong option of the last variant should end the job now
        segment_dataset.parse(one)
    storage.write_parquet(images, images_of(config))
    rows: list[Row] = []
    for name, options in config.variants().items():
        console.rule(f"{name} {shlex.join(options)}", align="left")
        if code := segment_dataset.main(calls[name]):
            print(f"ablate: the run {name} ended with exit code {code}, see above", file=sys.stderr)
            return code
        rows.append({"variant": name, "options": shlex.join(options), **score(config, name)})
    write(config.output, rows)
    show(config, rows)
    return EXIT_DONE


def main_arguments(config: AblateConfig, images: str, name: str, options: list[str]) -> list[str]:
    """The main job's command line for one variant.

    Args:
        config: the settings.
        images: address of the manifest.
        name: the variant's name.
        options: the options that it changes.
    """
    output = storage.join(config.output, name)
    return ["--input", images, "--output", output, "--weights", config.weights, "--no-masks", *options]


def images_of(config: AblateConfig) -> pa.Table:
    """The split's images as a manifest for the main job.

    Raises:
        EvaluationError: the data set has no masks or no such split, or a mask has no image.
    """
    names = sorted(list_truths(config.data, config.split).wanted)[: config.limit]
    photographs = build_manifest(storage.join(config.data, voc.IMAGES), None)
    wanted = set(names)
    rows = [row for row in photographs.to_pylist() if truth_name(row["image_id"]) in wanted]
    if len(rows) != len(names):
        raise EvaluationError(f"{config.data} has {len(names)} masks to compare with and {len(rows)} photographs of "
                              f"their names in {voc.IMAGES}; there must be one for each")  # fmt: skip
    return pa.Table.from_pylist(rows, schema=photographs.schema)


def score(config: AblateConfig, name: str) -> Row:
    """The figures of one variant's run."""
    output = storage.join(config.output, name)
    evaluation = evaluate_results(output, config.data, config.split, config.trimap).summary()
    summary = json.loads(storage.read_bytes(storage.join(output, "run", "summary.json")))
    settings = json.loads(storage.read_bytes(storage.join(output, "run", "config.json")))["identity"]
    stages = summary["stages"].values()
    return {
        "mean_iou": evaluation["mean_iou"],
        "pixel_accuracy": evaluation["pixel_accuracy"],
        "mean_iou_near_boundaries": evaluation["trimap"][-1]["mean_iou"],
        # All stages in one process; with few images, most of the run's own time is Ray's start.
        "seconds_an_image": sum(stage["seconds"] / stage["rows"] for stage in stages if stage["rows"]),
        "images": evaluation["images"],
        "settings": settings,
    }


def write(output: str, rows: list[Row]) -> None:
    """Write the table as JSON and CSV, and the figure if there is something to draw."""
    storage.write_atomic(storage.join(output, "ablation.json"), json.dumps(rows, indent=1).encode())
    flat = pa.Table.from_pylist([{name: value for name, value in row.items() if name != "settings"} for row in rows])
    buffer = io.BytesIO()
    pa.csv.write_csv(flat, buffer)
    storage.write_atomic(storage.join(output, "ablation.csv"), buffer.getvalue())
    points = by_proposals(rows)
    if len(points) > 1:
        from pipeline.report.figures import line_figure

        storage.write_atomic(storage.join(output, "proposals.png"), line_figure(points, "proposals", "mean IoU"))


def by_proposals(rows: list[Row]) -> list[tuple[int, float]]:
    """Number of proposals and mean IoU of the rows that differ from the first in nothing else, ascending."""

    def others(row: Row) -> Row:
        return {name: value for name, value in row["settings"].items() if name != "propose.proposals"}

    alike = [row for row in rows if others(row) == others(rows[0])]
    return sorted((row["settings"]["propose.proposals"], row["mean_iou"]) for row in alike)


def show(config: AblateConfig, rows: list[Row]) -> None:
    """Print the table."""
    table = Table("variant", "options", box=None)
    for heading in ("mean IoU", "accuracy", f"IoU at {config.trimap} px", "s/image", "images"):
        table.add_column(heading, justify="right")
    for row in rows:
        figures = (row[name] for name in ("mean_iou", "pixel_accuracy", "mean_iou_near_boundaries", "seconds_an_image"))
        texts = ("-" if figure is None else f"{figure:.3f}" for figure in figures)
        table.add_row(row["variant"], row["options"], *texts, str(row["images"]))
    console.rule()
    console.print(table)
    console.print(f"IoU at {config.trimap} px: mean IoU of the pixels at most so far from a boundary; s/image: all "
                  f"stages, in one process; files: {config.output}")  # fmt: skip


if __name__ == "__main__":
    end_process(main)
