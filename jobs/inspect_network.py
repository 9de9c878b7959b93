"""Draw what the network does with one image, as two pictures. No Ray here.

    python jobs/inspect_network.py --image data/demo/JPEGImages/val_000000.jpg --weights demo --output runs/inspected
    python jobs/inspect_network.py ... --box 40 30 260 220 --truth data/demo/SegmentationClass/val_000000.png

Writes OUTPUT/<name>_activations.png: the decoder's maps from coarse to fine for the image or the box, one channel per
layer (the paper's figure 4); and OUTPUT/<name>_panels.png: the photograph, the truth if given, and the results of the
main job's stages without and with the CRF, side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from jobs import commands
from jobs.common import EXIT_DONE, call, end_process
from jobs.segment_dataset import parse
from pipeline import storage
from pipeline.checkpoints.bundled import weights_uri
from pipeline.config import DecodeConfig, InspectConfig
from pipeline.datasets.masks import load_image
from pipeline.inputs.named import check_named
from pipeline.report.painter import panel, png
from pipeline.run.prepare import with_absolute_paths, with_shape_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; returns the exit code."""
    return call(commands.INSPECT, arguments, run)


def run(config: InspectConfig) -> int:
    """Draw, write."""
    from pipeline.models.checkpoint import load_checkpoint  # imports torch, which the help does not need
    from pipeline.report.network_pictures import activations, read_truth, segmented

    uri = weights_uri(config.weights)
    for option, given in (("image", config.image), ("weights", uri), ("truth", config.truth)):
        check_named(option, given)
    checkpoint = load_checkpoint(storage.read_bytes(uri), uri)
    image_HW3 = load_image(config.image, DecodeConfig().max_megapixels)
    masks = {} if config.truth is None else {"truth": read_truth(config.truth, image_HW3, checkpoint)}
    for name, options in config.results().items():
        arguments = ["--input", config.image, "--output", config.output, "--weights", config.weights, *options]
        of_result = with_shape_of(with_absolute_paths(parse(arguments)), checkpoint.info)
        masks[name] = segmented(of_result, checkpoint.info.num_classes)
    pictures = {
        "activations": activations(checkpoint, image_HW3, config.box),
        "panels": png(panel(image_HW3, [*masks.values()], checkpoint.info.class_names, ["photograph", *masks])),
    }
    for name, picture in pictures.items():
        target = storage.join(config.output, f"{PurePosixPath(config.image).stem}_{name}.png")
        storage.write_atomic(target, picture)
        print(target)
    return EXIT_DONE


if __name__ == "__main__":
    end_process(main)
