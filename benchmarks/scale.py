"""A manifest of a million images through the main job's own graph, without pixels: the cost of the bookkeeping.

Manifest, resume filter, graph, attempt log, rows, sink, commit and audit are the job's; only the work of the stages is
missing, so rows hold no pixels, and more go together than of photographs.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from benchmarks.config import Scale
from pipeline import storage
from pipeline.cluster import connect
from pipeline.cluster.batches import plan_batches
from pipeline.cluster.graph import RemoteAttemptLog, RemoteSink, build_dataset
from pipeline.cluster.plan import plan
from pipeline.cluster.profile import probe, sample
from pipeline.cluster.ray_private import run_to_the_end
from pipeline.config import SegmentConfig
from pipeline.config.stages import STAGES
from pipeline.inputs.manifest import build_manifest
from pipeline.outputs.schema import OK
from pipeline.outputs.writing import write_rows
from pipeline.run.record import RunRecord, open_run
from pipeline.run.saver import Saver
from pipeline.stages.load import Loads
from pipeline.stages.rows import run_rows
from pipeline.stages.write import Counts, rows_in_a_file

CLASSES = ("background", "thing")
ROWS_PER_FILE = 10_000
RESULT = {"mask": b"", "pixel_counts": [1, 0], "mean_probability": [1.0, None]}


def run(config: Scale) -> list[dict[str, Any]]:
    """Seconds and memory of each step of resuming a run that is partly in the results."""
    with tempfile.TemporaryDirectory() as temporary:
        return _Steps(config.images, int(config.images * config.done), config.output or temporary).rows


class _Steps:
    def __init__(self, images: int, done: int, folder: str) -> None:
        self.rows: list[dict[str, Any]] = []
        listed, output = storage.join(folder, "manifest.parquet"), storage.join(folder, "out")
        self._step("write a manifest to read", lambda: _write_manifest(listed, images))
        manifest = self._step("read, hash, sort, check the manifest", lambda: build_manifest(listed, None))
        settings = SegmentConfig(input=listed, output=output, masks=False)
        open_run(replace(settings, overwrite=True), "null", CLASSES, manifest).lease.release()
        self._step(f"write the {done} results of before", lambda: _write_results(output, manifest, done))
        connect.start_ray()
        started = time.perf_counter()
        run = self._step("open the run", lambda: open_run(settings, "null", CLASSES, manifest))
        todo = self._step("resume filter", run.todo)
        began = time.perf_counter()
        saved = _work_through(run, todo, settings)
        self._row("start of the graph, to the first rows in place", saved[0][0] - began)
        resumed = saved[0][0] - started
        later = max(1, len(todo) - saved[0][1])
        rate = later / max(saved[-1][0] - saved[0][0], 1e-9)
        self._row("the driver's processor time for 1,000 images", 1000 * (saved[-1][2] - saved[0][2]) / later)
        found = self._step("audit", run.audit)
        run.lease.release()
        assert found.complete, found
        assert found.ok == images, found
        self._row("resume, to the first rows in place", resumed)
        self.rows[-1]["images/s"] = rate
        for row in self.rows:
            row.setdefault("images/s", float("nan"))

    def _step(self, name: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        self._row(name, time.perf_counter() - started)
        return result

    def _row(self, name: str, seconds: float) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        self.rows.append({"step": name, "seconds": seconds, "peak memory of the driver so far, GiB": peak})


def _work_through(run: RunRecord, todo: pa.Table, settings: SegmentConfig) -> list[tuple[float, int, float]]:
    """Do what is left; returns when each file was in place, its images, and the driver's processor seconds by then."""
    saved: list[tuple[float, int, float]] = []

    def save(counts: Counts) -> None:
        run.lease.commit(counts["parts"])
        saved.append((time.perf_counter(), counts["ok"], time.process_time()))

    attempt_log = RemoteAttemptLog()
    sink = RemoteSink(run.lease, CLASSES, rows_in_a_file(len(todo), settings.rows_per_file))
    cores = max(1, int(connect.total("CPU")))
    probed = probe(sample(todo), NULL_STAGES)
    batches = plan_batches(len(todo), cores, len(CLASSES), settings.decode.max_side, probed)
    dataset = build_dataset(todo, NULL_STAGES, settings, plan(settings), batches, run.lease, attempt_log, sink)
    saver = Saver(sink.collect, save, check=lambda: None, stop=lambda: None)
    run_to_the_end(dataset)
    saver.close()
    return saved


def _write_manifest(uri: str, images: int) -> None:
    uris = pa.array([f"s3://bucket/photographs/{i % 1000:03}/{i:09}.jpg" for i in range(images)])
    storage.write_parquet(uri, pa.table({"uri": uris}))


def _write_results(output: str, manifest: pa.Table, done: int) -> None:
    for start in range(0, done, ROWS_PER_FILE):
        part = manifest.slice(start, min(ROWS_PER_FILE, done - start)).to_pylist()
        write_rows(output, [_finished(row) for row in part], CLASSES)


def _finished(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"status": OK, **RESULT, **{f"seconds_{stage.name}": 0.0 for stage in STAGES}}


def _null(table: pa.Table, stage: str) -> pa.Table:
    return run_rows(table, stage, lambda row: row.update(RESULT) if stage == "refine" else None)


NULL_STAGES: Loads = {
    name: partial(partial, _null, stage=name) for name in ("decode", "propose", "predict", "refine")
}  # fmt: skip
