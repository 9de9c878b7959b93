"""How a run is told to stop: Ctrl-C, or SIGTERM, which `ray job stop` and Kubernetes send. No Ray here."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn


def stop_on_sigterm() -> None:
    """From here on SIGTERM interrupts like Ctrl-C; to be called after Ray's start, which sets a handler of its own."""
    signal.signal(signal.SIGTERM, _stop)


def end_this_process() -> None:
    """Interrupt the main thread, from any thread."""
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def told_to_stop(first: Callable[[], None]) -> Iterator[None]:
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


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
