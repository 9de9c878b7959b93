"""One image's way through the main job, step by step, as a picture: what each stage gave and how long it took."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline import storage
from pipeline.config import SegmentConfig
from pipeline.inference.predictor import Predictor
from pipeline.models.checkpoint import load_for_windows
from pipeline.proposals.detectors import find_edges
from pipeline.report.network_pictures import predicted, proposed, row_of
from pipeline.report.painter import overlay, sheet
from pipeline.stages.refine import labels_of, marginals_of
from pipeline.stages.rows import boxes_of, image_of, unpack

UInt8Array = NDArray[np.uint8]
ACROSS = 4  # pictures in a row
WINDOWS = 4  # windows whose own labels are shown
BOXES = 20  # proposals that are drawn
BEST, OTHERS = (255, 200, 0), (90, 160, 255)  # colours of their outlines


def steps(config: SegmentConfig, class_names: tuple[str, ...]) -> UInt8Array:
    """The photograph, its edges, proposals, single windows, and labels and confidence before and after the CRF.

    Args:
        config: the main job's settings; `input` is the image.
        class_names: of the network.

    Returns:
        An RGB picture at the working size of the image (`max_side`), with the seconds of each stage.

    Raises:
        ImageError: a stage failed.
    """
    before = row_of(proposed(config.input, config.decode, config.propose), config.input)
    image_HW3, boxes_N4 = image_of(before), boxes_of(before)
    row = row_of(predicted(config), config.input)
    class_ids_K = unpack(row["class_ids"], np.int64, -1)
    before_KHW = unpack(row["probabilities"], np.float16, -1, *image_HW3.shape[:2]).astype(np.float32)
    (after_KHW,) = marginals_of([row], config.refine)
    shown = {"photograph": image_HW3}
    if config.propose.proposals and config.propose.proposals_from is None:
        shown[f"edges ({config.propose.edges})"] = _grey(find_edges(image_HW3, config.propose)[0])
    if len(boxes_N4):
        shown[f"{len(boxes_N4)} proposals, {row['seconds_propose']:.2f} s"] = _outlined(image_HW3, boxes_N4)
        shown |= _windows(config, image_HW3, boxes_N4[:WINDOWS])
    labels = [labels_of(class_ids_K, one_KHW) for one_KHW in (before_KHW, after_KHW)]
    shown[f"network, {row['seconds_predict']:.2f} s"] = overlay(image_HW3, labels[0])
    shown["its confidence"] = _grey(before_KHW.max(0))
    if config.refine.crf != "none":
        shown[f"after the CRF ({config.refine.crf})"] = overlay(image_HW3, labels[1])
        shown["confidence after it"] = _grey(after_KHW.max(0))
    return sheet([*shown.values()], ACROSS, [*shown], np.unique(np.stack(labels)), class_names)


def _windows(config: SegmentConfig, image_HW3: UInt8Array, boxes_N4: NDArray[np.floating]) -> dict[str, UInt8Array]:
    """What the network alone says of each window by itself, outlined."""
    checkpoint = load_for_windows(storage.read_bytes(config.weights), config.weights)
    predictor = Predictor(checkpoint, config.predict, config.refine.label_threshold)
    found = predictor.predict([image_HW3] * len(boxes_N4), [boxes_N4[n : n + 1] for n in range(len(boxes_N4))])
    return {
        f"window {n + 1} alone": _outlined(
            overlay(image_HW3, labels_of(one.class_ids_K, one.probabilities_KHW.astype(np.float32))),
            boxes_N4[n : n + 1],
        )
        for n, one in enumerate(found)
    }


def _outlined(image_HW3: UInt8Array, boxes_N4: NDArray[np.floating]) -> UInt8Array:
    """The image with the outlines of the first boxes, the best one on top."""
    picture = Image.fromarray(image_HW3)
    draw = ImageDraw.Draw(picture)
    for number in reversed(range(min(BOXES, len(boxes_N4)))):
        draw.rectangle(tuple(boxes_N4[number].tolist()), outline=OTHERS if number else BEST, width=1 if number else 3)
    return np.asarray(picture)


def _grey(values_HW: NDArray[np.floating]) -> UInt8Array:
    """Values of 0..1 as a grey picture, 1 white."""
    return np.repeat((values_HW.clip(0, 1) * 255).round().astype(np.uint8)[..., None], 3, axis=2)
