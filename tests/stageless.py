"""Calls of the main job whose stages do nothing, as processes that can be killed. No Ray."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess

import pyarrow as pa

from pipeline.config import SegmentConfig
from pipeline.config.stages import STAGES
from pipeline.outputs.schema import ALL_SCHEMAS
from pipeline.run.attempts import RunProgress
from pipeline.run.driver import Driver, Graph
from pipeline.run.record import RunRecord, Summary, open_run
from pipeline.run.shards import write_joint_summary
from pipeline.stages.write import Sink

CLASSES = ("background", "thing")
ROWS_PER_FILE = 4
PROCESSES = get_context("forkserver")  # all imports of this module are made once
PROCESSES.set_forkserver_preload([__name__])
DONE, LEFT = 0, 3
"""Exit codes of `start`; `LEFT`: images of the call are missing or doubled."""


def images(count: int) -> pa.Table:
    """A manifest."""
    names = [f"{number:05}.jpg" for number in range(count)]
    return pa.table({"image_id": names, "uri": names})


def row_of(image_id: str) -> dict[str, object]:
    """What would be in the output: some images fail, and some are skipped."""
    row: dict[str, object] = {"image_id": image_id, "uri": image_id}
    row |= {f"seconds_{stage.name}": 0.0 for stage in STAGES}
    if image_id.endswith("3.jpg"):
        return row | {"status": "failed", "error_stage": "decode", "error_type": "ImageError", "error_message": "no"}
    if image_id.endswith("6.jpg"):
        return row | {"status": "skipped", "skip_stage": "filter", "skip_reason": "small"}
    return row | {"status": "ok", "mask": b"", "pixel_counts": [1, 0], "mean_probability": [1.0, None]}


@dataclass(frozen=True)
class Stageless:
    """Where images are done at once, one after the other, with a pause after each (a `Workplace`)."""

    pause: float = 0.0
    breaks = (OSError,)

    @contextmanager
    def opened(self, todo: pa.Table, summary: Summary) -> Iterator[None]:
        summary.machines = "1 machine(s)"
        yield

    def graph(self, todo: pa.Table, run: RunRecord, *, again: bool) -> Graph:
        sink = Sink(run.lease, CLASSES, ROWS_PER_FILE)

        def work_through() -> None:
            ids = todo["image_id"].to_pylist()
            random.Random(run.lease.run_id).shuffle(ids)  # as images are finished: no two calls write the same files
            for image_id in ids:
                sink.add(pa.Table.from_pylist([row_of(image_id)], schema=ALL_SCHEMAS))
                time.sleep(self.pause)

        def progress(_patience: float) -> RunProgress:
            return RunProgress({}, lost=0, repeated=0, idle_seconds=0.0)

        return Graph(work_through, progress, sink.collect, lambda _view: None, "no processes", {})


def run_to_the_end(config: SegmentConfig, manifest: pa.Table, pause: float, log: Callable[[str], None]) -> int:
    """One call of the job, but for what it prints at its end; returns its exit code."""
    run = open_run(config, "fingerprint", CLASSES, manifest, log)
    with run.lease.kept_alive(period=0.1):
        summary = Summary.of(STAGES)
        Driver(config, Stageless(pause), run, summary, log).drive(run.todo())
        found = run.audit()
        run.write_summary(summary, found)
        write_joint_summary(run, found)
        return DONE if found.complete else LEFT


def start(config: SegmentConfig, manifest: pa.Table, environment: Mapping[str, str], pause: float = 0.0) -> BaseProcess:
    """`run_to_the_end` in a process of its own."""
    process = PROCESSES.Process(target=_call, args=(config, manifest, dict(environment), pause))
    process.start()
    return process


def _call(config: SegmentConfig, manifest: pa.Table, environment: dict[str, str], pause: float) -> None:
    os.environ.update(environment)
    sys.exit(run_to_the_end(config, manifest, pause, lambda _line: None))
