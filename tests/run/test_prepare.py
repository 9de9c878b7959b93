"""What is said of settings before a run."""

import pytest

from jobs.segment_dataset import parse
from pipeline.run.prepare import remarks


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--weights voc-fcn", None),
        ("--weights voc-fcn --tile 1024 --max-side 4000", None),
        ("--weights voc-fcn --tile 1024 --max-side 0", None),
        ("--weights voc-fcn --tile 1024", "cuts nothing, since no image is longer than --max-side 640"),
        ("--weights demo --tile 64", "changes nothing: this network sees proposals"),
        ("--weights voc --tile 64", None),  # its second network sees whole images
        ("--weights voc --skip-certain 0.9", None),
        ("--weights voc-fcn --skip-certain 0.9", "--skip-certain 0.9 changes nothing: this network sees whole images"),
    ],
)
def test_settings_that_change_nothing_are_named(arguments, said):
    found = remarks(parse(["--input", "a", "--output", "b", *arguments.split()]))
    assert len(found) == (said is not None)
    assert said is None or said in found[0]
