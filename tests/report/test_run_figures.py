"""What a run's report counts, against loops that share no code with it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_outputs import NAMES, begin, failure, result, skip

from pipeline import storage
from pipeline.config import FilterConfig, RefineConfig
from pipeline.config.stages import STAGES
from pipeline.errors import FolderError, ResultsError
from pipeline.outputs.writing import write_rows
from pipeline.report.run_page import tally
from pipeline.report.run_page.facts import Confidence
from pipeline.report.run_page.gather import gather
from pipeline.report.run_page.tally import FEW, Tally

SECONDS = [f"seconds_{stage.name}" for stage in STAGES]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Results with confidences that are all different, some without an object, one without a confidence."""
    draws = np.random.default_rng(3)
    found = []
    for number in range(151):
        labels = draws.integers(0, 2 if number % 3 else 1, (5, 7)) * draws.integers(1, 4, (5, 7))
        confidence = None if number == 80 else float(np.float32((draws.random() + number) / 151))
        row = result(f"i{number:03}.jpg", labels.astype(np.uint8), confidence, Path("/photos"))
        row["mean_probability"] = [float(draws.random()) if count else None for count in row["pixel_counts"]]
        taken = {name: float(draws.random()) for name in SECONDS if name != "seconds_filter"}
        found.append(row | taken)
    draws.shuffle(found)  # type: ignore[arg-type]
    return found


@pytest.fixture(scope="module")
def facts(rows, tmp_path_factory: pytest.TempPathFactory):
    return gather(begin(tmp_path_factory.mktemp("run"), rows).output)


def test_classes_are_counted_as_a_loop_over_rows_and_classes_does(rows, facts):
    pixels = sum(sum(row["pixel_counts"]) for row in rows)
    assert [one.label.name for one in facts.classes] == list(NAMES)
    for number, one in enumerate(facts.classes):
        having = [row for row in rows if row["pixel_counts"][number]]
        of_class = sum(row["pixel_counts"][number] for row in having)
        assert one.images == len(having)
        assert one.area == pytest.approx(of_class / pixels)
        shares = [row["pixel_counts"][number] / 35 for row in having]
        assert one.area_where_found == pytest.approx(sum(shares) / len(shares))
        weighted = sum(row["mean_probability"][number] * row["pixel_counts"][number] for row in having)
        assert one.probability == pytest.approx(weighted / of_class)
    assert facts.classes[1].label.colour == "#800000"  # VOC's second colour


def test_stages_have_the_mean_and_the_longest_of_their_column(rows, facts):
    assert [one.name for one in facts.stages] == ["decode", "propose", "predict", "refine"]  # no filter in this run
    means = {}
    for one in facts.stages:
        taken = [row[f"seconds_{one.name}"] for row in rows]
        means[one.name] = sum(taken) / len(taken)
        assert one.images == len(rows)
        assert one.seconds == pytest.approx(means[one.name])
        assert one.longest == pytest.approx(max(taken))
    assert [one.name for one in facts.stages if one.slowest] == [max(means, key=means.__getitem__)]


def test_the_worst_images_are_those_of_a_sorted_list(rows, facts):
    known = sorted((row for row in rows if row["mean_confidence"] is not None), key=lambda row: row["mean_confidence"])
    having = [row["image_id"] for row in known if sum(row["pixel_counts"][1:])]
    without = [row["image_id"] for row in known if not sum(row["pixel_counts"][1:])]
    assert [one.image_id for one in facts.least_sure] == having[: tally.LEAST_SURE]
    assert [one.image_id for one in facts.nothing_found] == without[: tally.NOTHING_FOUND]
    assert len(having) > tally.LEAST_SURE
    assert len(without) > tally.NOTHING_FOUND
    assert facts.without_object == sum(not sum(row["pixel_counts"][1:]) for row in rows)


def test_an_image_without_a_confidence_comes_last_and_is_counted(tmp_path: Path):
    labels = np.ones((2, 2), np.uint8)
    known = [result(f"{name}.jpg", labels, share, tmp_path) for name, share in (("b", 0.9), ("c", 0.4))]
    facts = gather(begin(tmp_path, [result("a.jpg", labels, None, tmp_path), *known]).output)
    assert [one.image_id for one in facts.least_sure] == ["c.jpg", "b.jpg", "a.jpg"]
    assert facts.confidence.unknown == 1
    assert sum(bar.images for bar in facts.confidence.bars) == 2


def confidence_of(values: list[float]) -> Confidence:
    one = Tally(2)
    for start in range(0, len(values), 3):
        some = values[start : start + 3]
        columns = {name: pa.array([None] * len(some), pa.float32()) for name in SECONDS}
        columns |= {
            "image_id": pa.array([str(value) for value in some]),
            "uri": pa.array([""] * len(some)),
            "pixel_counts": pa.array([[1, 1]] * len(some), pa.list_(pa.int64())),
            "mean_probability": pa.array([[0.5, 0.5]] * len(some), pa.list_(pa.float32())),
            "mean_confidence": pa.array(some, pa.float64()),
        }
        one.add("part", pa.table(columns))
    return one.confidence()


@settings(max_examples=50)
@given(st.lists(st.integers(0, 999), min_size=1, max_size=60))
def test_the_histogram_has_every_image_once_in_the_bar_that_says_so(thousandths):
    values = [(step + 0.5) / 1000 for step in thousandths]
    found = confidence_of(values)
    assert found.bars[0].low == 0
    assert found.bars[-1].high == 1
    for bar in found.bars:
        assert bar.images == sum(bar.low <= value < bar.high for value in values)
    assert all(one.high == other.low for one, other in zip(found.bars, found.bars[1:], strict=False))
    in_order = sorted(values)
    assert sum(value < found.median for value in values) * 2 >= len(values)
    assert found.median - 0.001 <= in_order[(len(values) - 1) // 2]
    assert found.low <= found.median
    assert list(found.values) == (in_order if len(values) < FEW else [])  # an image of twenty is there from 20 on


def test_the_histogram_looks_closer_where_all_are_sure():
    assert confidence_of([0.95 + number / 5000 for number in range(200)]).bars[1].low == pytest.approx(0.905)
    one_far = confidence_of([0.3] + [0.95] * 99)  # one of a hundred does not blur the rest
    assert one_far.bars[1].low == pytest.approx(0.905)
    assert one_far.bars[0].images == 1
    assert confidence_of([0.3] * 3 + [0.95] * 97).bars[1].low == pytest.approx(0.05)


def test_errors_are_counted_by_kind_without_those_that_were_mended_later(tmp_path: Path):
    failed = [failure(f"{number}.jpg", message=f"at {number}") for number in range(5)]
    failed += [failure("x.jpg", "predict", "WorkerDied", "died s3://user:secret@bucket"), failure("y.jpg")]
    run = begin(tmp_path, [*failed, skip("s.jpg"), skip("t.jpg", "panorama")])
    write_rows(run.output, [result("y.jpg", np.ones((2, 2), np.uint8), 0.5, tmp_path)], NAMES)
    facts = gather(run.output)
    assert [(one.stage, one.kind, one.images) for one in facts.errors] == [
        ("decode", "truncated", 5), ("predict", "WorkerDied", 1),
    ]  # fmt: skip
    assert facts.error_kinds == 2
    assert len(facts.errors[0].examples) == 3
    assert {message for *_, message in facts.errors[0].examples} < {f"at {number}" for number in range(5)}
    assert facts.errors[1].examples == (("x.jpg", "/gone/x.jpg", "died s3://bucket"),)
    assert [(one.stage, one.images) for one in facts.skipped] == [("filter", 2)]
    assert (facts.audit.ok, facts.audit.failed, facts.audit.skipped, facts.audit.missing) == (1, 6, 2, 0)


def test_only_what_differs_from_the_recipe_counts_as_changed(tmp_path: Path):
    facts = gather(begin(tmp_path, [], "a.jpg", masks=False, refine=RefineConfig(crf_iterations=3),
                         filter=FilterConfig(min_pixels=9)).output)  # fmt: skip
    changed = {one.name: (one.value, one.usual) for one in facts.about.settings if one.changed}
    assert changed == {"--masks": ("false", "true"), "--crf-iterations": ("3", "10"), "--min-pixels": ("9", "0")}


def test_an_earlier_versions_record_is_enough(tmp_path: Path):
    run = begin(tmp_path, [result("a.jpg", np.ones((2, 2), np.uint8), 0.5, tmp_path)])
    record = Path(run.output, "run", "config.json")
    content = json.loads(record.read_text())
    del content["settings"]["filter"], content["settings"]["recipe"], content["settings"]["ensemble"]
    record.write_text(json.dumps(content))
    facts = gather(run.output)
    assert facts.audit.ok == 1
    assert not any(one.changed for one in facts.about.settings)
    assert (facts.about.seconds, facts.about.machines) == (None, "")  # no summary either


def test_what_is_no_run_or_is_damaged_is_named(tmp_path: Path):
    with pytest.raises(ResultsError, match=r"holds no run/config\.json; give the output folder of a run"):
        gather(str(tmp_path))
    run = begin(tmp_path, [result("a.jpg", np.ones((2, 2), np.uint8), 0.5, tmp_path)])
    (part,) = Path(run.output, "results").iterdir()
    whole = part.read_bytes()
    part.write_bytes(whole[:-9])
    with pytest.raises(ResultsError, match=part.name):
        gather(run.output)
    part.write_bytes(whole)
    storage.remove(f"{run.output}/run/manifest.parquet")
    with pytest.raises(ResultsError, match=r"manifest\.parquet cannot be read"):
        gather(run.output)
    Path(run.output, "run", "config.json").write_text("[]")
    with pytest.raises(FolderError, match=r"config\.json"):
        gather(run.output)
