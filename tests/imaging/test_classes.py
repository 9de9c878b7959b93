"""Class names and the VOC colour map."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.class_list import read_class_list
from pipeline.imaging.classes import VOC_CLASSES, VOID, check_classes, class_table, voc_palette


def test_the_palette_holds_the_published_colours():
    palette = voc_palette()
    assert palette.shape == (256, 3)
    assert palette.dtype == np.uint8
    published = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        3: (128, 128, 0),
        4: (0, 0, 128),
        8: (64, 0, 0),
        12: (64, 0, 128),
        15: (192, 128, 128),
        16: (0, 64, 0),
        20: (0, 64, 128),
        VOID: (224, 224, 192),
    }
    for label, colour in published.items():
        assert tuple(palette[label]) == colour


def test_the_palette_gives_every_label_its_own_colour():
    assert len({tuple(colour) for colour in voc_palette()}) == 256


def test_the_palette_is_the_one_in_voc_files(voc):
    from PIL import Image

    with Image.open(next(iter(sorted((voc / "SegmentationClass").glob("*.png"))))) as mask:
        colours = np.array(mask.getpalette(), dtype=np.uint8).reshape(-1, 3)
    np.testing.assert_array_equal(voc_palette()[: len(colours)], colours)


def test_voc_has_21_classes_with_background_first():
    assert len(VOC_CLASSES) == 21
    assert VOC_CLASSES[0] == "background"
    assert VOC_CLASSES[15] == "person"
    assert check_classes(VOC_CLASSES) == VOC_CLASSES


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ([], "0 class names"),
        (["background"], "1 class names"),
        ([str(i) for i in range(256)], "256 class names"),
        (["background", "  "], "class 1 is empty"),
        (["background", "cat", "dog", "cat"], "'cat' occurs twice, for labels 1 and 3"),
    ],
)
def test_unusable_names_are_refused(names, complaint):
    with pytest.raises(ValueError, match=complaint):
        check_classes(names)


def test_255_names_are_allowed():
    assert len(check_classes(str(i) for i in range(255))) == 255


def test_a_class_list_is_read_from_a_file(tmp_path: Path):
    path = tmp_path / "classes.txt"
    path.write_text("\ufeffbackground\r\ncat \r\nFußgänger\n\n", encoding="utf-8")
    assert read_class_list(str(path)) == ("background", "cat", "Fußgänger")
    assert read_class_list(path.as_uri()) == ("background", "cat", "Fußgänger")


@pytest.mark.parametrize("content", [b"background\n\ncat\n", b"background\ncat\ncat", b"background", b"\xff\xfe\xff"])
def test_a_bad_class_list_names_its_file(tmp_path: Path, content: bytes):
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"classes\.txt"):
        read_class_list(str(path))


def test_a_missing_class_list_is_said(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"absent\.txt"):
        read_class_list(str(tmp_path / "absent.txt"))


def test_the_table_of_classes_has_number_name_and_colour():
    assert class_table(VOC_CLASSES)[15] == {"number": 15, "name": "person", "colour": [192, 128, 128]}
