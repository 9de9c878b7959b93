"""The processes of a small run (`run.local`): one that loads everything once, and its forks, which do the work. No Ray.

The first process imports torch while the job still looks at its input, and loads the networks. It never has a second
thread, so a fork of it is complete, takes milliseconds and shares its memory: at the start, and after a process was
lost. It leads a group of processes, which ends when the job's end of the socket does.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.config import SegmentConfig
from pipeline.config.stages import STAGES, stages_of
from pipeline.outputs.lease import Lease
from pipeline.run.attempts import Keep, drop, with_attempt_limit
from pipeline.run.worker_lines import say_once
from pipeline.stages.load import Process, load_stage
from pipeline.stages.memory import keep_freed_memory
from pipeline.stages.rows import Work, start_rows
from pipeline.stages.write import keep_results


@dataclass(frozen=True)
class Job:
    """What the processes are told first.

    Attributes:
        config: the job's settings, with absolute paths.
        num_classes: background included.
        lease: the right to write the output.
    """

    config: SegmentConfig
    num_classes: int
    lease: Lease


class Asking:
    """The job's side of a process, seen from the process: images, the attempt log (`Attempts`) and the sink."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def next(self) -> pa.Table | None:
        """The next part of the manifest; None: nothing is left."""
        part: pa.Table | None = self._ask("next")
        return part

    def enter(self, stage: str, key: str) -> int:
        """See `AttemptLog.enter`."""
        return int(self._ask("enter", stage, key))

    def leave(self, stage: str, key: str, images: int, repeated: int) -> None:
        """See `AttemptLog.leave`."""
        self._ask("leave", stage, key, images, repeated)

    def add(self, table: pa.Table) -> None:
        """See `Sink.add`."""
        self._ask("add", table)

    def broken(self, reason: str) -> None:
        """Say why this process cannot continue."""
        self._connection.send(("broken", reason))

    def _ask(self, *question: Any) -> Any:
        self._connection.send(question)
        return self._connection.recv()


def main() -> None:
    """Import, load what the job says, and fork a process for each socket that it sends; argument: a socket's number."""
    control = socket.socket(fileno=int(sys.argv[1]))
    keep_freed_memory()
    for stage in STAGES:
        import_module(f"pipeline.stages.{stage.name}")
    with Connection(os.dup(control.fileno())) as connection:
        loaded = _load(connection)
    if loaded is None:
        return
    start_rows(pa.table({"image_id": [], "uri": []}))  # Arrow's first array imports pandas: here, not in every fork
    gc.freeze()  # otherwise the first collection in each fork would copy most pages that they share
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here
    while True:
        asked, sockets, _, _ = socket.recv_fds(control, 1, 1)
        if not asked:  # the job has ended, and with it ends all of this group, also a fork that hangs
            os.killpg(os.getpgrp(), signal.SIGKILL)
        if os.fork() == 0:
            _be_a_worker(control, Connection(sockets[0]), *loaded)
        os.close(sockets[0])


def _load(connection: Connection) -> tuple[Job, dict[str, Work]] | None:
    """What the job says, and its stages; None if it says nothing, or they cannot be loaded, which is told."""
    try:
        job: Job = connection.recv()
    except EOFError:
        return None
    try:
        process = Process(job.config, job.num_classes, gpus=0.0, log=say_once)
        return job, {stage.name: load_stage(stage.name, process) for stage in stages_of(job.config)}
    except Exception as error:
        connection.send(_described(error))
        return None


def _be_a_worker(control: socket.socket, connection: Connection, job: Job, works: Mapping[str, Work]) -> None:
    """Work in a fork, which ends here: none of the first process's own ends is its business."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        control.close()
        with suppress(EOFError, ConnectionError):  # the job has ended
            work(connection, job, works)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def work(connection: Connection, job: Job, works: Mapping[str, Work]) -> None:
    """Do the stages' work on parts of the manifest until none is left.

    Args:
        connection: to the job.
        job: what it said.
        works: the stages by name.
    """
    asking = Asking(connection)
    *_, last = works
    keep = partial(keep_results, lease=job.lease, add=asking.add, masks=job.config.masks)
    try:
        while (part := asking.next()) is not None:
            table = start_rows(part)
            for name, function in works.items():
                end: Keep = keep if name == last else drop
                table = with_attempt_limit(table, name, function, asking, job.config.max_attempts, end)
    except (EOFError, ConnectionError):
        raise
    except Exception as error:  # what is no image's fault: a store out of reach, a lost lease, a full disk
        asking.broken(_described(error))


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {storage.redact(str(error))}"
