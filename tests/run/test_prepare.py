"""What is said of settings before a run."""

import pytest

from jobs.segment_dataset import parse
from pipeline.run.prepare import remark_on_tiles


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--weights voc-fcn", None),
        ("--weights voc-fcn --tile 1024 --max-side 4000", None),
        ("--weights voc-fcn --tile 1024 --max-side 0", None),
        ("--weights voc-fcn --tile 1024", "cuts nothing, since no image is longer than --max-side 640"),
        ("--weights demo --tile 64", "changes nothing: this network sees proposals"),
        ("--weights voc --tile 64", None),  # its second network sees whole images
    ],
)
def test_tiles_that_cut_nothing_are_named(arguments, said):
    found = remark_on_tiles(parse(["--input", "a", "--output", "b", *arguments.split()]))
    assert (found is None) == (said is None)
    assert said is None or said in found
