"""Whose results a folder holds, and what is left to do."""

import json
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import __version__
from pipeline.config import EnsembleConfig, FilterConfig, PredictConfig, RefineConfig, SegmentConfig
from pipeline.config.earlier import RUNS, as_begun
from pipeline.config.stages import STAGES
from pipeline.errors import FolderError, FolderInUseError, TooManyErrors
from pipeline.outputs.lease import take_lease
from pipeline.outputs.writing import write_rows
from pipeline.run.record import RunRecord, Summary, recorded_settings, too_many
from pipeline.run.record import open_run as open_and_keep

CLASSES = ("background", "cat")


@pytest.fixture
def config(tmp_path) -> SegmentConfig:
    return SegmentConfig(input=str(tmp_path / "photos"), output=str(tmp_path / "out"))


def open_run(*arguments) -> RunRecord:
    """A call that ended well: it gave the folder free."""
    run = open_and_keep(*arguments)
    run.lease.release()
    return run


def manifest(*ids: str) -> pa.Table:
    return pa.table({"image_id": ids, "uri": [f"/photos/{one}" for one in ids]})


def ok(image_id):
    return {"image_id": image_id, "status": "ok", "pixel_counts": [1, 0], "mean_probability": [0.5, None]}


def failed(image_id):
    return {"image_id": image_id, "status": "failed", "error_stage": "decode"}


def skipped(image_id):
    return {"image_id": image_id, "status": "skipped", "skip_stage": "filter", "skip_reason": "too small"}


def test_what_is_left_is_the_manifest_without_what_is_done(config):
    run = open_run(config, "f", CLASSES, manifest("a", "b", "c", "d", "e"))
    assert run.todo()["image_id"].to_pylist() == ["a", "b", "c", "d", "e"]
    write_rows(run.output, [ok("b"), failed("d"), skipped("e")], CLASSES)
    assert run.todo()["image_id"].to_pylist() == ["a", "c"]
    again = open_run(config, "f", CLASSES, manifest("a", "b", "c", "d", "e"))
    assert again.todo()["image_id"].to_pylist() == ["a", "c"]


def test_a_filter_is_part_of_a_run_and_earlier_runs_had_none(config):
    open_run(config, "f", CLASSES, manifest("a"))
    record = Path(config.output, "run", "config.json")
    content = json.loads(record.read_text())
    del content["identity"]["filter.min_pixels"]  # as before there was one
    record.write_text(json.dumps(content))
    filtering = replace(config, filter=FilterConfig(min_pixels=9))
    with pytest.raises(FolderError, match=r"filter\.min_pixels: 0 -> 9"):
        open_run(filtering, "f", CLASSES, manifest("a"))
    open_run(config, "f", CLASSES, manifest("a"))
    open_run(replace(filtering, overwrite=True), "f", CLASSES, manifest("a"))


def test_skipped_images_are_no_failures_and_do_not_make_failures_rarer(config):
    done = counts(90, 0.5) | {"failed": 10}
    with_skipped = done | {"skipped": 900}
    for one in (done, with_skipped):
        summary = Summary.of(STAGES)
        summary.add(one, 1.0)
        with pytest.raises(TooManyErrors, match="10 of 100 images failed"):
            summary.check(None, 10_000)
        with pytest.raises(TooManyErrors, match="10 images failed, of 190"):
            summary.check(0.05, 190 + one["skipped"])
        summary.check(0.1, 100 + one["skipped"])
    all_skipped = Summary.of(STAGES)
    all_skipped.add(counts(0, 0.5) | {"skipped": 1000}, 1.0)
    all_skipped.check(None, 1000)
    all_skipped.check(0.0, 1000)
    assert all_skipped.images == 1000


def test_the_summary_of_an_earlier_version_knew_fewer_stages(config, tmp_path):
    run = open_run(config, "f", CLASSES, manifest("a"))
    written = tmp_path / "out" / "run" / "summary.json"
    stages = {stage: {"rows": 3, "seconds": 1.5} for stage in ("decode", "propose", "predict", "refine")}
    written.write_text(json.dumps({"seconds": 2.0, "stages": stages, "faults": {}, "images_total": 4}))
    run = open_run(config, "f", CLASSES, manifest("a"))
    write_rows(run.output, [skipped("a")], CLASSES)
    summary = Summary.of(STAGES)
    summary.add(counts(1, 0.5), 1.0)
    content = run.write_summary(summary, run.audit())
    assert (content["images_ok"], content["images_failed"], content["images_skipped"]) == (0, 0, 1)
    assert content["stages"]["decode"] == {"rows": 4, "seconds": 2.0}
    assert content["stages"]["filter"] == {"rows": 1, "seconds": 0.5}


@pytest.mark.parametrize(
    ("change", "fingerprint", "named"),
    [
        ({}, "other", "model_fingerprint: f -> other"),
        ({"input": "/elsewhere"}, "f", "input"),
        ({"refine": RefineConfig(crf="none")}, "f", "refine.crf: native -> none"),
        ({}, "f+member", "model_fingerprint: f -> f+member"),
        ({"ensemble": EnsembleConfig(fcn="fcn.pth")}, "f", "ensemble.rule: None -> mean"),
        ({"predict": PredictConfig(window="direct")}, "f", "predict.window: 250-224 -> direct"),
    ],
)
def test_another_runs_results_are_refused_with_the_difference(config, change, fingerprint, named):
    open_run(config, "f", CLASSES, manifest("a"))
    with pytest.raises(FolderError, match="begun with other settings") as refused:
        open_run(replace(config, **change), fingerprint, CLASSES, manifest("a"))
    assert named in str(refused.value)
    assert "--overwrite" in str(refused.value)


def test_the_format_of_masks_is_part_of_a_run_and_older_runs_go_on_with_palettes(config):
    open_run(config, "f", CLASSES, manifest("a")).lease.release()
    record = Path(config.output, "run", "config.json")
    content = json.loads(record.read_text())
    del content["identity"]["refine.mask_format"]  # as in outputs of before there was a choice
    record.write_text(json.dumps(content))
    open_run(config, "f", CLASSES, manifest("a")).lease.release()
    grey = replace(config, refine=replace(config.refine, mask_format="grey"))
    with pytest.raises(FolderError, match=r"refine\.mask_format: palette -> grey"):
        open_run(grey, "f", CLASSES, manifest("a"))


def test_the_classes_stand_beside_the_masks(config):
    open_run(config, "f", CLASSES, manifest("a"))
    table = json.loads(Path(config.output, "run", "classes.json").read_text())
    assert table[1] == {"number": 1, "name": CLASSES[1], "colour": [128, 0, 0]}
    assert [one["name"] for one in table] == list(CLASSES)


def test_settings_that_do_not_change_results_may_differ(config):
    open_run(config, "f", CLASSES, manifest("a"))
    open_run(
        replace(config, limit=5, predict_workers=3, predict=PredictConfig(micro_batch=2)), "f", CLASSES, manifest("a")
    )


def test_overwrite_removes_the_other_runs_output_and_nothing_else(config, tmp_path):
    run = open_run(config, "f", CLASSES, manifest("a"))
    write_rows(run.output, [ok("a")], CLASSES)
    kept = tmp_path / "out" / "notes.txt"
    kept.write_text("mine")
    report = tmp_path / "out" / "run" / "report.html"
    report.write_text("of the old run")
    again = open_run(replace(config, overwrite=True), "other", CLASSES, manifest("a"))
    assert again.todo()["image_id"].to_pylist() == ["a"]
    assert kept.read_text() == "mine"
    assert not report.exists()


@pytest.mark.parametrize("folder", ["results", "masks"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_no_record_speaks_of_is_not_touched(config, tmp_path, folder, overwrite):
    mine = tmp_path / "out" / folder / "mine.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"somebody's")
    with pytest.raises(FolderError, match="what made it") as refused:
        open_run(replace(config, overwrite=overwrite), "f", CLASSES, manifest("a"))
    assert ("--overwrite" in str(refused.value)) is not overwrite
    assert mine.read_bytes() == b"somebody's"


@pytest.mark.parametrize("name", ["config.json", "summary.json", "lease.json"])
@pytest.mark.parametrize("content", ["", "[1]", '{"other": 1}'])
def test_a_damaged_or_foreign_record_is_named(config, name, content):
    run = open_run(config, "f", CLASSES, manifest("a"))
    run.write_summary(Summary(), run.audit())
    Path(config.output, "run", name).write_text(content)
    with pytest.raises(FolderError, match=name):
        open_run(config, "f", CLASSES, manifest("a"))


def test_two_runs_at_once_are_refused(config):
    open_and_keep(config, "f", CLASSES, manifest("a"))
    with pytest.raises(FolderInUseError, match="at work"):
        open_and_keep(config, "f", CLASSES, manifest("a"))


def test_a_call_that_died_before_its_first_record_does_not_lock_the_folder(config, tmp_path):
    take_lease(config.output).release()
    (tmp_path / "out" / "run").mkdir(exist_ok=True)
    assert len(open_run(config, "f", CLASSES, manifest("a")).todo()) == 1


def test_failed_images_are_done_again_when_asked(config):
    run = open_run(config, "f", CLASSES, manifest("a", "b"))
    write_rows(run.output, [ok("a"), failed("b")], CLASSES)
    assert len(open_run(config, "f", CLASSES, manifest("a", "b")).todo()) == 0
    again = open_run(replace(config, retry_failed=True), "f", CLASSES, manifest("a", "b"))
    assert again.todo()["image_id"].to_pylist() == ["b"]


def counts(n, seconds):
    stages = [stage.name for stage in STAGES]
    return {
        "parts": [],
        "requests_repeated": 0,
        "failures": [],
        "ok": n,
        "failed": 0,
        "skipped": 0,
        **{f"rows_{s}": n for s in stages},
        **{f"seconds_{s}": seconds for s in stages},
    }


def test_the_summary_adds_up_over_calls(config, tmp_path):
    for seconds, image_id in ((2.0, "a"), (3.0, "b")):
        run = open_run(config, "f", CLASSES, manifest("a", "b"))
        write_rows(run.output, [ok(image_id)], CLASSES)
        summary = Summary.of(STAGES)
        summary.add(counts(1, 0.5), seconds)
        summary.faults["nodes_lost"] += 1
        run.write_summary(summary, run.audit())
    written = json.loads((tmp_path / "out" / "run" / "summary.json").read_text())
    assert written["images_total"] == written["images_ok"] == 2
    assert written["images_failed"] == 0
    assert written["seconds"] == 5.0
    assert written["images_per_second"] == pytest.approx(0.4)
    assert written["faults"] == {"nodes_lost": 2}
    assert written["stages"]["refine"] == {"rows": 2, "seconds": 1.0}


def test_the_summary_says_what_the_last_call_that_worked_ran_on(config):
    run = open_run(config, "f", CLASSES, manifest("a"))
    summary = Summary.of(STAGES)
    summary.machines, summary.processes = "1 machine(s), 2 CPUs", "1 process(es) for the network"
    before = datetime.now(UTC).replace(microsecond=0)
    run.write_summary(summary, run.audit())
    again = open_run(config, "f", CLASSES, manifest("a"))
    written = again.write_summary(Summary.of(STAGES), again.audit())  # nothing was left to do
    assert (written["machines"], written["processes"]) == (summary.machines, summary.processes)
    assert written["version"] == __version__
    assert before <= datetime.fromisoformat(written["ended"]) <= datetime.now(UTC)


def test_an_output_of_an_earlier_version_goes_on_as_it_was_begun(config):
    """Settings that it does not record are what they were before they existed, unless others are asked for."""
    old = replace(
        config,
        propose=replace(config.propose, window_shape="box", min_side_of="shorter"),
        refine=replace(config.refine, crf_normalization="symmetric"),
    )
    open_run(old, "f", CLASSES, manifest("a", "b"))
    record = Path(config.output) / "run" / "config.json"
    content = json.loads(record.read_text())
    for name in RUNS:
        del content["identity"][name]
    record.write_text(json.dumps(content))
    told = []
    default = replace(config, refine=replace(config.refine, crf_normalization="none"))  # as by a recipe
    now = as_begun(default, recorded_settings(config.output), RUNS, default, told.append)
    assert now == old
    assert "begun before there was --crf-normalization: it stays symmetric" in " ".join(told)
    open_run(now, "f", CLASSES, manifest("a", "b"))
    record.write_text(json.dumps(content))
    given = replace(config, refine=replace(config.refine, crf_normalization="none"))
    now = as_begun(given, recorded_settings(config.output), RUNS, config, told.append)
    with pytest.raises(FolderError, match=r"refine\.crf_normalization: symmetric -> none"):
        open_run(now, "f", CLASSES, manifest("a", "b"))


def test_a_new_output_takes_the_settings_of_now(config):
    assert as_begun(config, recorded_settings(config.output), RUNS, config, print) == config


@pytest.mark.parametrize(
    ("allowed", "failed", "done", "stops"),
    [
        (None, 9, 9, False),  # says nothing about a rate
        (None, 10, 200, False),
        (None, 10, 199, True),
        (0.0, 0, 50, False),
        (0.0, 1, 50, True),
        (0.3, 3, 3, False),  # all so far, and three of ten are allowed
        (0.3, 4, 9, True),
        (0.1, 12, 12, True),
        (1.0, 10, 10, False),
    ],
)
def test_a_run_stops_when_more_images_failed_than_allowed(allowed, failed, done, stops):
    summary = Summary(ok=done - failed, failed=failed)
    with pytest.raises(TooManyErrors, match=f"^{failed} ") if stops else nullcontext():
        summary.check(allowed, 10)


def test_a_part_that_is_no_binary_fraction_is_meant_exactly():
    assert not too_many(29, 0.29, 100)
    assert too_many(30, 0.29, 100)
