"""The terminal of a job shows this project's lines; what Ray writes goes to its log files."""

from __future__ import annotations

import io
import logging
import os
import sys
from pathlib import Path
from typing import Any

import ray.data

from pipeline.cluster import ray_private
from pipeline.run.worker_lines import WorkerLines

STDERR = 2


def log(line: str) -> None:
    """Print a line."""
    print(line, flush=True)  # noqa: T201


def quieten() -> None:
    """Leave the routine of Ray and of its workers to the log files: what a run does, the jobs say themselves."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Else it tells users to set an argument of a call that is not theirs.
    context.issue_detectors_config.high_memory_detector_config.detection_time_interval_s = -1
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.WARNING)
    ray_private.quieten_progress()
    lines = WorkerLines()

    def show(carried: dict[str, Any], ignore_prefix: bool) -> None:  # noqa: ARG001
        for line in lines.for_people([line for text in carried["lines"] for line in text.splitlines()]):
            log(line)

    ray_private.show_worker_lines_with(show)


def send_stderr_to(folder: str) -> None:
    """Let what others than Python's `sys.stderr` write to this process's stderr go to a file.

    Those are Ray's C++, which has no setting for it, and the loggers that took hold of stderr before. Where
    `sys.stderr` is not the process's own, as in a notebook, nothing is done.

    Args:
        folder: where `driver-<process id>.err` is made; left as it is where that cannot be.
    """
    stream = sys.stderr
    if not isinstance(stream, io.TextIOWrapper) or stream.fileno() != STDERR:
        return
    try:
        file = os.open(Path(folder, f"driver-{os.getpid()}.err"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:  # the cluster is another user's
        return
    stream.flush()
    raw: Any = getattr(stream.buffer, "raw", stream.buffer)
    kept = io.BufferedWriter(type(raw)(os.dup(STDERR), "wb"))  # of the same class: it may know what to do in trouble
    os.dup2(file, STDERR)
    os.close(file)
    sys.stderr = io.TextIOWrapper(kept, stream.encoding, stream.errors, line_buffering=True)
