"""Masks as the PASCAL VOC evaluation server takes them."""

from __future__ import annotations

from collections import Counter

from pipeline import storage
from pipeline.errors import EvaluationError
from pipeline.evaluation.truths import truth_name
from pipeline.imaging.classes import VOC_CLASSES, voc_palette
from pipeline.imaging.images import decode_mask, encode_mask
from pipeline.outputs.results import read_class_names, scan_results

FOLDER = ("results", "VOC2012", "Segmentation", "comp6_test_cls")
"""Where the server looks in the archive. comp6 is the competition that allows any training data but annotations of the
test images. comp5 is limited to VOC's own data, to which ImageNet's weights and SBD's masks do not belong. The paper's
figures are comp6's too."""


def write_submission(output_uri: str, target_uri: str) -> tuple[str, ...]:
    """Copy a run's masks to TARGET/results/VOC2012/Segmentation/comp6_test_cls/<name>.png; no ground truth is needed.

    The masks are written as palette PNGs with the VOC colour map, at the size of the images, as the server wants them.

    Returns:
        The names written.

    Raises:
        EvaluationError: the classes are not VOC's 21, two images have the same name, or a submission exists already.
        ResultsError: there are no results, or they cannot be read.
    """
    class_names = read_class_names(output_uri)
    if class_names != VOC_CLASSES:
        raise EvaluationError(f"the server knows VOC's 21 classes in their order, and these results are of "
                              f"{len(class_names)}: {', '.join(class_names)}")  # fmt: skip
    names = Counter(truth_name(row["image_id"]) for row in scan_results(output_uri, ["image_id"]))
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise EvaluationError(f"{len(twice)} names belong to several images, {twice[0]} for one; submit one folder")
    folder = storage.join(target_uri, *FOLDER)
    if storage.exists(folder):
        raise EvaluationError(f"{folder} is there already; remove it or choose another folder, so that the masks of "
                              "two runs never mix")  # fmt: skip
    for row in scan_results(output_uri, ["image_id", "mask"]):
        png = encode_mask(decode_mask(row["mask"]), voc_palette())  # the run's masks may be grey
        storage.write_atomic(storage.join(folder, f"{truth_name(row['image_id'])}.png"), png)
    return tuple(sorted(names))
