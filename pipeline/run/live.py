"""What a run is doing, as one table that people watch: a line for each stage, and what has failed last.

The numbers are gathered by `Speeds`, the table is made by `live_table`; both are pure. Where it is shown is the job's
business: on a terminal it is drawn anew every second, elsewhere a line a minute says the same (`pipeline.run.watch`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

WINDOW = 60.0
"""Seconds over which speeds are taken: what happens now, and not the mean of ten hours."""


@dataclass(frozen=True)
class View:
    """A run at one moment.

    Attributes:
        done: images that left each stage, in the stages' order; failed and skipped ones pass all stages.
        total: images to do.
        saved: images in place, failed and skipped ones included.
        failed: images that failed.
        skipped: images that the settings leave out.
        lost: attempts whose process died.
        processes: of each stage, in words.
        alone: seconds of one process for an image in each stage, timed before the run; empty if not timed.
        bound: the stage that the others wait for, or `cpu`; empty if not known.
        failures: the last images that failed, and why.
        repeated: requests to a store that had to be sent again.
        seconds: seconds of all processes in each stage, for the images in place.
    """

    done: Mapping[str, int]
    total: int
    saved: int
    failed: int
    skipped: int
    lost: int
    processes: Mapping[str, str]
    alone: Mapping[str, float]
    bound: str
    failures: Sequence[str]
    repeated: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)


class Speeds:
    """Images a second of each stage over the last minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, dict[str, int]]] = deque()

    def see(self, now: float, done: Mapping[str, int]) -> dict[str, float]:
        """Take note of the images that left each stage until now; returns their speeds.

        Args:
            now: seconds of a clock that only goes forward.
            done: images by stage.
        """
        self._seen.append((now, dict(done)))
        while len(self._seen) > 2 and now - self._seen[1][0] >= WINDOW:
            self._seen.popleft()
        then, before = self._seen[0]
        if now <= then:
            return dict.fromkeys(done, 0.0)
        return {stage: (images - before.get(stage, 0)) / (now - then) for stage, images in done.items()}


def seconds_left(view: View, speeds: Mapping[str, float]) -> float | None:
    """Seconds until the last image leaves the last stage, at its speed now; None if it stands still.

    Args:
        view: the run.
        speeds: images a second of each stage now.
    """
    *_, last = view.done
    speed = speeds.get(last, 0.0)
    return (view.total - view.done[last]) / speed if speed else None


def live_table(view: View, speeds: Mapping[str, float]) -> RenderableType:
    """The table, a bar of what is saved, and the last failures.

    Args:
        view: the run.
        speeds: images a second of each stage now.
    """
    table = Table("stage", box=None, pad_edge=False)
    for name in ("processes", "passed", "waiting", "images/s now", "alone, each"):
        table.add_column(name, justify="right")
    before = view.total
    for stage, images in view.done.items():
        seconds = view.alone.get(stage, 0.0)
        bound = view.bound and stage in view.bound.replace(",", " ").split()
        table.add_row(
            Text(f"{stage} <- all wait for this" if bound else stage, style="bold" if bound else ""),
            view.processes.get(stage, ""), f"{images:,}", f"{max(before - images, 0):,}",
            f"{speeds.get(stage, 0.0):.2f}", f"{1 / seconds:.2f}" if seconds else "",
        )  # fmt: skip
        before = images
    bar = Table.grid(padding=(0, 1))
    bar.add_row(ProgressBar(view.total, view.saved, width=20), Text(_summary(view, speeds)))
    parts: list[RenderableType] = [table, bar]
    parts += [Text(f"failed: {line}", style="red", overflow="ellipsis", no_wrap=True) for line in view.failures]
    return Group(*parts)


def _summary(view: View, speeds: Mapping[str, float]) -> str:
    """The run in a line."""
    words = [f"{view.saved - view.failed - view.skipped:,} of {view.total:,} images done"]
    words += [f"{count:,} {what}" for count, what in (
        (view.failed, "failed"), (view.skipped, "skipped"), (view.lost, "attempts lost"),
    ) if count]  # fmt: skip
    if (left := seconds_left(view, speeds)) is not None:
        words.append(f"{timedelta(seconds=round(left))} left")
    if view.bound == "cpu":
        words.append("all stages wait for the CPUs")
    return ", ".join(words)
