"""Draw one image's way through the main job, step by step. No Ray here.

    deconvnet inspect photo.jpg --output runs/inspected
    deconvnet inspect cats/one.jpg --results runs/photos --output runs/inspected
    deconvnet inspect data/demo/JPEGImages/val_000000.jpg --weights demo --box 40 30 260 220 --output runs/inspected

Writes OUTPUT/<name>_steps.png: edges, proposals, single windows, labels and confidence before and after the CRF, with
seconds. With a truth or other options to compare: OUTPUT/<name>_panels.png, results side by side. Of the paper's
network: OUTPUT/<name>_activations.png, the decoder's maps from coarse to fine, one channel per layer (its figure 4).
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import PurePosixPath

import pyarrow.compute as pc

from jobs import commands
from jobs.common import EXIT_DONE, call, end_process
from jobs.segment_dataset import parse
from pipeline import storage
from pipeline.config import ConfigError, InspectConfig, SegmentConfig
from pipeline.imaging.images import decode_image
from pipeline.inputs import tar_images
from pipeline.inputs.advice import advice_for
from pipeline.inputs.named import check_named
from pipeline.inputs.reading import file_of, in_container, read_image
from pipeline.inputs.tables import ENDINGS
from pipeline.outputs.layout import RECORD
from pipeline.outputs.results import read_manifest
from pipeline.report.painter import panel, png
from pipeline.run.prepare import check_networks, with_absolute_paths, with_shape_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; returns the exit code."""
    return call(commands.INSPECT, arguments, run)


def run(config: InspectConfig) -> int:
    """Draw, write."""
    image, common = of_run(config) if config.results is not None else (config.image, [])
    check_named("image", file_of(image))
    check_is_one(image, config.output)
    check_named("truth", config.truth)
    from pipeline.models.checkpoint import load_checkpoint  # imports torch, which neither help nor typing errors need
    from pipeline.report.network_pictures import activations, read_truth, segmented
    from pipeline.report.steps import steps

    if config.weights is not None:
        common += ["--weights", config.weights]
    common += ["--input", image, "--output", config.output]
    settings = with_absolute_paths(settings_of([*common, *shlex.split(config.base)]))
    info, _ = check_networks(settings)
    pictures = {"steps": png(steps(with_shape_of(settings, info), info.class_names))}
    image_HW3 = decode_image(read_image(image), settings.decode.max_megapixels)
    if config.truth is not None or config.also:
        masks = {} if config.truth is None else {"truth": read_truth(config.truth, image_HW3, info.num_classes)}
        for name, options in config.compared().items():
            compared = with_shape_of(with_absolute_paths(settings_of([*common, *options])), info)
            masks[name] = segmented(compared, info.num_classes)
        pictures["panels"] = png(panel(image_HW3, [*masks.values()], info.class_names, ["photograph", *masks]))
    if info.architecture == "deconvnet":
        checkpoint = load_checkpoint(storage.read_bytes(settings.weights), settings.weights)
        pictures["activations"] = activations(checkpoint, image_HW3, config.box)
    else:
        print(f"no picture of a decoder's maps: {settings.weights} is no network of the paper's kind")
    shown = PurePosixPath(config.image if in_container(image) else image).stem
    for name, picture in pictures.items():
        target = storage.join(config.output, f"{shown}_{name}.png")
        storage.write_atomic(target, picture)
        print(target)
    return EXIT_DONE


def settings_of(options: Sequence[str]) -> SegmentConfig:
    """The main job's settings; if they cannot be read, a line says where they come from.

    Raises:
        SystemExit: something is wrong with the options; what it is was printed.
    """
    try:
        settings: SegmentConfig = parse(options)
    except SystemExit as end:
        if end.code:
            print(
                f"{commands.INSPECT.name}: --base='OPTIONS' and --also NAME='OPTIONS' hand options of the main job on, "
                "with their dashes, as in --base='--proposals 20'",
                file=sys.stderr,
            )
        raise
    return settings


def check_is_one(image: str, output: str) -> None:
    """Make sure that an image is no folder, no file of many and of no form that is not read.

    Raises:
        ConfigError: it is one; the message says how to give an image of it.
    """
    folder = storage.is_folder(image)
    if folder and storage.exists(storage.join(image, RECORD)):
        how = commands.INSPECT.line("IMAGE_ID", "--results", shlex.quote(image), "--output", shlex.quote(output))
        raise ConfigError(f"--image is {image}, the output of a run; give the id of one of its images: {how}")
    if folder:
        all_of_them = commands.SEGMENT.line(shlex.quote(image), "--output", "runs/photos")
        raise ConfigError(f"--image is {image}, a folder; give one image in it, or do all of them: {all_of_them}")
    if image.lower().endswith((*ENDINGS, tar_images.ENDING)):  # an image in one has an address that goes on
        run = commands.SEGMENT.line(shlex.quote(image), "--output", "runs/photos")
        how = commands.INSPECT.line("IMAGE_ID", "--results", "runs/photos", "--output", shlex.quote(output))
        raise ConfigError(
            f"--image is {image}, which holds or lists many images; segment them, then give one's id (in results/): "
            f"`{run}`, then `{how}`"
        )
    if (advice := advice_for(image)) is not None:
        raise ConfigError(f"--image is {image}, which is not read as it is: {advice}; here, give one image")


def of_run(config: InspectConfig) -> tuple[str, list[str]]:
    """Where a run's image lies, and the options that do what the run did.

    Raises:
        ConfigError: the folder holds no run, or the run has no such image.
        ResultsError: the list of its images is missing or damaged.
    """
    assert config.results is not None
    record = storage.join(config.results, RECORD)
    check_named("results", record)
    images = read_manifest(config.results)
    found = images.filter(pc.equal(images["image_id"], config.image))
    if not len(found):
        known = images["image_id"].to_pylist()
        near = get_close_matches(config.image, known, 1) or known[:1]
        raise ConfigError(f"{config.results} has no image {config.image}; did you mean {', '.join(near)}?")
    return found["uri"][0].as_py(), ["--config", record]


if __name__ == "__main__":
    end_process(main)
