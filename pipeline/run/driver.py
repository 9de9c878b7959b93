"""Drives the main job: runs a graph over what is left, saves its results, and starts another if it breaks. No Ray here.

Where a graph runs is a `Workplace`: a Ray cluster (`pipeline.cluster.workplace`) or, for a few images, processes of
this machine (`pipeline.run.local`).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from pipeline import storage
from pipeline.config import SegmentConfig
from pipeline.config.stages import stages_of
from pipeline.errors import WorkBrokenError
from pipeline.outputs.lease import BEAT_SECONDS
from pipeline.run.attempts import RunProgress
from pipeline.run.error_line import in_short
from pipeline.run.live import View
from pipeline.run.record import RunRecord, Summary
from pipeline.run.saver import Saver
from pipeline.run.stopping import end_this_process, stop_on_sigterm, told_to_stop
from pipeline.run.watch import Watch
from pipeline.stages.write import Counts

Screen = Callable[[Callable[[], View]], AbstractContextManager[None]]
PAUSES = (10.0, 60.0, 300.0, 900.0)
"""Seconds before a broken graph is started again: after one that saved results, after one that did not, ..."""


@dataclass(frozen=True)
class Graph:
    """The stages over some images, ready to run once.

    Attributes:
        work_through: does the work.
        progress: how far it is, after at most so many seconds; may raise if no answer comes.
        collect: what its sink staged (`stages.write.Sink.collect`).
        export: tells Prometheus of it, if anything does; called every `BEAT_SECONDS`.
        processes: of all stages, in words.
        processes_of: of each stage, for a narrow column.
        bound: the stage that the others wait for, or `cpu`; empty if not known.
    """

    work_through: Callable[[], None]
    progress: Callable[[float], RunProgress]
    collect: Callable[..., list[Counts]]
    export: Callable[[Callable[[], View]], None]
    processes: str
    processes_of: Mapping[str, str]
    bound: str = ""


class Workplace(Protocol):
    """Where the graphs of a run do their work."""

    @property
    def breaks(self) -> tuple[type[Exception], ...]:
        """Exceptions that end a graph, and not the run."""

    def opened(self, todo: pa.Table, summary: Summary) -> AbstractContextManager[None]:
        """Make it ready for these images, and close it at the end; the summary learns what it is.

        Raises:
            ClusterError: there is no such place.
            PoolError: the processes that were asked for do not fit it.
        """

    def graph(self, todo: pa.Table, run: RunRecord, *, again: bool) -> Graph:
        """A graph over images; `again`: for the place as it is now, since another graph broke there."""


@dataclass(frozen=True)
class Driver:
    """One call of the main job, after its arguments were checked.

    Attributes:
        config: the job's settings, with paths that every worker can read.
        workplace: where the work is done.
        run: the output folder, owned by this process.
        summary: finished work is added to it, also if an exception ends the run.
        log: prints a line.
        screen: shows what the run is doing as long as its context lasts; None: lines say how far it is.
    """

    config: SegmentConfig
    workplace: Workplace
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
        stop_on_sigterm()
        with self.workplace.opened(todo, self.summary):
            self.run_graphs(todo)

    def run_graphs(self, todo: pa.Table) -> None:
        """Run a graph; if it breaks, run another one for the images that are left, planned for the place as it is.

        A lost process costs only an attempt at the images that it had. A graph ends if that is not enough: the attempt
        log is lost, a store is out of reach for minutes, processes wait for a machine that does not come back. Another
        graph is tried only if this call has saved results; otherwise it would most likely end the same way.

        Args:
            todo: rows of the manifest that are not done.
        """
        left: pa.Table | None = todo
        started, fruitless = time.perf_counter(), 0
        while True:
            before = self.summary.images
            try:
                again = left is None
                if left is None:
                    left = self.run.todo()
                if len(left):
                    self._run_graph(left, started, again=again)
            except self.workplace.breaks as error:
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
            later = sum(PAUSES[fruitless + 1 :]) / 60
            patience = f"it is tried again for {later:.0f} min more" if later else "the run ends"
            self.log(
                f"the work broke off: {broken}\n"
                f"what is left starts again in {PAUSES[fruitless]:.0f} s; if nothing can be saved then, {patience}"
            )
            time.sleep(PAUSES[fruitless])
            left = None

    def _run_graph(self, todo: pa.Table, started: float, *, again: bool) -> None:
        """Run one graph over images; finished images are saved meanwhile and at its end, whatever the reason."""
        self.run.lease.check()
        graph = self.workplace.graph(todo, self.run, again=again)
        self.summary.processes = graph.processes
        self.log(self.summary.processes)
        view = self._viewer(graph, len(todo))
        saver, watch = self._saver(graph, started), self._watch(graph, len(todo), view)
        heard_of = graph.progress
        shown = self.screen(lambda: view(heard_of(1.0))) if self.screen else nullcontext()
        try:
            with shown, told_to_stop(saver.close):
                try:
                    graph.work_through()
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

    def _saver(self, graph: Graph, started: float) -> Saver:
        """What puts the sink's files in place, and ends the run if too many images fail."""

        def save(counts: Counts) -> None:
            self.run.lease.commit(counts["parts"])
            self.summary.add(counts, time.perf_counter() - started)

        def check() -> None:
            self.summary.check(self.config.max_error_rate, len(self.run.manifest))

        return Saver(graph.collect, save, check, end_this_process)

    def _watch(self, graph: Graph, total: int, view: Callable[[RunProgress], View]) -> Watch:
        """What reports the progress of a graph over `total` images, and ends it if it stalls."""
        before, skipped = self.summary.images, self.summary.skipped
        heard_of, export = graph.progress, graph.export

        def progress() -> RunProgress:
            heard = heard_of(BEAT_SECONDS)
            export(lambda: view(heard))
            return heard

        return Watch(
            self.run.lease,
            progress,
            lambda: (self.summary.images - before, self.summary.skipped - skipped),
            total,
            self.config.stall_timeout,
            self.log,
            end_this_process,
            report=self.log if self.screen is None else lambda _line: None,
        )

    def _viewer(self, graph: Graph, total: int) -> Callable[[RunProgress], View]:
        """What makes a view of a graph that starts now, over `total` images, for the screen and the metrics."""
        summary, alone = self.summary, self.summary.seconds_alone
        images, failed, skipped = summary.images, summary.failed, summary.skipped
        repeated = summary.faults["requests_repeated"]
        seconds = {stage: totals["seconds"] for stage, totals in summary.stages.items()}
        processes, bound = graph.processes_of, graph.bound

        def view(progress: RunProgress) -> View:
            done = {stage.name: progress.done.get(stage.name, 0) for stage in stages_of(self.config)}
            saved = summary.images - images
            return View(
                done, total, saved, summary.failed - failed, summary.skipped - skipped, progress.lost,
                processes, alone, bound, list(summary.last_failures),
                progress.repeated + summary.faults["requests_repeated"] - repeated,
                {stage: totals["seconds"] - seconds[stage] for stage, totals in summary.stages.items()},
            )  # fmt: skip

        return view
