"""A job's terminal shows this project's lines; Ray's output goes to its log files."""

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
    """Leave routine output of Ray and its workers to the log files; the jobs report progress themselves."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Otherwise it advises users to set an argument of a call that they do not make.
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
    """Redirect this process's stderr to a file, except for Python's `sys.stderr`.

    This concerns Ray's C++ code, which has no setting for it, and loggers that opened stderr before. If `sys.stderr`
    is not the process's own, as in a notebook, nothing is done.

    Args:
        folder: gets a file `driver-<process id>.err`; if it cannot be written, nothing is redirected.
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
    kept = io.BufferedWriter(type(raw)(os.dup(STDERR), "wb"))  # of the same class, which may handle errors itself
    os.dup2(file, STDERR)
    os.close(file)
    sys.stderr = io.TextIOWrapper(kept, stream.encoding, stream.errors, line_buffering=True)
