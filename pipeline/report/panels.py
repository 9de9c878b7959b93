"""Panels of a run: photograph, ground truth and result side by side, with the names of the classes."""

from __future__ import annotations

from pipeline import storage
from pipeline.config import DecodeConfig
from pipeline.errors import EvaluationError
from pipeline.evaluation.truths import Truth, list_truths, read_truth, truth_name
from pipeline.imaging.images import decode_image, decode_mask
from pipeline.inputs.reading import read_image
from pipeline.outputs.layout import PANELS, place
from pipeline.outputs.results import read_class_names, scan_results
from pipeline.report.painter import panel, png


def write_panels(output_uri: str, ground_truth_uri: str | None, split: str | None, count: int) -> list[str]:
    """Panels of photograph, ground truth and result for the first `count` images by id.

    Args:
        output_uri: a run's output folder.
        ground_truth_uri: only images with a mask in its `SegmentationClass` are shown; None: all, without a truth.
        split: only images of this list of the ground truth.
        count: of panels, at most; those are left out whose pictures are not of one size, or
            whose ground truth cannot be used. With 0 nothing is read.

    Returns:
        Where they were written: OUTPUT/panels/<image id>.png.
    """
    if not count:
        return []
    class_names = read_class_names(output_uri)
    ids = sorted(row["image_id"] for row in scan_results(output_uri, ["image_id"]))
    truths: dict[str, Truth] = {}
    if ground_truth_uri is not None:
        truths, shown = list_truths(ground_truth_uri, split)
        ids = [one for one in ids if truth_name(one) in shown]
    wanted = set(ids[:count])
    written = []
    for row in scan_results(output_uri, ["image_id", "uri", "mask"]):
        if row["image_id"] in wanted:
            image_HW3 = decode_image(read_image(row["uri"]), DecodeConfig().max_megapixels)
            truth = [truths[truth_name(row["image_id"])]] if truths else []
            try:
                masks = [*map(read_truth, truth), decode_mask(row["mask"])]
            except EvaluationError:  # the evaluation names it
                continue
            if any(mask_HW.shape != image_HW3.shape[:2] for mask_HW in masks):
                continue
            written.append(storage.join(output_uri, place(PANELS, row["image_id"], "png")))
            storage.write_atomic(written[-1], png(panel(image_HW3, masks, class_names)))
    return sorted(written)
