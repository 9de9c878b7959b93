"""Which lines of workers the driver shows to people. No Ray here.

Ray sends every line of every worker to the driver. Lines of this project's own code are marked; of the others, only
trouble with memory or a GPU is shown, once. All lines stay in Ray's log files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from textwrap import shorten

MARK = "deconvnet: "
ONCE = "deconvnet, once: "
LONGEST = 400  # characters
_TROUBLE = re.compile(
    r"\bCUDA|cuDNN|\bNCCL|\bNVIDIA|\bTriton\b|out of memory|memory pressure|low on memory|Fatal Python error",
    re.IGNORECASE,
)


def say(line: str) -> None:
    """Print a line from a worker that people should see."""
    print(f"{MARK}{line}", flush=True)  # noqa: T201


def say_once(line: str) -> None:
    """Print a line that people should see once, however many workers print it."""
    print(f"{ONCE}{line}", flush=True)  # noqa: T201


class WorkerLines:
    """Chooses which of the lines that Ray sends to the driver are shown."""

    def __init__(self) -> None:
        self._shown: set[str] = set()

    def for_people(self, lines: Sequence[str]) -> list[str]:
        """The marked lines, without their mark; of those to be shown once and those about trouble, new ones."""
        return [text for line in lines if (text := self._of(line))]

    def _of(self, line: str) -> str:
        if line.startswith(MARK):
            return line.removeprefix(MARK)
        if line.startswith(ONCE):
            text = line.removeprefix(ONCE)
        else:
            text = f"a worker says: {shorten(line, LONGEST)}" if _TROUBLE.search(line) else ""
        if text in self._shown:
            return ""
        self._shown.add(text)
        return text
