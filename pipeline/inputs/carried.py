"""The other columns of a manifest, as the JSON object that an image carries into its results."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any
from uuid import UUID

MOST_BYTES = 4000
"""Of an image's columns as JSON: what the driver holds of a million images stays below 4 GB."""
_NAMED = 8  # columns that are counted by name


def as_json(values: Mapping[str, Any], lost: Counter[str]) -> str | None:
    """An image's other columns as a JSON object of at most `MOST_BYTES`; None if it has none.

    Dates and times become ISO 8601, decimal numbers text. What JSON cannot say (bytes, infinite numbers) is left out
    and counted, and so are the longest values where all together take too much. NaN is no value.

    Args:
        values: by the columns' names.
        lost: counts what is left out, by column; existing counts are added to.
    """
    if not values:
        return None
    try:
        text = _said(values)
        if len(text.encode()) <= MOST_BYTES:
            return text
    except (TypeError, ValueError, RecursionError):
        pass
    return _what_fits(values, lost)


def count_lost(lost: Counter[str], name: str, values: int = 1) -> None:
    """Count values of a column that are not carried; those of many columns together."""
    what = f"values of the manifest's column {name!a}"
    lost[what if what in lost or len(lost) < _NAMED else "values of other columns of the manifest"] += values


def _what_fits(values: Mapping[str, Any], lost: Counter[str]) -> str:
    entries: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, float) and math.isnan(value):
            continue
        try:
            entries[name] = f"{_said(name)}: {_said(value)}"
            entries[name].encode()
        except (TypeError, ValueError, RecursionError):
            entries.pop(name, None)
            count_lost(lost, name)
    size = 2 + sum(len(entry.encode()) + 2 for entry in entries.values())
    for name in sorted(entries, key=lambda one: -len(entries[one])):
        if size <= MOST_BYTES:
            break
        size -= len(entries.pop(name).encode()) + 2
        count_lost(lost, name)
    return f"{{{', '.join(entries.values())}}}"


def _said(value: Any) -> str:
    """JSON text.

    Raises:
        TypeError, ValueError, RecursionError: JSON cannot say it.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_as_text)


def _as_text(value: Any) -> str:
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal | UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
