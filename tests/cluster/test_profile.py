"""Timing the stages on a few images: what is counted, and what is not."""

import time

import pyarrow as pa
import pytest

from pipeline.cluster.profile import PROBED, Works, probe, sample
from pipeline.stages.rows import STAGES, fail, run_rows


def stage(name: str, seconds: float, *, fails: str = ""):
    """Work that takes so long for an image, ten times as long for the first, and fails for one."""
    seen: list[str] = []

    def work(row):
        if row["image_id"] == fails:
            raise ValueError("damaged")
        time.sleep(seconds if seen else 10 * seconds)
        seen.append(row["image_id"])

    return lambda table: run_rows(table, name, work)


def works(fails: str = "") -> Works:
    return Works(
        stage("decode", 0.001, fails=fails),
        stage("propose", 0.002),
        lambda: stage("predict", 0.02),
        lambda: stage("refine", 0.01),
    )


def images(count: int) -> pa.Table:
    return pa.table({"image_id": [str(i) for i in range(count)], "uri": [f"/{i}.jpg" for i in range(count)]})


def test_a_sample_is_spread_over_the_manifest():
    assert sample(images(1000))["image_id"].to_pylist() == ["0", "250", "500", "750"]


@pytest.mark.parametrize("fails", ["", "2"])
def test_seconds_are_those_of_one_image_without_the_first_and_the_failed(fails):
    seconds = probe(images(PROBED), works(fails))
    assert list(seconds) == list(STAGES)
    assert 0.02 <= seconds["predict"] < 0.2
    assert 0.01 <= seconds["refine"] < seconds["predict"]


def test_nothing_but_bad_images_is_told():
    def failing(table):
        return run_rows(table, "decode", lambda row: fail(row, "decode", ValueError("damaged")))

    only_bad = Works(failing, stage("propose", 0), lambda: stage("predict", 0), lambda: stage("refine", 0))
    with pytest.raises(ValueError, match="none of the images"):
        probe(images(3), only_bad)
