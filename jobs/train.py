"""Train DeconvNet in two stages: centred objects first, then object proposals.

    python jobs/train.py --training-set data/training_set --output runs/train --epochs 10 10

Called again, a training that was stopped resumes from its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from jobs import commands
from jobs.common import EXIT_DONE, call, end_process, make_report
from pipeline.api.train import train
from pipeline.config import TrainConfig
from pipeline.inputs.named import check_named

COMMAND = commands.TRAIN
parse = partial(commands.parse, COMMAND)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; returns the exit code."""
    return call(COMMAND, arguments, run)


def run(options: TrainConfig) -> int:
    """Check, train the stages one after the other, print the result."""
    for option in ("training_set", "init", "vgg16"):
        check_named(option.replace("_", "-"), getattr(options, option))
    trained = train(options, partial(print, flush=True), partial(report_so_far, options.output))
    print(f"mean IoU on validation windows {trained.best['val']['mean_iou']:.3f}; network: {trained.network}")
    print(f"curves: {trained.curves}")
    print(f"segment with it: {commands.SEGMENT.line('photos', '--output runs/photos --weights', trained.network)}")
    make_report(options.output, print)
    return EXIT_DONE


def report_so_far(output: str) -> None:
    """Write the training's page while it is at work; without one it goes on all the same."""
    with suppress(Exception):
        from jobs.report import write_report  # only now, as in `make_report`: the start does not need jinja2

        print(f"report so far: {write_report(output)}", flush=True)


if __name__ == "__main__":
    end_process(main)
