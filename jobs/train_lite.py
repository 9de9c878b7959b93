"""Train a light DeconvNet on windows of photographs with class masks, from a light FCN that teaches it.

    python jobs/train_lite.py --data VOC2012 SBD/dataset --fcn runs/fcn/fcn.safetensors --output runs/lite

It writes OUTPUT/deconvnet.safetensors, the network for `segment_dataset.py --weights`, alone or in an ensemble with the
FCN (`--recipe voc --fcn`); the rest of OUTPUT is as for `train_fcn.py`. Called again, a training that was stopped
resumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from jobs import commands
from jobs.common import EXIT_DONE, call, end_process, make_report
from pipeline import storage
from pipeline.checkpoints.bundled import weights_uri
from pipeline.config.lite import TrainLiteConfig
from pipeline.inputs.named import check_named


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; returns the exit code."""
    return call(commands.TRAIN_LITE, arguments, run)


def run(options: TrainLiteConfig) -> int:
    """Check, train, print the result."""
    for root in options.data:
        check_named("data", root)
    from pipeline.api.train_lite import train_lite  # imports torch, which neither the help nor a typing error needs

    trained = train_lite(options, partial(print, flush=True))
    print(f"mean IoU on validation photographs, each in one window, {trained.mean_iou:.3f}; network: {trained.network}")
    fcn = storage.absolute(weights_uri(options.fcn))
    with_it = f"--output runs/photos --recipe voc --fcn {fcn} --weights {trained.network}"
    print(f"segment with it: {commands.SEGMENT.line('photos', with_it)}")
    make_report(options.output, print)
    return EXIT_DONE


if __name__ == "__main__":
    end_process(main)
