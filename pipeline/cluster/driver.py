"""Drives the main job's graph: plans it, commits its results, and starts it again if the cluster breaks it."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, NoReturn

import pyarrow as pa
import ray
from ray.data import Dataset

from pipeline import storage
from pipeline.cluster import connect
from pipeline.cluster.graph import RemoteAttemptLog, RemoteSink, build_dataset, real_stages
from pipeline.cluster.metrics import RunMetrics
from pipeline.cluster.plan import plan, timed_plan
from pipeline.cluster.pools import Pools, estimate, machines_in_short
from pipeline.cluster.ray_private import run_to_the_end
from pipeline.config import SegmentConfig
from pipeline.config.stages import stages_of
from pipeline.errors import PoolError, WorkBrokenError
from pipeline.models.checkpoint_header import NetworkInfo
from pipeline.outputs.lease import BEAT_SECONDS
from pipeline.run.attempts import RunProgress
from pipeline.run.error_line import in_short
from pipeline.run.live import View
from pipeline.run.record import RunRecord, Summary
from pipeline.run.saver import Saver
from pipeline.run.watch import Watch
from pipeline.stages.load import Loads
from pipeline.stages.write import Counts, rows_in_a_file

Screen = Callable[[Callable[[], View]], AbstractContextManager[None]]
PROBE_FROM = 100  # images; with fewer, timing the stages takes longer than a better plan saves
PAUSES = (10.0, 60.0, 300.0, 900.0)
"""Seconds before a broken graph is started again: after one that saved results, after one that did not, ..."""


@dataclass(frozen=True)
class Driver:
    """One call of the main job, after its arguments were checked.

    Attributes:
        config: the job's settings, with paths that every worker can read.
        info: the network's description.
        run: the output folder, owned by this process.
        summary: finished work is added to it, also if an exception ends the run.
        log: prints a line.
        screen: shows what the run is doing as long as its context lasts; None: lines say how far it is.
    """

    config: SegmentConfig
    info: NetworkInfo
    run: RunRecord
    summary: Summary
    log: Callable[[str], None]
    screen: Screen | None = None

    def drive(self, todo: pa.Table) -> None:
        """Segment images.

        Args:
            todo: rows of the run's manifest that are not done.

        Raises:
            ClusterError: there is no cluster.
            WorkBrokenError: a graph broke and is not started again.
            PoolError: the processes that were asked for do not fit the cluster.
            LeaseError: another run took the output folder over.
            TooManyErrors: more images fail than the settings allow.
            OSError: the store cannot be read.
            KeyboardInterrupt: Ctrl-C, or `ray job stop`.
        """
        connect.start_ray()
        signal.signal(signal.SIGTERM, _stop)  # `ray job stop`; after Ray's start, which sets its own handler
        lost_before = connect.lost_machines()
        self.summary.machines = machines_in_short(connect.machines())
        pools = plan(self.config)
        loads = real_stages(self.config, self.info.num_classes, pools)
        if self.config.plan == "auto" and len(todo) >= PROBE_FROM:
            pools, self.summary.seconds_alone = timed_plan(self.config, loads, pools, todo, self.log)
        try:
            self.run_graphs(todo, loads, pools)
        finally:
            with suppress(Exception):  # a cluster that is gone cannot say
                self.summary.faults["nodes_lost"] += connect.lost_machines() - lost_before

    def run_graphs(self, todo: pa.Table, loads: Loads, pools: Pools) -> None:
        """Run the graph; if it breaks, run another one for the images that are left, planned for the cluster as it is.

        Ray by itself repeats the work of lost processes and machines. A graph ends if Ray cannot recover: the attempt
        log is lost, a store is out of reach for minutes, processes wait for a machine that does not come back. Another
        graph is tried only if this call has saved results; otherwise it would most likely end the same way.

        Args:
            todo: rows of the manifest that are not done.
            loads: the stages.
            pools: processes of each stage for the first graph.
        """
        left: pa.Table | None = todo
        started, fruitless = time.perf_counter(), 0
        while True:
            before = self.summary.images
            try:
                if left is None:
                    left, pools = self.run.todo(), self._plan_again(pools)
                if len(left):
                    self._run_graph(left, loads, pools, started)
            except (ray.exceptions.RayError, OSError) as error:
                broken = in_short(error)
                self.summary.faults["graphs_broken"] += 1
            else:
                return
            with suppress(OSError):  # a store in trouble; the next graph asks again
                self.run.lease.check()
            gc.collect()  # reference cycles keep Ray Data's executor, so its actors, and so the GPUs
            fruitless = 0 if self.summary.images > before else fruitless + 1
            if not self.summary.images or fruitless == len(PAUSES):
                raise WorkBrokenError(broken)
            self.log(f"the work broke off: {broken}\nwhat is left starts again in {PAUSES[fruitless]:.0f} s")
            time.sleep(PAUSES[fruitless])
            left = None

    def _run_graph(self, todo: pa.Table, loads: Loads, pools: Pools, started: float) -> None:
        """Run one graph over images; finished images are saved meanwhile and at its end, whatever the reason."""
        self.run.lease.check()
        self.summary.processes = pools.in_short()
        self.log(self.summary.processes)
        rows_per_file = rows_in_a_file(len(todo), self.config.rows_per_file)
        attempt_log, sink = RemoteAttemptLog(), RemoteSink(self.run.lease, self.info.class_names, rows_per_file)
        graph = build_dataset(todo, loads, self.config, pools, self.run.lease, attempt_log, sink)
        view = self._viewer(pools, len(todo))
        saver, watch = self._saver(sink, started), self._watch(attempt_log, len(todo), view)
        shown = self.screen(lambda: view(attempt_log.progress(1.0))) if self.screen else nullcontext()
        try:
            with shown, _told_to_stop(saver.close):
                try:
                    _work_through(graph)
                except Exception:
                    saver.close()
                    raise
                saver.close()
        except KeyboardInterrupt:
            if saver.reason is not None:
                raise saver.reason from None
            if watch.reason is not None:
                raise WorkBrokenError(watch.reason) from None
            if saver.unsaved is not None:
                self.log(f"images that were finished are not saved: {in_short(saver.unsaved)}")
            raise
        finally:
            saver.close(patience=0)  # it has ended, unless this call was told to stop twice
            watch.close()
            self.summary.faults["attempts_lost"] += watch.last.lost
            self.summary.faults["requests_repeated"] += watch.last.repeated + storage.retries(reset=True)
        if saver.unsaved is not None:
            raise saver.unsaved

    def _saver(self, sink: RemoteSink, started: float) -> Saver:
        """What puts the sink's files in place, and ends the run if too many images fail."""

        def save(counts: Counts) -> None:
            self.run.lease.commit(counts["parts"])
            self.summary.add(counts, time.perf_counter() - started)

        def check() -> None:
            self.summary.check(self.config.max_error_rate, len(self.run.manifest))

        return Saver(sink.collect, save, check, _end_this_process)

    def _watch(self, attempt_log: RemoteAttemptLog, total: int, view: Callable[[RunProgress], View]) -> Watch:
        """What reports the progress of a graph over `total` images, and ends it if it stalls."""
        before, skipped = self.summary.images, self.summary.skipped
        metrics = RunMetrics(self.config.output, view)

        def progress() -> RunProgress:
            heard = attempt_log.progress(BEAT_SECONDS)
            metrics.see(heard)
            return heard

        return Watch(
            self.run.lease,
            progress,
            lambda: (self.summary.images - before, self.summary.skipped - skipped),
            total,
            self.config.stall_timeout,
            self.log,
            _end_this_process,
            report=self.log if self.screen is None else lambda _line: None,
        )

    def _viewer(self, pools: Pools, total: int) -> Callable[[RunProgress], View]:
        """What makes a view of a graph that starts now, over `total` images, for the screen and the metrics."""
        summary, alone = self.summary, self.summary.seconds_alone
        images, failed, skipped = summary.images, summary.failed, summary.skipped
        repeated = summary.faults["requests_repeated"]
        seconds = {stage: totals["seconds"] for stage, totals in summary.stages.items()}
        bound = estimate(pools, connect.total("CPU"), alone).bound if alone else ""

        def view(progress: RunProgress) -> View:
            done = {stage.name: progress.done.get(stage.name, 0) for stage in stages_of(self.config)}
            saved = summary.images - images
            return View(
                done, total, saved, summary.failed - failed, summary.skipped - skipped, progress.lost,
                pools.of_stages(), alone, bound, list(summary.last_failures),
                progress.repeated + summary.faults["requests_repeated"] - repeated,
                {stage: totals["seconds"] - seconds[stage] for stage, totals in summary.stages.items()},
            )  # fmt: skip

        return view

    def _plan_again(self, before: Pools) -> Pools:
        """The pools for the cluster as it is now; `before` if it lacks GPUs or room, since they may come back."""
        config = replace(self.config, predict_gpus=before.predict_gpus, refine_gpus=before.refine_gpus)
        try:
            return plan(config, self.summary.seconds_alone or None)
        except PoolError as error:
            self.log(f"waiting for machines: {error}")
            return before


def _work_through(graph: Dataset) -> None:
    """Run a graph to its end.

    Raises:
        RayError: a task failed, or a process was lost that Ray cannot replace.
        WorkBrokenError: an error of Ray Data itself. No code of this project runs in this process meanwhile, so an
            exception of any type means that this graph cannot continue (`ExecutionTimeoutError` and `SystemException`
            are no RayErrors, and Ray Data's scheduler may raise anything).
    """
    try:
        run_to_the_end(graph)
    except ray.exceptions.RayError:
        raise
    except Exception as error:
        said, *_ = str(error).splitlines() or [""]
        raise WorkBrokenError(f"{type(error).__name__}: {said}") from error


@contextmanager
def _told_to_stop(first: Callable[[], None]) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM call `first` before they interrupt; a second signal interrupts at once.

    `first` has to run before Ray Data is interrupted, which takes seconds to shut down, while `ray job stop` kills
    after three.
    """

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGINT, _stop)
        signal.signal(signal.SIGTERM, _stop)
        first()
        _stop(number, frame)

    before: dict[int, Any] = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_this_process() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    """Treat a request to end like Ctrl-C."""
    raise KeyboardInterrupt
