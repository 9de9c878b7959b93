"""Timing the stages on a few images: what is counted, and what is not."""

from types import SimpleNamespace

import pyarrow as pa
import pytest

from pipeline.cluster.profile import PROBED, probe, sample
from pipeline.stages.load import Loads
from pipeline.stages.rows import fail, run_rows


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """The time that the stages see; it stands still unless one works, however busy the machine is."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("pipeline.stages.rows.time.perf_counter", lambda: clock.now)
    return clock


def stage(clock, name: str, seconds: float, *, fails: str = ""):
    """Work that takes so long for an image, ten times as long for the first, and fails for one."""
    seen: list[str] = []

    def work(row):
        if row["image_id"] == fails:
            raise ValueError("damaged")
        clock.now += seconds if seen else 10 * seconds
        seen.append(row["image_id"])

    return lambda table: run_rows(table, name, work)


SECONDS = {"decode": 0.001, "propose": 0.002, "predict": 0.02, "refine": 0.01}


def loads(clock, fails: str = "") -> Loads:
    found = {name: stage(clock, name, seconds) for name, seconds in SECONDS.items()}
    found["decode"] = stage(clock, "decode", SECONDS["decode"], fails=fails)
    return {name: lambda one=one: one for name, one in found.items()}


def images(count: int) -> pa.Table:
    return pa.table({"image_id": [str(i) for i in range(count)], "uri": [f"/{i}.jpg" for i in range(count)]})


def test_a_sample_is_spread_over_the_manifest():
    assert sample(images(1000))["image_id"].to_pylist() == ["0", "250", "500", "750"]


@pytest.mark.parametrize("fails", ["", "2"])
def test_seconds_are_those_of_one_image_without_the_first_and_the_failed(clock, fails):
    assert probe(images(PROBED), loads(clock, fails)).seconds == pytest.approx(SECONDS)


def test_the_largest_row_counts_as_it_leaves_each_stage(clock):
    """Only arrays count much; the first image, which is not timed, is larger and does not count."""
    sizes = {"0": 10**7, "1": 1000, "2": 5000, "3": 3000}

    def decode(table):
        return run_rows(table, "decode", lambda row: row.update(image=bytes(sizes[row["image_id"]])))

    def refine(table):
        return run_rows(table, "refine", lambda row: row.update(image=None, mask=b"1"))

    found = probe(images(PROBED), {**loads(clock), "decode": lambda: decode, "refine": lambda: refine}).row_bytes
    assert all(5000 <= found[stage] < 6000 for stage in ("decode", "propose", "predict"))
    assert found["refine"] < 1000


def test_nothing_but_bad_images_is_told(clock):
    def failing(table):
        return run_rows(table, "decode", lambda row: fail(row, "decode", ValueError("damaged")))

    only_bad = {**loads(clock), "decode": lambda: failing}
    with pytest.raises(ValueError, match="none of the images"):
        probe(images(3), only_bad)
