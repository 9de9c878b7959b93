"""The stages as functions of tables, without Ray: what becomes of good rows, bad rows and bad outputs."""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib import import_module
from io import BytesIO
from itertools import chain
from pathlib import Path
from threading import Barrier
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from waiting_store import SCHEME, waiting_store

from pipeline.config import DecodeConfig, FilterConfig, PredictConfig, ProposeConfig, RefineConfig, SegmentConfig
from pipeline.config.recipes import fcn_crf
from pipeline.config.stages import STAGES, stages_of
from pipeline.crf.refine import refine, refine_logs
from pipeline.errors import LeaseError
from pipeline.imaging.images import decode_mask, resize_labels
from pipeline.inference.predictor import Predictor
from pipeline.models.checkpoint import Checkpoint, CheckpointInfo, dump_checkpoint
from pipeline.models.deconvnet import DeconvNet
from pipeline.models.efficientnet import INPUT
from pipeline.models.initialise import initialise
from pipeline.models.litefcn import folded
from pipeline.models.members import load_member
from pipeline.outputs.lease import Lease, take_lease
from pipeline.outputs.results import read_errors, read_results, read_skipped
from pipeline.outputs.schema import RESULTS_SCHEMA
from pipeline.outputs.writing import write_rows
from pipeline.stages import write
from pipeline.stages.decode import decode_stage
from pipeline.stages.device import ending_with_its_gpu
from pipeline.stages.filter import filter_stage
from pipeline.stages.load import Process
from pipeline.stages.predict import PredictStage, load_predict
from pipeline.stages.propose import propose_stage
from pipeline.stages.refine import load_refine, mean_per_class, refine_stage
from pipeline.stages.rows import ROW_SCHEMA, image_of, run_rows, run_together, start_rows, to_table, unpack
from pipeline.stages.write import Counts, Sink, rows_in_a_file, stage_rows, write_files

torch.set_num_threads(1)
REPOSITORY = Path(__file__).parents[2]
CLASSES = ("background", "a", "b")


def network() -> DeconvNet:
    net = DeconvNet(3, 1 / 16)
    initialise(net, seed=0)
    torch.nn.init.normal_(net.seg_score.weight, generator=torch.Generator().manual_seed(0))
    return net.eval()


def predict_stage(**options) -> PredictStage:
    checkpoint = Checkpoint(network(), CheckpointInfo(CLASSES, 1 / 16), "f" * 16)
    predictor = Predictor(checkpoint, PredictConfig(device="cpu"), label_threshold=0.01, **options)
    return PredictStage(predictor, "f" * 16)


@pytest.fixture(scope="module")
def predict() -> PredictStage:
    return predict_stage()


def with_logs() -> PredictStage:
    """The same network, asked for log-probabilities, too."""
    return predict_stage(log_probabilities=True)


@pytest.fixture
def manifest(tmp_path) -> pa.Table:
    rng = np.random.default_rng(0)
    for name, size in (("a", (40, 60)), ("c", (90, 70))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_text("no image")
    names = ["a.png", "b.png", "c.png", "gone.png"]
    others = [json.dumps({"site": name}) for name in names]
    return pa.table({"image_id": names, "uri": [str(tmp_path / name) for name in names], "manifest": others})


def run_all(manifest: pa.Table, predict: PredictStage) -> pa.Table:
    table = decode_stage(start_rows(manifest), DecodeConfig(max_side=64))
    table = propose_stage(table, ProposeConfig(proposals=3))
    return refine_stage(predict(table), RefineConfig(), len(CLASSES))


def test_rows_go_through_in_order_and_bad_ones_say_where_they_failed(manifest, predict):
    rows = run_all(manifest, predict).to_pylist()
    assert [row["image_id"] for row in rows] == manifest["image_id"].to_pylist()
    assert [row["status"] for row in rows] == ["ok", "failed", "ok", "failed"]
    assert [row["error_type"] for row in rows] == [None, "not_an_image", None, "FileNotFoundError"]
    for row, size in ((rows[0], (40, 60)), (rows[2], (90, 70))):
        assert decode_mask(row["mask"]).shape == size == (row["height"], row["width"])
        assert row["image"] is None  # nothing heavy travels on
        assert row["probabilities"] is None
        assert all(row[f"seconds_{stage}"] > 0 for stage in ("decode", "propose", "predict", "refine"))
    assert rows[1]["seconds_propose"] is None  # a failed row is not worked on


def test_the_columns_of_the_manifest_reach_results_errors_and_skipped(manifest, predict, tmp_path):
    table = filter_stage(decode_stage(start_rows(manifest), DecodeConfig()), FilterConfig(min_pixels=40 * 60 + 1))
    table = refine_stage(predict(propose_stage(table, ProposeConfig(proposals=3))), RefineConfig(), len(CLASSES))
    write_rows(str(tmp_path), table.to_pylist(), CLASSES)
    for read, names in ((read_results, ["c.png"]), (read_errors, ["b.png", "gone.png"]), (read_skipped, ["a.png"])):
        assert [json.loads(text) for text in read(str(tmp_path))["manifest"].to_pylist()] == [
            {"site": name} for name in names]  # fmt: skip


def test_images_below_the_least_pixels_are_skipped_and_no_later_stage_touches_them(manifest, predict):
    table = decode_stage(start_rows(manifest), DecodeConfig(max_side=64))
    table = filter_stage(table, FilterConfig(min_pixels=40 * 60 + 1))
    table = refine_stage(predict(propose_stage(table, ProposeConfig(proposals=3))), RefineConfig(), len(CLASSES))
    rows = table.to_pylist()
    assert [row["status"] for row in rows] == ["skipped", "failed", "ok", "failed"]
    assert (rows[0]["skip_stage"], rows[0]["skip_reason"]) == ("filter", "40 x 60 pixels, fewer than --min-pixels 2401")
    assert [rows[0][name] for name in ("image", "mask", "error_stage", "seconds_propose")] == [None] * 4
    kept = filter_stage(decode_stage(start_rows(manifest), DecodeConfig(max_side=64)), FilterConfig(min_pixels=2400))
    assert kept["status"][0].as_py() == "ok"  # as many as are asked for


def test_every_stage_of_the_list_has_its_file_and_the_stages_of_actors_come_after_those_of_tasks():
    order = ["tasks", "predict", "refine"]
    kinds = [order.index(stage.processes) for stage in STAGES]
    assert kinds == sorted(kinds)
    assert set(kinds) == {0, 1, 2}
    for stage in STAGES:
        assert callable(import_module(f"pipeline.stages.{stage.name}").load)
        assert f"seconds_{stage.name}" in RESULTS_SCHEMA.names
    with_all = SegmentConfig("in", "out", filter=FilterConfig(min_pixels=1))
    assert stages_of(with_all) == STAGES
    assert [stage.name for stage in stages_of(SegmentConfig("in", "out"))] == ["decode", "propose", "predict", "refine"]


def test_the_stage_of_the_page_on_extending_works_as_it_stands_there(tmp_path):
    code = re.search(r"```python\n(.*?)```", (REPOSITORY / "docs/extending.md").read_text(), re.DOTALL)[1]
    stage: dict[str, Any] = {}
    exec(compile(code, "docs/extending.md", "exec"), stage)
    for name, size in (("wide", (50, 10)), ("square", (20, 20))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    names = ["wide.png", "square.png"]
    table = start_rows(pa.table({"image_id": names, "uri": [str(tmp_path / name) for name in names]}))
    rows = stage["load"](Process(SegmentConfig("in", "out"), 3, 0.0))(decode_stage(table, DecodeConfig())).to_pylist()
    assert [(row["status"], row["skip_reason"]) for row in rows] == [
        ("skipped", "10 x 50 pixels: a panorama"), ("ok", None)
    ]  # fmt: skip


def test_grey_masks_hold_the_labels_that_palette_masks_hold(manifest, predict):
    table = decode_stage(start_rows(manifest), DecodeConfig(max_side=64))
    predicted = predict(propose_stage(table, ProposeConfig(proposals=3)))
    coloured, grey = (
        [row["mask"] for row in refine_stage(predicted, RefineConfig(mask_format=kind), len(CLASSES)).to_pylist()]
        for kind in ("palette", "grey")
    )
    assert sum(mask is not None for mask in grey) > 1
    for one, other in zip(coloured, grey, strict=True):
        if one is not None:
            assert (Image.open(BytesIO(one)).mode, Image.open(BytesIO(other)).mode) == ("P", "L")
            np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(other, np.uint8), -1), decode_mask(one))


def test_probabilities_are_kept_for_whoever_asks_and_change_no_mask(manifest, predict):
    plain = run_all(manifest, predict)
    table = propose_stage(decode_stage(start_rows(manifest), DecodeConfig(max_side=64)), ProposeConfig(proposals=3))
    table = with_logs()(table)
    rows = refine_stage(table, RefineConfig(), len(CLASSES), save=True).to_pylist()
    assert [row["mask"] for row in rows] == plain["mask"].to_pylist()
    assert [row["saved_probabilities"] is None for row in rows] == [False, True, False, True]
    arrays = np.load(BytesIO(rows[2]["saved_probabilities"]))
    assert arrays["log_probabilities"].dtype == np.float16
    assert arrays["log_probabilities"].shape == (len(arrays["class_ids"]), 64, 50)
    start = table.to_pylist()[2]
    exact = np.frombuffer(start["log_probabilities"], np.float32).reshape(arrays["log_probabilities"].shape)
    np.testing.assert_allclose(arrays["log_probabilities"], exact, rtol=2**-10, atol=1e-6)
    halves = np.frombuffer(start["probabilities"], np.float16).reshape(exact.shape)
    np.testing.assert_allclose(np.exp(exact), halves, rtol=2**-10, atol=1e-7)


def test_kernels_that_are_not_normalised_start_from_exact_logarithms(manifest, predict):
    """float16 has no probability below 6e-8; the same labels must come from scores by the CRF called directly."""
    table = propose_stage(decode_stage(start_rows(manifest), DecodeConfig(max_side=64)), ProposeConfig(proposals=3))
    table = with_logs()(table)
    row = table.to_pylist()[2]
    logs = np.frombuffer(row["log_probabilities"], np.float32).reshape(-1, 64, 50) * np.float32(40)
    row["log_probabilities"] = np.ascontiguousarray(logs).tobytes()
    config = RefineConfig(crf_normalization="none", gaussian_weight=1.0, bilateral_weight=0.0)
    (refined,) = refine_stage(pa.Table.from_pylist([row], schema=ROW_SCHEMA), config, len(CLASSES)).to_pylist()
    (expected,) = refine_logs([image_of(row)], [logs], config)
    labels = np.frombuffer(row["class_ids"], np.int64)[expected.argmax(axis=0)]
    np.testing.assert_array_equal(resize_labels(labels.astype(np.uint8), 90, 70), decode_mask(refined["mask"]))
    assert refined["log_probabilities"] is None


@given(
    st.lists(
        st.tuples(st.sampled_from(["ok", "failed"]), st.none() | st.binary(max_size=9), st.booleans(), st.booleans()),
        max_size=6,
    ),
    st.integers(0, 3),
)
def test_rows_of_a_stage_are_those_of_a_plain_loop_whatever_changes(made, start):
    """Slices, nulls, empty arrays; a stage that sets an array, one that clears it, one that raises."""
    whole = [
        {"image_id": str(i), "status": status, "image": image, "boxes": b"12" if clears else None}
        for i, (status, image, clears, _) in enumerate(made)
    ]
    fails = {str(i) for i, (*_, bad) in enumerate(made) if bad}

    def work(row):
        if row["image_id"] in fails:
            raise ValueError("bad")
        row["class_ids"] = bytes(row["image"] or b"none")
        row["boxes"] = None

    expected = [row.copy() for row in whole[start:]]
    for row in expected:
        if row["status"] == "ok" and row["image_id"] in fails:
            row |= {"status": "failed", "image": None, "boxes": None, "error_message": "bad"}
        elif row["status"] == "ok":
            row |= {"class_ids": row["image"] or b"none", "boxes": None}
    parts = [pa.Table.from_pylist(part, schema=ROW_SCHEMA) for part in (whole[:2], whole[2:])]
    found = run_rows(pa.concat_tables(parts).slice(start), "decode", work)
    assert found.schema.equals(ROW_SCHEMA)
    columns = ["image_id", "status", "image", "boxes", "class_ids", "error_message"]
    assert found.select(columns).to_pylist() == [{name: row.get(name) for name in columns} for row in expected]


def test_no_more_images_go_together_than_memory_and_devices_hold():
    """20 small images, then large ones: 8, 8, 4 and each of the large ones alone; a failed one counts as none."""
    sides = [10] * 20 + [4100, 4100]
    rows = [{"image_id": str(i), "status": "ok", "work_height": side, "work_width": side, "image": b""}
            for i, side in enumerate(sides)]  # fmt: skip
    rows.insert(3, {"image_id": "bad", "status": "failed"})
    seen: list[int] = []

    def work(group):
        seen.append(len(group))
        return [{"class_ids": row["image_id"].encode()} for row in group]

    found = run_together(to_table(rows), "predict", work, num_classes=2).to_pylist()
    assert seen == [8, 8, 4, 1, 1]
    assert [row["class_ids"] for row in found] == [
        None if row["status"] == "failed" else row["image_id"].encode() for row in rows
    ]


def test_arrays_that_a_stage_leaves_alone_are_not_copied():
    table = to_table([{"image_id": "a", "status": "ok", "image": bytes(1000)}])
    found = run_rows(table, "propose", lambda row: row.update(num_proposals=len(row["image"])))
    assert found["num_proposals"].to_pylist() == [1000]
    before, after = (one["image"].chunk(0).buffers()[2].address for one in (table, found))
    assert before == after


def test_every_stage_keeps_the_schema(manifest, predict):
    only_bad = manifest.slice(1, 1)
    for table in (start_rows(manifest), run_all(manifest, predict), run_all(only_bad, predict)):
        assert table.schema.equals(ROW_SCHEMA)


def test_large_images_are_worked_on_at_working_size(manifest):
    rows = decode_stage(start_rows(manifest), DecodeConfig(max_side=64)).to_pylist()
    assert image_of(rows[2]).shape == (64, 50, 3)
    assert (rows[2]["height"], rows[2]["width"]) == (90, 70)


def test_one_bad_image_does_not_fail_its_batch(manifest, predict):
    table = propose_stage(decode_stage(start_rows(manifest), DecodeConfig()), ProposeConfig(proposals=3))
    rows = table.to_pylist()
    rows[0]["boxes"] = np.array([[5, 5, 5, 9]], np.float32).tobytes()  # a box without area
    predicted = predict(pa.Table.from_pylist(rows, schema=ROW_SCHEMA)).to_pylist()
    assert [row["status"] for row in predicted] == ["failed", "failed", "ok", "failed"]
    assert predicted[0]["error_stage"] == "predict"
    assert "no area" in predicted[0]["error_message"]
    assert predicted[2]["class_ids"] is not None


def test_the_crf_takes_a_batch_together_and_a_bad_image_fails_alone(manifest, predict):
    table = propose_stage(decode_stage(start_rows(manifest), DecodeConfig()), ProposeConfig(proposals=3))
    table = predict(table)
    one_by_one = refine_stage(table, RefineConfig(), len(CLASSES)).to_pylist()
    together = refine_stage(table, RefineConfig(crf="torch"), len(CLASSES)).to_pylist()
    assert [row["mask"] for row in together] == [row["mask"] for row in one_by_one]
    for ours, alone in ((together[0], one_by_one[0]), (together[2], one_by_one[2])):
        assert ours["mean_confidence"] == pytest.approx(alone["mean_confidence"], 1e-4)
    assert together[0]["seconds_refine"] == together[2]["seconds_refine"] > 0
    rows = table.to_pylist()
    rows[0]["probabilities"] = np.full(len(rows[0]["probabilities"]) // 2, np.nan, np.float16).tobytes()
    refined = refine_stage(pa.Table.from_pylist(rows, schema=ROW_SCHEMA), RefineConfig(crf="torch"), len(CLASSES))
    assert [row["status"] for row in refined.to_pylist()] == ["failed", "failed", "ok", "failed"]
    assert refined["error_stage"][0].as_py() == "refine"
    assert refined["mask"][2].as_py() == one_by_one[2]["mask"]


def test_writing_gives_counts_and_files(manifest, predict, tmp_path):
    table = run_all(manifest, predict)
    lease = take_lease(str(tmp_path / "out"))
    write_files(table, lease, masks=True)
    counts = stage_rows(table, lease, CLASSES)
    assert len(read_results(lease.output)) == 0  # nothing is in place before the driver commits it
    lease.commit(counts["parts"])
    assert (counts["ok"], counts["failed"]) == (2, 2)
    assert (counts["rows_decode"], counts["rows_refine"]) == (4, 2)
    assert counts["seconds_predict"] > 0
    assert len(read_results(str(tmp_path / "out"))) == len(read_errors(str(tmp_path / "out"))) == 2
    assert sorted(p.name for p in (tmp_path / "out" / "masks").iterdir()) == ["a.png.png", "c.png.png"]
    write_files(table, take_lease(str(tmp_path / "bare")), masks=False)
    assert not (tmp_path / "bare" / "masks").exists()


def test_an_output_that_cannot_be_written_is_not_blamed_on_the_images(manifest, predict, tmp_path):
    lease = take_lease(str(tmp_path / "out"))
    (tmp_path / "out" / "masks").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="masks"):
        write_files(run_all(manifest, predict), lease, masks=True)


def test_masks_of_a_run_that_was_taken_over_are_not_written(manifest, predict, tmp_path):
    lease = take_lease(str(tmp_path / "out"))
    lease.release()
    with pytest.raises(LeaseError):
        write_files(run_all(manifest, predict), lease, masks=True)
    assert not (tmp_path / "out" / "masks").exists()


def refined(*ids: str) -> pa.Table:
    """Rows as the last stage makes them."""
    rows = start_rows(pa.table({"image_id": ids, "uri": ids})).to_pylist()
    done = {"mask": b"png", "pixel_counts": [1, 0, 0], "mean_probability": [0.5, None, None], "seconds_refine": 0.5}
    return pa.Table.from_pylist([row | done for row in rows], schema=ROW_SCHEMA)


def ids_in(lease: Lease, parts: list[Counts]) -> list[list[str]]:
    """Commit files; returns the images of each, as they are in the results then."""
    files = []
    for counts in parts:
        before = set(read_results(lease.output)["image_id"].to_pylist())
        lease.commit(counts["parts"])
        files.append(sorted(set(read_results(lease.output)["image_id"].to_pylist()) - before))
    return files


def test_a_sink_fills_files_and_keeps_no_row_for_long(tmp_path):
    lease = take_lease(str(tmp_path / "out"))
    patient = Sink(lease, CLASSES, rows_per_file=3, longest_wait=1e9)
    patient.add(refined("a", "b"))
    assert patient.collect() == []
    patient.add(refined("c", "d"))
    assert ids_in(lease, patient.collect()) == [["a", "b", "c"]]
    assert patient.collect() == []  # d waits for others
    patient.add(refined(*"efghijk"))
    assert ids_in(lease, patient.collect()) == [["d", "e", "f"], ["g", "h", "i"]]
    assert ids_in(lease, patient.collect(flush=True)) == [["j", "k"]]
    assert patient.collect(flush=True) == []
    hurried = Sink(lease, CLASSES, rows_per_file=3, longest_wait=0.0)
    hurried.add(refined("x"))
    assert ids_in(lease, hurried.collect()) == [["x"]]


def test_large_masks_make_smaller_files(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "FILE_BYTES", 3500)
    lease = take_lease(str(tmp_path / "out"))
    sink = Sink(lease, CLASSES, rows_per_file=1000, longest_wait=1e9)
    small = refined("a")
    large = small.set_column(small.schema.get_field_index("mask"), "mask", pa.array([bytes(1000)], pa.binary()))
    for image_id in "abcdefgh":
        sink.add(large.set_column(0, "image_id", pa.array([image_id])))
    files = ids_in(lease, sink.collect())
    assert files  # some are there before all of them wait
    assert {len(file) for file in files} <= {2, 3}
    files += ids_in(lease, sink.collect(flush=True))
    assert sorted(chain(*files)) == list("abcdefgh")


def test_rows_that_come_twice_count_once(tmp_path):
    """A process was lost after its rows had arrived: Ray does its work again, cut in other batches."""
    lease = take_lease(str(tmp_path / "out"))
    sink = Sink(lease, CLASSES, rows_per_file=4)
    for ids in ("ab", "cd", "bc", "abcde"):
        sink.add(refined(*ids))
    staged = sink.collect(flush=True)
    assert ids_in(lease, staged) == [["a", "b", "c", "d"], ["e"]]
    assert [counts["ok"] for counts in staged] == [4, 1]
    assert sum(counts["seconds_refine"] for counts in staged) == pytest.approx(2.5)


def test_a_sink_that_could_not_write_still_has_the_rows(tmp_path):
    lease = take_lease(str(tmp_path / "out"))
    staged = tmp_path / "out" / "run" / "staged"
    staged.write_text("a file where the folder should be")
    sink = Sink(lease, CLASSES, rows_per_file=2)
    with pytest.raises(OSError, match="staged"):
        sink.add(refined("a", "b"))
    staged.unlink()
    assert ids_in(lease, sink.collect(flush=True)) == [["a", "b"]]


def test_many_may_add_to_a_sink_at_once(tmp_path):
    lease = take_lease(str(tmp_path / "out"))
    sink = Sink(lease, CLASSES, rows_per_file=5)
    batches = [[f"{batch}-{number}" for number in range(3)] for batch in range(15)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda ids: sink.add(refined(*ids)), batches))
    files = ids_in(lease, sink.collect(flush=True))
    assert sorted(chain(*files)) == sorted(chain(*batches))
    assert {len(file) for file in files} == {5}


@given(st.integers(1, 10**7), st.integers(1, 10**4))
def test_the_first_file_is_full_long_before_the_last_image_and_files_are_not_many(images, rows_per_file):
    rows = rows_in_a_file(images, rows_per_file)
    assert 1 <= rows <= rows_per_file
    assert rows <= max(1, images / 16)
    assert -(-images // rows) <= max(32, -(-images // rows_per_file))


def test_mean_probability_of_each_class_over_its_pixels():
    labels = np.array([[0, 0, 2], [2, 2, 2]], np.uint8)
    confidence = np.array([[0.5, 0.7, 0.2], [0.4, 0.6, 0.8]], np.float32)
    assert mean_per_class(labels, confidence, 4) == [pytest.approx(0.6), None, pytest.approx(0.5), None]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_missing_is_told_before_the_first_image():
    for load, instead in (
        (partial(load_predict, SegmentConfig("in", "out", "no weights")), "--device cpu"),
        (partial(load_refine, RefineConfig(crf="torch"), 3), "--refine-gpus 0"),
    ):
        with pytest.raises(RuntimeError, match=f"given a GPU, but torch sees none.* choose {instead}"):
            load(0.5)


def test_what_cpu_workers_and_the_main_job_import_leaves_torch_out():
    tasks = [f"pipeline.stages.{stage.name}" for stage in STAGES if stage.processes == "tasks"]
    modules = ", ".join([*tasks, "pipeline.cluster.graph", "jobs.segment_dataset"])
    ended = in_a_process_of_its_own(f"import sys, {modules}; print('torch' in sys.modules)")
    assert ended.stdout == "False\n", ended.stderr


def in_a_process_of_its_own(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_an_exception_ends_the_process_only_where_the_gpu_answers_no_more():
    """A GPU that is not there answers as little as one whose context is broken.

    The process imports what the jobs' functions need first, which is no Ray.
    """
    with pytest.raises(ValueError, match="row 7 is bad"), ending_with_its_gpu("cpu"):
        raise ValueError("row 7 is bad")
    ended = in_a_process_of_its_own(
        "import sys\n"
        "import pipeline.stages.write, pipeline.stages.predict, pipeline.training.loop.steps, "
        "pipeline.training.windows.cut\n"
        "print('ray' in sys.modules, flush=True)\n"
        "from pipeline.stages.device import ending_with_its_gpu as e\n"
        "with e('cuda:99'): raise ValueError('row 7 is bad')\n"
    )
    assert ended.stdout == "False\n"
    assert ended.stderr.startswith("this process ends: its GPU answers no more (")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_process_ends_when_an_image_breaks_its_gpu_and_not_when_the_memory_is_too_small():
    working = "import torch\nfrom pipeline.stages.device import ending_with_its_gpu as e\nwith e('cuda'): {}"
    broken = in_a_process_of_its_own(working.format("torch.zeros(3).cuda()[torch.tensor([9]).cuda()].cpu()")).stderr
    assert "its GPU answers no more" in broken
    full = in_a_process_of_its_own(working.format("torch.zeros(2**50, device='cuda')")).stderr
    assert "OutOfMemoryError" in full
    assert "answers no more" not in full


def test_an_fcn_sees_whole_images_and_the_crf_refines_what_it_says(manifest, tmp_path):
    torch.manual_seed(2)
    net = folded(3, "lite0")
    torch.nn.init.normal_(net.score.weight)
    info = CheckpointInfo(CLASSES, 1.0, INPUT, architecture="litefcn", encoder="lite0", long_side=96)
    (tmp_path / "fcn.safetensors").write_bytes(dump_checkpoint(net, info))
    config = replace(fcn_crf(SegmentConfig("in", "out")), weights=str(tmp_path / "fcn.safetensors"))
    table = propose_stage(decode_stage(start_rows(manifest), config.decode), config.propose)
    predicted = load_predict(config, 0)(table)
    refined = refine_stage(predicted, config.refine, len(CLASSES)).to_pylist()
    assert [row["num_proposals"] for row in refined] == [0, None, 0, None]
    member = load_member((tmp_path / "fcn.safetensors").read_bytes(), "fcn")
    for row, before in zip(refined[::2], predicted.to_pylist()[::2], strict=True):
        image_HW3 = image_of(before)
        expected_CHW = member.scores(torch.from_numpy(image_HW3.copy()).permute(2, 0, 1)).softmax(0)
        ids_K = unpack(before["class_ids"], np.int64, -1)
        found_KHW = unpack(before["probabilities"], np.float16, len(ids_K), *image_HW3.shape[:2])
        np.testing.assert_allclose(found_KHW, expected_CHW[ids_K.tolist()].numpy(), atol=2e-3)
        assert row["model_fingerprint"] == member.fingerprint
        labels_HW = ids_K[refine(image_HW3, found_KHW, config.refine).argmax(0)]
        np.testing.assert_array_equal(decode_mask(row["mask"]), labels_HW)


def test_masks_are_written_at_once_and_one_that_cannot_be_written_ends_the_run(tmp_path: Path):
    """Each writing waits until four are there: one after the other, the first would wait for ever."""
    images = to_table(
        [{"image_id": f"{number:02}.jpg", "status": "ok", "mask": bytes([number])} for number in range(16)]
    )
    lease = take_lease(str(tmp_path))
    there = replace(lease, output=f"{SCHEME}{lease.output}")
    four = Barrier(4, timeout=60)
    with waiting_store(wait=lambda name: four.wait() if name.endswith(".png") else None):
        write_files(images, there, masks=True)
    written = {path.name: path.read_bytes() for path in (tmp_path / "masks").iterdir()}
    assert written == {f"{number:02}.jpg.png": bytes([number]) for number in range(16)}
    with waiting_store(faults={"03.jpg.png": 100}), pytest.raises(OSError, match=r"03\.jpg\.png: busy"):
        write_files(images, there, masks=True)
