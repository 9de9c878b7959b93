"""Masks for the VOC server."""

from pathlib import Path

import numpy as np
import pytest
from evaluation_files import NAMES, labels, write_results
from PIL import Image

from pipeline.errors import EvaluationError
from pipeline.evaluation.submission import write_submission
from pipeline.imaging.classes import VOC_CLASSES, voc_palette
from pipeline.imaging.images import encode_mask
from pipeline.outputs.schema import OK
from pipeline.outputs.writing import write_rows


def test_masks_come_back_as_the_server_reads_them(tmp_path: Path):
    masks = {"2008_000006": labels([0, 15, 20], [7, 0, 1]), "2011_003271": labels([3] * 500)}
    write_results(tmp_path / "run", {f"JPEGImages/{name}.jpg": mask for name, mask in masks.items()}, VOC_CLASSES)
    assert write_submission(str(tmp_path / "run"), str(tmp_path / "new")) == tuple(masks)
    folder = tmp_path / "new/results/VOC2012/Segmentation/comp6_test_cls"
    assert sorted(file.name for file in folder.iterdir()) == [f"{name}.png" for name in masks]
    for name, mask in masks.items():
        with Image.open(folder / f"{name}.png") as png:
            assert (png.format, png.mode, png.size) == ("PNG", "P", mask.shape[::-1])
            np.testing.assert_array_equal(np.asarray(png), mask)
            colours = np.array(png.getpalette()).reshape(-1, 3)
            np.testing.assert_array_equal(colours[:21], voc_palette()[:21])
            assert np.asarray(png.convert("RGB"))[0, -1].tolist() == voc_palette()[mask[0, -1]].tolist()


def test_grey_masks_get_the_servers_colours(tmp_path: Path):
    mask = encode_mask(labels([0, 15]), None)
    row = {"image_id": "a.jpg", "status": OK, "mask": mask, "pixel_counts": [1] * 21, "mean_probability": [0.5] * 21}
    write_rows(str(tmp_path / "run"), [row], VOC_CLASSES)
    write_submission(str(tmp_path / "run"), str(tmp_path / "new"))
    with Image.open(tmp_path / "new/results/VOC2012/Segmentation/comp6_test_cls/a.png") as png:
        assert np.asarray(png.convert("RGB"))[0].tolist() == voc_palette()[[0, 15]].tolist()


def test_what_the_server_would_misread_is_refused(tmp_path: Path):
    write_results(tmp_path / "few", {"a.jpg": labels([1])}, NAMES)
    with pytest.raises(EvaluationError, match="VOC's 21 classes"):
        write_submission(str(tmp_path / "few"), str(tmp_path / "new"))
    write_results(tmp_path / "twice", {"x/a.jpg": labels([1]), "y/a.jpg": labels([2])}, VOC_CLASSES)
    with pytest.raises(EvaluationError, match="a for one"):
        write_submission(str(tmp_path / "twice"), str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    write_results(tmp_path / "good", {"a.jpg": labels([1])}, VOC_CLASSES)
    write_submission(str(tmp_path / "good"), str(tmp_path / "new"))
    with pytest.raises(EvaluationError, match="is there already"):
        write_submission(str(tmp_path / "good"), str(tmp_path / "new"))
