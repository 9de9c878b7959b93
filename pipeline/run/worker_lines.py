"""What workers say to people, among all that they and Ray write. No Ray here.

Ray carries every line of every worker to the driver. What this project's own code says is marked; of the others only
trouble with memory or a GPU is shown, once. All of them stay in Ray's log files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from textwrap import shorten

MARK = "deconvnet: "
LONGEST = 400  # characters
_TROUBLE = re.compile(
    r"\bCUDA|cuDNN|\bNCCL|\bNVIDIA|out of memory|memory pressure|low on memory|Fatal Python error", re.IGNORECASE
)


def say(line: str) -> None:
    """Print a line, in a worker, that people shall see."""
    print(f"{MARK}{line}", flush=True)  # noqa: T201


class WorkerLines:
    """Chooses what the driver shows of the lines that Ray carries to it."""

    def __init__(self) -> None:
        self._shown: set[str] = set()

    def for_people(self, lines: Sequence[str]) -> list[str]:
        """The marked ones, without their mark, and those about trouble that were not shown before."""
        return [text for line in lines if (text := self._of(line))]

    def _of(self, line: str) -> str:
        if line.startswith(MARK):
            return line.removeprefix(MARK)
        trouble = _TROUBLE.search(line)
        text = f"a worker says: {shorten(line, LONGEST)}" if trouble else ""
        if text in self._shown:
            return ""
        self._shown.add(text)
        return text
