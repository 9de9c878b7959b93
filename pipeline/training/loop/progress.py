"""Progress of an epoch, for people."""

from __future__ import annotations

import time

EVERY_SECONDS = 60.0


class ThroughputLog:
    """Lines about an epoch, at most one per minute.

    Args:
        name: what to call the epoch.
        examples: how many the epoch has.
        seen: how many of them were seen before.
        now: `time.perf_counter()`; None: it is called here.
    """

    def __init__(self, name: str, examples: int, seen: int, now: float | None = None) -> None:
        self._name, self._examples, self._first = name, examples, seen
        self._started = self._told = time.perf_counter() if now is None else now

    def line(self, seen: int, loss: float, now: float) -> str | None:
        """A line if one is due: examples seen, loss of the last step, rate, time left.

        Args:
            seen: examples of the epoch seen so far.
            loss: the last step's.
            now: `time.perf_counter()`.
        """
        if now - self._told < EVERY_SECONDS:
            return None
        self._told = now
        rate = (seen - self._first) / (now - self._started)
        left = max(self._examples - seen, 0) / rate
        return (
            f"{self._name}: {seen:,} of {self._examples:,} examples, loss {loss:.3f}, {rate:.1f} examples/s, "
            f"{_duration(left)} left"
        )


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
