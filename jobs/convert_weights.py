"""Convert a released Caffe model to a checkpoint of this project.

python jobs/convert_weights.py --source release.caffemodel --kind deconvnet --output release.safetensors
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs import commands
from jobs.common import EXIT_DONE, call, end_process
from pipeline import storage
from pipeline.config import ConvertConfig
from pipeline.datasets.class_list import read_class_list
from pipeline.inputs.named import check_named
from pipeline.models.checkpoint_header import CheckpointInfo, fingerprint


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; returns the exit code."""
    return call(commands.CONVERT, arguments, run)


def run(config: ConvertConfig) -> int:
    """Read, convert, write."""
    check_named("source", config.source)
    check_named("classes", config.classes)
    class_names = read_class_list(config.classes) if config.classes else None
    from pipeline.convert.caffe import read_caffemodel
    from pipeline.convert.released import CONVERT
    from pipeline.models.checkpoint import dump_checkpoint

    name = config.source.rpartition("/")[2]
    layers = read_caffemodel(storage.read_bytes(config.source), name)
    net, info = CONVERT[config.kind](layers, name, class_names)
    data = dump_checkpoint(net, info)
    storage.write_atomic(config.output, data)
    print(f"{len(layers)} layers of {name}, {info.num_classes} classes, width {info.width:g}: {config.output} "
          f"({fingerprint(data)})")  # fmt: skip
    print(what_for(config, info))
    return EXIT_DONE


def what_for(config: ConvertConfig, info: CheckpointInfo) -> str:
    """One line that says what the checkpoint can be used for."""
    if config.kind == "fcn8s":
        return f"ensemble: {commands.SEGMENT.line('...', '--recipe edeconvnet+crf --fcn', config.output)}"
    if config.kind == "deconvnet" and info.batch_statistics:
        return f"segment: {commands.SEGMENT.line('...', '--recipe release --weights', config.output)}"
    why = "" if config.kind == "vgg16" else (
        "this is the training form, without the statistics of batch normalisation, so it can't segment yet; "
    )  # fmt: skip
    return f"{why}train from it: {commands.TRAIN.line('...', '--init', config.output)}"


if __name__ == "__main__":
    end_process(main)
