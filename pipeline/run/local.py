"""A run of few images, in processes of this machine: Ray's start would take longer than the work. No Ray here.

It is the other `run.driver.Workplace`: stages, attempt log, sink and everything around them are those of a run on Ray.
Only who hands out images differs: here a thread for each process, which answers what the process asks.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from signal import SIGKILL
from typing import Any

import psutil
import pyarrow as pa

from pipeline.config import SegmentConfig
from pipeline.config.stages import stages_of
from pipeline.errors import WorkBrokenError
from pipeline.models.checkpoint_header import NetworkInfo
from pipeline.run.attempts import AttemptLog, RunProgress
from pipeline.run.driver import Graph
from pipeline.run.local_worker import Job
from pipeline.run.record import RunRecord, Summary
from pipeline.run.worker_lines import WorkerLines
from pipeline.stages.write import Sink, rows_in_a_file

MOST_IMAGES = 64
"""More are done on Ray, which times the stages first, uses GPUs and can be followed by Prometheus."""
PROCESS_BYTES = 3 * 2**29
"""Memory of a process at work with the bundled networks (`voc`), its share of common pages left out."""
GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Device files of NVIDIA's and AMD's drivers, and of Windows' in WSL; importing torch to ask it takes seconds."""
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # more threads would wait for those of the other processes
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # Arrow's allocator; a process that forks has one thread
    "CUDA_VISIBLE_DEVICES": "",
}
"""Of the processes."""
FIRST = "from pipeline.run.local_worker import main; main()"
STILLBORN = 3
"""Processes in a row that may be lost before they ask for an image."""


def suits_this_machine(config: SegmentConfig) -> bool:
    """Whether a run with these settings may work here if it has few images: without a cluster and without GPUs.

    RAY_ADDRESS names a cluster, also for a job that was submitted to one; `local` starts a Ray for this run.
    """
    ray = sys.modules.get("ray")
    on_a_cluster = bool(os.environ.get("RAY_ADDRESS")) or (ray is not None and ray.is_initialized())
    gpus = config.predict.device != "cpu" and any(Path(file).exists() for file in GPU_FILES)
    asked = config.predict.device == "cuda" or config.predict_gpus or config.refine_gpus or config.refine_workers
    return not (on_a_cluster or gpus or asked)


class Processes:
    """The processes of a graph: the first, which imports and loads what the stages need, and its forks.

    Args:
        log: prints a line.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self._control, theirs = socket.socketpair()
        self._sending = threading.Lock()
        self._last_line = ""
        with theirs:
            self._first = subprocess.Popen(  # noqa: S603  (our own)
                [sys.executable, "-P", "-c", FIRST, str(theirs.fileno())],
                env=os.environ | ENVIRONMENT | {"PYTHONPATH": _python_path()}, pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                start_new_session=True,  # Ctrl-C concerns the job, which saves what is finished before it ends these
            )  # fmt: skip
        self._reading = threading.Thread(target=self._show, args=[log], name="lines of processes", daemon=True)
        self._reading.start()

    def load(self, job: Job) -> None:
        """Tell the first process what to load; what goes wrong there is said when a fork is asked for."""
        with suppress(OSError), Connection(os.dup(self._control.fileno())) as connection:
            connection.send(job)

    def fork(self) -> Connection:
        """A connection to another process, which waits for images.

        Raises:
            WorkBrokenError: the first process has ended.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs, self._sending:
                socket.send_fds(self._control, [b"+"], [theirs.fileno()])
        except OSError as error:
            ours.close()
            raise WorkBrokenError(self._why_ended()) from error
        return Connection(ours.detach())

    def _why_ended(self) -> str:
        """What the first process said before it ended."""
        with suppress(EOFError, OSError), Connection(os.dup(self._control.fileno())) as connection:
            if connection.poll():
                return str(connection.recv())
        code = self._first.wait()
        self._reading.join()
        return f"the process that starts the others ended ({code}); its last line: {self._last_line}"

    def end(self) -> None:
        """End all of them at once; may be called again. If the first has ended, the others end when they ask."""
        if self._first.poll() is None:  # only as long is the group's number certainly theirs
            os.killpg(self._first.pid, SIGKILL)
            self._first.wait()
        self._control.close()

    def _show(self, log: Callable[[str], None]) -> None:
        """Show of the processes' lines what people should see."""
        lines = WorkerLines()
        assert self._first.stdout is not None
        with self._first.stdout as said:
            for line in said:
                self._last_line = line.strip() or self._last_line
                for shown in lines.for_people([line.rstrip("\n")]):
                    log(shown)


def _python_path() -> str:
    """Where this process finds modules, the working directory by its name."""
    return os.pathsep.join(folder or os.getcwd() for folder in sys.path)  # noqa: PTH109  (as text)


@contextmanager
def processes_ahead(config: SegmentConfig, log: Callable[[str], None]) -> Iterator[Processes | None]:
    """Let the first process import torch while the job looks at its input; it is ended with the context.

    Args:
        config: the job's settings; how many images they mean is not known yet.
        log: prints a line.

    Yields:
        None if such a run is not done here, however few its images are.
    """
    if not suits_this_machine(config):
        yield None
        return
    processes = Processes(log)
    try:
        yield processes
    finally:
        processes.end()


class ThisMachine:
    """This machine's CPUs, for the graphs of a run (`run.driver.Workplace`).

    Args:
        config: the job's settings, with absolute paths.
        info: the network's description.
        log: prints a line.
        processes: of the first graph.
    """

    breaks = (OSError,)
    """See `Workplace.breaks`."""

    def __init__(
        self, config: SegmentConfig, info: NetworkInfo, log: Callable[[str], None], processes: Processes
    ) -> None:
        self._config, self._info, self._log, self._processes = config, info, log, processes

    @contextmanager
    def opened(self, todo: pa.Table, summary: Summary) -> Iterator[None]:
        """See `Workplace.opened`."""
        summary.machines = f"1 machine(s), {cores()} CPUs"
        self._log(f"few images ({len(todo)}): processes of this machine do them, without Ray")
        yield

    def graph(self, todo: pa.Table, run: RunRecord, *, again: bool) -> Graph:
        """See `Workplace.graph`; each graph has processes of its own."""
        if again:
            self._processes = Processes(self._log)
        self._processes.load(Job(self._config, self._info.num_classes, run.lease))
        count = processes_for(len(todo), self._config.predict_workers)
        sink = Sink(run.lease, self._info.class_names, rows_in_a_file(len(todo), self._config.rows_per_file))
        work = _Work(todo, count, self._processes, sink)
        return Graph(
            work_through=work.through,
            progress=work.progress,
            collect=sink.collect,
            export=lambda _view: None,
            processes=f"{count} process(es) for all stages",
            processes_of={stage.name: str(count) for stage in stages_of(self._config)},
        )


class _Work:
    """Images to do, and the processes that do them."""

    def __init__(self, todo: pa.Table, count: int, processes: Processes, sink: Sink) -> None:
        # One by one: on a CPU that takes no longer, no process waits long for another at the end, and what a lost
        # process costs is an attempt at one image.
        self._waiting = deque(todo.slice(number, 1) for number in range(len(todo)))
        self._count, self._processes, self._sink = count, processes, sink
        self._attempts, self._lock = AttemptLog(), threading.Lock()
        self._at_work, self._ended = count, threading.Event()
        self._broken: Exception | None = None

    def progress(self, _patience: float) -> RunProgress:
        """See `AttemptLog.progress`."""
        with self._lock:
            return self._attempts.progress()

    def through(self) -> None:
        """Do all images; returns with the last of them in the sink, and no process left.

        Raises:
            OSError: a store is out of reach, or processes end without a reason that an image could be.
        """
        try:
            for number in range(self._count):
                threading.Thread(target=self._attend, name=f"process {number}", daemon=True).start()
            self._ended.wait()
        finally:
            self._processes.end()
        if self._broken is not None:
            raise self._broken

    def _attend(self) -> None:
        """Keep one process at work, or another in its place, until no image waits."""
        try:
            stillborn = 0
            while self._waiting and stillborn <= STILLBORN:
                stillborn = 0 if self._serve(self._processes.fork()) else stillborn + 1
            if stillborn > STILLBORN:
                self._break(WorkBrokenError("processes end before they ask for an image"))
        except Exception as error:  # of the sink, too
            self._break(error)
        finally:
            with self._lock:
                self._at_work -= 1
                done = not self._at_work
            if done:
                self._ended.set()

    def _break(self, error: Exception) -> None:
        """End the work; the first reason counts, since what follows comes from the end of all."""
        self._broken = self._broken or error
        self._ended.set()

    def _serve(self, process: Connection) -> bool:
        """Answer a process until it has nothing more to do or is lost; returns whether it asked for anything.

        Raises:
            WorkBrokenError: it says that it cannot continue.
            OSError: the sink cannot write.
        """
        part: pa.Table | None = None
        asked = False
        with process:
            while True:
                try:
                    question, *arguments = process.recv()
                except (EOFError, OSError):  # it is lost, and what it had waits again
                    if part is not None:
                        self._waiting.appendleft(part)
                    return asked
                asked = True
                if question == "next":
                    part = answer = self._next()
                else:
                    answer = self._answer(question, *arguments)
                with suppress(OSError):  # lost meanwhile: the next `recv` says so
                    process.send(answer)
                if question == "next" and part is None:
                    return True

    def _next(self) -> pa.Table | None:
        with suppress(IndexError):
            return self._waiting.popleft()
        return None

    def _answer(self, question: str, *arguments: Any) -> int | None:
        if question == "broken":
            raise WorkBrokenError(*arguments)
        if question == "add":
            self._sink.add(*arguments)
            return None
        with self._lock:
            if question == "enter":
                return self._attempts.enter(*arguments)
            self._attempts.leave(*arguments)
            return None


def processes_for(images: int, asked: int = 0) -> int:
    """How many processes do so many images: one for each core, as far as the memory goes.

    Args:
        images: at least 1.
        asked: so many instead; 0: chosen here.
    """
    fitting = psutil.virtual_memory().available // PROCESS_BYTES
    return min(images, asked or max(1, min(cores(), fitting)))


def cores() -> int:
    """CPUs that this process may use: its affinity and, in a container, its quota."""
    allowed = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # "max" is no number; other systems have no such file
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        allowed = min(allowed, max(1, int(quota) // int(period)))
    return allowed
