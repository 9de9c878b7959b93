"""A thread beside the run that puts staged files in place; when the run ends, for whatever reason, the rest too."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pipeline.stages.write import Counts

PERIOD = 0.5
"""Seconds between two checks."""
PATIENCE = 60.0
"""Seconds to wait for the last results; the store may be out of reach for half of that time."""


class Saver:
    """Puts staged files in place until it is closed.

    Args:
        collect: returns what was staged since its last call; with `flush`, it stages all waiting rows first.
        save: puts the files of one `Counts` in place.
        check: raises if the run must not continue.
        stop: ends the run, because something here raised; called once, from this thread.
        period: seconds between two checks.
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
        """Why the last results could not be saved, if so."""
        self._collect, self._save, self._check, self._stop, self._period = collect, save, check, stop, period
        self._saving, self._given_up = threading.Lock(), False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="saver", daemon=True)
        self._thread.start()

    def close(self, patience: float = PATIENCE) -> None:
        """Save all that is finished, and end; may be called again. `unsaved` says whether that failed.

        Args:
            patience: seconds after which to give up. Nothing is saved afterwards, since another graph may be working
                on the same images by then.
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
