"""An error as one line for people. No Ray here."""

from __future__ import annotations

import re
from textwrap import shorten

from pipeline import storage

LONGEST = 400  # characters


def in_short(error: Exception) -> str:
    """The original error in Ray's report of a failed task, without tracebacks, lists and credentials."""
    first, *_ = storage.redact(str(error)).split("The above exception was the direct cause")
    return shorten(re.split(r"^ +.*\n", first, flags=re.MULTILINE)[-1], LONGEST) or type(error).__name__
