"""Train the light FCN on whole photographs with class masks.

    python jobs/train_fcn.py --data VOC2012 SBD/dataset --output runs/fcn

It writes OUTPUT/fcn.safetensors, the network for `segment_dataset.py --recipe fcn+crf --weights`, or `--fcn` in an
ensemble; OUTPUT/train.json with settings and figures; and during training OUTPUT/curves.csv and curves.png. Called
again, a training that was stopped resumes from its last checkpoint. The encoder starts from ImageNet (`--imagenet`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from jobs import commands
from jobs.common import EXIT_DONE, call, end_process, make_report
from pipeline.config.fcn import TrainFcnConfig
from pipeline.inputs.named import check_named


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; returns the exit code."""
    return call(commands.TRAIN_FCN, arguments, run)


def run(options: TrainFcnConfig) -> int:
    """Check, train, print the result."""
    for root in options.data:
        check_named("data", root)
    from pipeline.api.train_fcn import train_fcn  # imports torch, which neither the help nor a typing error needs

    trained = train_fcn(options, partial(print, flush=True))
    print(f"mean IoU on validation photographs {trained.mean_iou:.3f}; network: {trained.network}")
    with_it = commands.SEGMENT.line("photos", "--output runs/photos --recipe fcn+crf --weights", trained.network)
    print(f"segment with it: {with_it}")
    make_report(options.output, print)
    return EXIT_DONE


if __name__ == "__main__":
    end_process(main)
