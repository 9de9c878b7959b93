"""Convert a released Caffe model to a checkpoint of this project.

    python jobs/convert_weights.py --source release.caffemodel --kind deconvnet --output release.safetensors

Reads both forms of `.caffemodel` and checks every blob's shape. The checkpoint says how it must be fed (BGR, mean
subtracted), so `segment_dataset.py --weights`, `--fcn` and `train.py --init` take it as it is. Exit codes: 0 done,
2 bad arguments or a file that does not fit.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro

from pipeline import storage
from pipeline.config import ConvertConfig
from pipeline.convert.caffe import read_caffemodel
from pipeline.convert.released import CONVERT
from pipeline.datasets.class_list import read_class_list
from pipeline.models.checkpoint import CheckpointInfo, dump_checkpoint, fingerprint

EXIT_DONE, EXIT_ARGUMENTS = 0, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, read, convert, write."""
    config = tyro.cli(ConvertConfig, args=arguments, description=__doc__)
    try:
        class_names = read_class_list(config.classes) if config.classes else None
        name = config.source.rpartition("/")[2]
        layers = read_caffemodel(storage.read_bytes(config.source), name)
        net, info = CONVERT[config.kind](layers, name, class_names)
        data = dump_checkpoint(net, info)
        storage.write_atomic(config.output, data)
    except (storage.StorageError, OSError, ValueError) as error:
        print(f"convert_weights: {storage.redact(str(error))}", file=sys.stderr)
        return EXIT_ARGUMENTS
    print(f"{len(layers)} layers of {name}, {info.num_classes} classes, width {info.width:g}: {config.output} "
          f"({fingerprint(data)})")  # fmt: skip
    print(what_for(config, info))
    return EXIT_DONE


def what_for(config: ConvertConfig, info: CheckpointInfo) -> str:
    """One line that says what the checkpoint is good for."""
    if config.kind == "fcn8s":
        return f"ensemble: jobs/segment_dataset.py --recipe edeconvnet+crf --fcn {config.output} ..."
    if config.kind == "deconvnet" and info.batch_statistics:
        return f"segment: jobs/segment_dataset.py --recipe release --weights {config.output} ..."
    why = "" if config.kind == "vgg16" else (
        "this is the training form, without the statistics of batch normalisation, so it can't segment yet; "
    )  # fmt: skip
    return f"{why}train from it: jobs/train.py --init {config.output} ..."


if __name__ == "__main__":
    sys.exit(main())
