"""Search the CRF's parameters on a validation set, from the probabilities that a run has saved.

    python jobs/segment_dataset.py --input data/demo/JPEGImages --output runs/demo --save-probabilities
    python jobs/tune_crf.py --results runs/demo --ground-truth data/demo --split val

Prints mean IoU without a CRF, with the default parameters and with the best that were found for each normalisation of
the kernels, and these as options for segment_dataset.py. Choose on one part of the data and report on another. The
network is not run again, so a trial takes only the CRF's time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial

from rich.console import Console
from rich.table import Table

from jobs import commands
from jobs.common import EXIT_DONE, call, counted, end_process
from pipeline import storage
from pipeline.config import RefineConfig
from pipeline.config.evaluating import TuneCrfConfig
from pipeline.config.stages import CrfNormalization
from pipeline.crf.refine import check_backend
from pipeline.evaluation.crf_tuning import RANGES, Trial, class_count, load_examples, measure, options, search
from pipeline.inputs.named import check_named

SHOWN = 5  # trials of each normalisation


console = Console(soft_wrap=True, markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; returns the exit code."""
    return call(commands.TUNE_CRF, arguments, run)


def run(config: TuneCrfConfig) -> int:
    """Read, search, print, write."""
    check_named("results", config.results)
    check_named("ground-truth", config.ground_truth)
    starts = [RefineConfig(crf_normalization=one) for one in config.normalizations]
    for start in starts:
        check_backend(start)
    examples = load_examples(config.results, config.ground_truth, config.split, config.limit)
    measured = partial(
        measure, examples, num_classes=class_count(config.results), threads=config.threads or os.cpu_count() or 1
    )
    console.print(f"{counted(len(examples), 'image')}; {counted(config.trials, 'trial')} for each normalisation")
    without = Trial(RefineConfig(crf="none"), measured(RefineConfig(crf="none")))
    found = {start.crf_normalization: search(measured, start, config.trials, config.seed) for start in starts}
    if config.json is not None:
        rows = [asdict(trial) for trial in (without, *(trial for trials in found.values() for trial in trials))]
        storage.write_atomic(config.json, json.dumps(rows, indent=1).encode())
    show(without, found)
    return EXIT_DONE


def show(without: Trial, found: Mapping[CrfNormalization, list[Trial]]) -> None:
    """Print the table, and the best of each normalisation as options."""
    names = list(RANGES["none"])
    table = Table("kernels", "mean IoU", *(name.replace("_", "\n") for name in names), box=None)
    table.add_row("no CRF", f"{without.mean_iou:.4f}")
    for normalization, trials in found.items():
        start = RefineConfig(crf_normalization=normalization)
        defaults = [trial for trial in trials[SHOWN:] if trial.refine == start]
        for trial in (*trials[:SHOWN], *defaults):
            name = f"{normalization}, defaults" if trial.refine == start else normalization
            table.add_row(name, f"{trial.mean_iou:.4f}", *(f"{getattr(trial.refine, one):g}" for one in names))
    console.print(table)
    for normalization, trials in found.items():
        console.print(f"best, {normalization}: {options(trials[0].refine)}")


if __name__ == "__main__":
    end_process(main)
