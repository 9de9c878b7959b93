"""Which settings an output folder belongs to: it was started with those in its record, and others are refused."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.config.earlier import flat
from pipeline.errors import FolderError

ANOTHER = "choose another --output"


def check_folder(
    folder: str,
    record: str,
    settings: Mapping[str, Any],
    *,
    below: str | None = None,
    neutral: Collection[str] = (),
    earlier: Mapping[str, Any] | None = None,
    holds: Collection[str] = (),
    advice: str = ANOTHER,
) -> dict[str, Any] | None:
    """Make sure that a folder is new, or was started with these settings. Writes nothing.

    Args:
        folder: the output.
        record: path below it of the JSON file with the settings that it was started with.
        settings: those of this call, as JSON can hold them (tuples count as lists).
        below: the key of the record under which the settings are; None: they are the whole record.
        neutral: settings that may differ.
        earlier: settings by name (those of a part as `part.name`) that older records lack, and their values then.
        holds: files and folders that only a folder with a record may hold.
        advice: what the error message tells people to do.

    Returns:
        The record; None for a new folder.

    Raises:
        FolderError: the folder was started with other settings, holds something but no record, or its record is
            damaged.
    """
    if storage.is_local(folder) and Path(storage.absolute(folder)).is_file():
        raise FolderError(f"{folder} is a file; {ANOTHER}")
    uri = storage.join(folder, record)
    if not storage.exists(uri):
        for name in holds:
            if storage.exists(storage.join(folder, name)):
                raise FolderError(f"{folder} holds {name} without a {record} that says what made it; {advice}")
        return None
    found = read_record(uri, needs=() if below is None else (below,))
    before = {**(earlier or {}), **flat(found if below is None else found[below])}
    now = flat(json.loads(json.dumps(settings)))
    names = sorted(
        name for name in before.keys() | now.keys() if name not in neutral and before.get(name) != now.get(name)
    )
    if names:
        changed = "; ".join(f"{name}: {before.get(name)} -> {now.get(name)}" for name in names)
        raise FolderError(f"{folder} was begun with other settings ({changed}); {advice}")
    return found


def read_record(uri: str, needs: Collection[str] = ()) -> dict[str, Any]:
    """Read a JSON file that a job keeps in its output.

    Args:
        uri: its address; the file exists.
        needs: keys that such a record has.

    Raises:
        FolderError: the file is damaged, or not such a record.
    """
    try:
        found: dict[str, Any] = json.loads(storage.read_bytes(uri))
        missing = set(needs) - found.keys()
    except (ValueError, AttributeError) as error:
        raise FolderError(f"{uri} is damaged ({error}); move it away, or {ANOTHER}") from error
    if missing:
        raise FolderError(f"{uri} has no {', '.join(sorted(missing))}: it is not this job's; {ANOTHER}")
    return found
