"""A thread beside the run: reports progress, and ends a run that stalls or was taken over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from pipeline.config.stages import STAGES
from pipeline.errors import LeaseError
from pipeline.outputs.lease import BEAT_SECONDS, Lease
from pipeline.run.attempts import RunProgress
from pipeline.run.error_line import in_short

LONGEST_SILENCE = 60.0
"""Seconds between two lines, later in a run; at first every check prints one."""


class Watch:
    """Checks a run every few seconds until it is closed.

    Args:
        lease: the run's lease.
        progress: how far the run is; may raise while the cluster is in trouble.
        saved: how many of its images are in place, and how many of those were skipped.
        total: images to do.
        stall_timeout: seconds without a finished image in any stage after which the run is ended.
        log: prints a line.
        stop: ends the run; called once, from this thread.
        period: seconds between two checks.
        report: prints a line on how far the run is; None for `log`.
    """

    def __init__(
        self,
        lease: Lease,
        progress: Callable[[], RunProgress],
        saved: Callable[[], tuple[int, int]],
        total: int,
        stall_timeout: float,
        log: Callable[[str], None],
        stop: Callable[[], None],
        period: float = BEAT_SECONDS,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.reason: str | None = None
        """Why the run was ended from here, if it was."""
        self.last = RunProgress({}, lost=0, repeated=0, idle_seconds=0.0)
        """How far the run was when last heard of."""
        self._lease, self._progress, self._saved = lease, progress, saved
        self._total, self._stall_timeout = total, stall_timeout
        self._log, self._stop, self._period = log, stop, period
        self._report = report or log
        self._started = self._told = time.monotonic()
        self._first: tuple[float, int] | None = None  # when images were first seen done, and how many
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; `last` is brought up to date once more, if the cluster answers."""
        self._closed.set()
        self._thread.join(timeout=30)
        with suppress(Exception):
            self.last = self._progress()

    def _run(self) -> None:
        heard = time.monotonic()
        while not self._closed.wait(self._period):
            try:
                self._lease.check()
                self.last = self._progress()
            except LeaseError as error:
                return self._end(str(error))
            except Exception as error:  # a store or a cluster in trouble: no progress is seen, no reason to end yet
                if not self._closed.is_set():
                    self._log(f"no news of the run: {in_short(error)}")
                idle = time.monotonic() - heard
            else:
                heard, idle = time.monotonic(), self.last.idle_seconds
                self._tell_progress()
            if idle > self._stall_timeout:
                return self._end(f"no image was finished in any stage for {idle:.0f} s")
        return None

    def _end(self, reason: str) -> None:
        if self._closed.is_set():  # closed while this thread waited for the store: another graph may be at work by now
            return
        self.reason = reason
        self._stop()

    def _tell_progress(self) -> None:
        now = time.monotonic()
        done = self.last.done.get(STAGES[-1].name, 0)
        if done and self._first is None:
            self._first = now, done
        if now - self._told < min(LONGEST_SILENCE, (now - self._started) / 5):
            return None
        self._told = now
        through = ", ".join(f"{stage} {images}" for stage, images in self.last.done.items())
        if self._first is None:
            return self._report(f"starting; images through the stages so far: {through or 'none'}")
        since, before = self._first  # the rate leaves out the time that Ray and the networks took to start
        speed = ""
        if done > before:
            rate = (done - before) / (now - since)
            speed = f", {rate:.2f} images/s, {timedelta(seconds=round((self._total - done) / rate))} left"
        lost = f", {self.last.lost} attempts lost" if self.last.lost else ""
        saved, skipped = self._saved()
        left_out = f", {skipped} of them skipped" if skipped else ""
        return self._report(f"{saved} of {self._total} images saved{left_out}{speed}{lost} ({through})")
