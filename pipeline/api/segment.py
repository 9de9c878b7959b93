"""Photographs to masks in this process: the stages of the main job, without Ray and without files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import islice
from os import PathLike, fspath

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL.Image import Image

from pipeline import storage
from pipeline.checkpoints.bundled import recipe_for
from pipeline.config import SEGMENT_RECIPES, SegmentConfig
from pipeline.config.stages import STAGES, stages_of
from pipeline.errors import ImageError, SegmentError
from pipeline.imaging.images import decode_at_working_size, resize_labels, working_size
from pipeline.inputs.reading import read_image
from pipeline.outputs.schema import OK, SKIPPED
from pipeline.run.prepare import check_networks, with_absolute_paths, with_shape_of
from pipeline.stages.decode import image_columns
from pipeline.stages.load import Process, load_stage
from pipeline.stages.refine import labels_of, marginals_of
from pipeline.stages.rows import Row, Work, start_rows, to_table, unpack

AT_ONCE = 4
"""Images whose crops go through the network in the same micro-batches, as in the job."""

PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")

Photograph = str | PathLike[str] | Image | NDArray[np.uint8]


@dataclass(frozen=True)
class Segmentation:
    """The result for one image.

    Attributes:
        mask_HW: labels, uint8 `[H, W]`, at the image's size.
        class_names: names of all labels, background first.
        class_ids_K: the labels that could still win before the CRF, int64 `[K]`.
        probabilities_KHW: their probabilities after the CRF, float32 `[K, h, w]`, 0..1, at working size (`--max-side`).
    """

    mask_HW: NDArray[np.uint8]
    class_names: tuple[str, ...]
    class_ids_K: NDArray[np.int64]
    probabilities_KHW: NDArray[np.float32]


def segment(
    images: Iterable[Photograph], weights: str = "voc", config: SegmentConfig | None = None
) -> Iterator[Segmentation]:
    """Segment images one after the other, as the main job does; the masks are the same, bit by bit.

    As in the job, torch uses one thread meanwhile; for many images the job is faster.

    Args:
        images: paths and addresses; Pillow's images; arrays, RGB, uint8 `[H, W, 3]`. The first two are turned upright.
        weights: a checkpoint, the name of a bundled one (`voc`, `voc-fcn`, `demo`), or a network of another library as
            `--weights` has it: `torchvision:fcn_resnet50=FILE`, `hf:FOLDER`, `onnx:FILE`, `module:Class`.
        config: settings; None: the recipe of the network, or the defaults. Its `input`, `output`, `weights`
            and settings for Ray are not used.

    Yields:
        A result for each image, in order.

    Raises:
        UserError: settings, weights or an image cannot be used.
        SegmentError: a stage failed on an image, or skipped it.
        OSError: a file cannot be read.
    """
    if isinstance(images, str | PathLike):
        raise ImageError("unreadable", f"images is one path, {fspath(images)}; give a list: [{fspath(images)!r}]")
    settings, class_names, stages = _loaded(weights, config)
    waiting = iter(images)
    while batch := list(islice(waiting, AT_ONCE)):
        yield from _segmented(batch, settings, class_names, stages)


def _loaded(weights: str, config: SegmentConfig | None) -> tuple[SegmentConfig, tuple[str, ...], list[Work]]:
    """The settings as in a run, the classes, and the functions of the stages before the CRF."""
    if config is None:
        config = SEGMENT_RECIPES[recipe_for(weights) or SegmentConfig.recipe](SegmentConfig("", ""))
    paths = with_absolute_paths(replace(config, input=".", output=".", weights=weights))
    info, _ = check_networks(paths)
    settings = with_shape_of(paths, info)
    process = Process(settings, info.num_classes, gpus=0.0)
    between = [stage for stage in stages_of(settings) if stage.name not in {STAGES[0].name, STAGES[-1].name}]
    return settings, info.class_names, [load_stage(stage.name, process) for stage in between]


def _segmented(
    images: list[Photograph], config: SegmentConfig, class_names: tuple[str, ...], stages: list[Work]
) -> list[Segmentation]:
    import torch

    names = [str(number) for number in range(len(images))]
    rows = start_rows(pa.table({"image_id": names, "uri": names})).to_pylist()
    table = to_table([row | image_columns(*_pixels(image, config))
                      for row, image in zip(rows, images, strict=True)])  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more threads would sum in another order, with other results
    try:
        for stage in stages:
            table = stage(table)
        done = table.to_pylist()
        _check(done)
        marginals = marginals_of(done, config.refine)
    finally:
        torch.set_num_threads(threads)
    return [_segmentation(row, one_KHW, class_names) for row, one_KHW in zip(done, marginals, strict=True)]


def _segmentation(row: Row, refined_KHW: NDArray[np.float32], class_names: tuple[str, ...]) -> Segmentation:
    class_ids_K = unpack(row["class_ids"], np.int64, -1)
    mask_HW = resize_labels(labels_of(class_ids_K, refined_KHW), row["height"], row["width"])
    return Segmentation(mask_HW, class_names, class_ids_K, refined_KHW)


def _pixels(image: Photograph, config: SegmentConfig) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The image at working size, and the size of the whole image."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ImageError("unsupported", f"an array is {image.dtype} {image.shape}; uint8 (H, W, 3), RGB, is needed")
        return working_size(image, config.decode.max_side), (image.shape[0], image.shape[1])
    if isinstance(image, Image):
        if image.mode not in PNG_MODES:
            image = image.convert("RGB")
        buffer = BytesIO()
        image.save(buffer, "PNG", exif=image.getexif())
        data = buffer.getvalue()
    else:
        data = read_image(storage.absolute(fspath(image)))
    return decode_at_working_size(data, config.decode.max_megapixels, config.decode.max_side)


def _check(rows: list[Row]) -> None:
    for row in rows:
        if row["status"] == SKIPPED:
            raise SegmentError(f"image {row['image_id']} was left out by {row['skip_stage']}: {row['skip_reason']}")
        if row["status"] != OK:
            raise SegmentError(f"image {row['image_id']} failed in {row['error_stage']}: {row['error_message']}")
