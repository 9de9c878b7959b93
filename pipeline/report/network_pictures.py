"""What the network does with one image: its decoder's maps, and the labels that the main job's stages give."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline import storage
from pipeline.config import ConfigError, DecodeConfig, ProposeConfig, SegmentConfig
from pipeline.errors import ImageError
from pipeline.imaging.classes import VOID
from pipeline.imaging.images import decode_mask
from pipeline.inference.crops import cut_crops
from pipeline.models.checkpoint import Checkpoint
from pipeline.outputs.schema import OK
from pipeline.report.activations import decoder_maps, representative
from pipeline.report.figures import activation_figure
from pipeline.stages.decode import decode_stage
from pipeline.stages.predict import load_predict
from pipeline.stages.propose import propose_stage
from pipeline.stages.refine import refine_stage
from pipeline.stages.rows import Row, start_rows

UInt8Array = NDArray[np.uint8]
Box = tuple[float, float, float, float]


def activations(checkpoint: Checkpoint, image_HW3: UInt8Array, box: Box | None) -> bytes:
    """The decoder's maps for a box of the image, resized straight to the network's input, as a PNG file."""
    height, width = image_HW3.shape[:2]
    rectangle_14 = torch.tensor([box or (0, 0, width, height)], dtype=torch.float64)
    crop_13HW = cut_crops(torch.from_numpy(image_HW3.copy()).permute(2, 0, 1), rectangle_14)
    shown = representative(*decoder_maps(checkpoint.net, checkpoint.info.preprocessing(crop_13HW)))
    return activation_figure(crop_13HW[0].permute(1, 2, 0).round().byte().numpy(), shown)


def segmented(config: SegmentConfig, num_classes: int) -> UInt8Array:
    """Labels `[H, W]` that the main job's stages give the image.

    Raises:
        ImageError: a stage failed.
    """
    # What the CRF starts from is made once for all results that differ in the CRF only.
    start = replace(config.refine, crf="none", crf_normalization="symmetric")
    table = predicted(replace(config, refine=start, save_probabilities=True))
    return decode_mask(row_of(refine_stage(table, config.refine, num_classes), config.input)["mask"])


@cache
def predicted(config: SegmentConfig) -> pa.Table:
    """The image after the main job's stages up to the network."""
    return load_predict(config, gpus=0)(proposed(config.input, config.decode, config.propose))


@cache
def proposed(uri: str, decode: DecodeConfig, propose: ProposeConfig) -> pa.Table:
    """The image after the main job's stages before the network."""
    table = start_rows(pa.table({"image_id": ["image"], "uri": [uri]}))
    return propose_stage(decode_stage(table, decode), propose)


def row_of(table: pa.Table, uri: str) -> Row:
    """The only row of a table.

    Args:
        table: an image after some stages.
        uri: what to call it in the error message.

    Raises:
        ImageError: a stage failed.
    """
    row: Row
    (row,) = table.to_pylist()
    if row["status"] != OK:
        raise ImageError("unreadable", f"{uri}: {row['error_stage']} failed: {row['error_message']}")
    return row


def read_truth(uri: str, image_HW3: UInt8Array, num_classes: int) -> UInt8Array:
    """The mask of an image.

    Raises:
        ConfigError: it has another size, or labels that the network does not know.
    """
    truth_HW = decode_mask(storage.read_bytes(uri))
    if truth_HW.shape != image_HW3.shape[:2]:
        raise ConfigError(f"{uri} is {truth_HW.shape[::-1]} pixels and the image {image_HW3.shape[1::-1]}")
    unknown = set(np.unique(truth_HW).tolist()) - {*range(num_classes), VOID}
    if unknown:
        raise ConfigError(f"{uri} holds label {min(unknown)}; {num_classes} classes are known")
    return truth_HW
