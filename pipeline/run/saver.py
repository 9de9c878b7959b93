"""A thread beside the run: puts what is staged in its place, and when the run ends, however it ends, the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pipeline.stages.write import Counts

PERIOD = 0.5
"""Seconds between two looks."""
PATIENCE = 60.0
"""Seconds to wait for the last results; a store may be away for half of them."""


class Saver:
    """Saves until it is closed.

    Args:
        collect: gives what was staged since it was last called; with `flush`, all that waits is staged before.
        save: puts one file in place.
        check: raises if the run must not go on.
        stop: ends the run, because something here raised; called once, from this thread.
    """

    def __init__(
        self,
        collect: Callable[..., list[Counts]],
        save: Callable[[Counts], None],
        check: Callable[[], None],
        stop: Callable[[], None],
        period: float = PERIOD,
    ) -> None:
        self.reason: Exception | None = None
        """Why the run was ended from here, if it was."""
        self.unsaved: Exception | None = None
        """What kept the last of it from being saved, if something did."""
        self._collect, self._save, self._check, self._stop, self._period = collect, save, check, stop, period
        self._saving, self._given_up = threading.Lock(), False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="saver", daemon=True)
        self._thread.start()

    def close(self, patience: float = PATIENCE) -> None:
        """Save all that is finished and end; may be called again. See `unsaved` for whether it could.

        Args:
            patience: seconds after which it is given up. Nothing is saved afterwards: another graph may be at work by
                then, on the same images.
        """
        self._closed.set()
        self._thread.join(patience)
        if self._thread.is_alive() and not self._given_up:
            with self._saving:
                self._given_up = True
            self.unsaved = TimeoutError(f"what gathers the results gave no answer for {patience:.0f} s")

    def _run(self) -> None:
        try:
            while not self._closed.wait(self._period):
                self._save_all(flush=False)
                self._check()
        except Exception as error:
            self.reason = error
            self._stop()
        try:
            self._save_all(flush=True)
        except Exception as error:
            self.unsaved = error

    def _save_all(self, *, flush: bool) -> None:
        for counts in self._collect(flush=flush):
            with self._saving:
                if self._given_up:
                    return
                self._save(counts)
