"""Files and folders that a user names: a missing one is reported with its option and the most similar one."""

from __future__ import annotations

from contextlib import suppress
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.storage import first_contact, listing

SHOWN = 5
"""Most names in one message."""


def check_named(option: str, uri: str | None) -> None:
    """Make sure that a file or folder exists.

    Args:
        option: the setting, as on the command line without its dashes.
        uri: its address; None passes.

    Raises:
        ConfigError: it does not exist; the message has the option, the absolute address and the most similar name.
        OSError: the store gives no answer.
    """
    with first_contact():
        missing = uri is not None and not storage.exists(uri)
    if uri is not None and missing:
        raise ConfigError(f"--{option} is {storage.absolute(uri)}, which does not exist; {nearest(uri)}")


def nearest(uri: str) -> str:
    """What exists instead of a missing file: the most similar name, or else what its folder holds."""
    missing, folder = storage.absolute(uri), storage.parent(uri)
    while not storage.exists(folder) and storage.parent(folder) not in (folder, "/", "s3:/"):
        missing, folder = folder, storage.parent(folder)
    names = _names_in(folder)
    near = get_close_matches(missing.rpartition("/")[2], names, n=1)
    if near:
        return f"did you mean {storage.join(folder, near[0])}?"
    if not names:
        return f"{folder} is empty or not there"
    return f"{folder} holds {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"


def _names_in(folder: str) -> list[str]:
    """Names of files and folders in a folder, sorted; on S3 only those of the first objects below it."""
    with suppress(OSError):
        if storage.is_local(folder):
            return sorted(path.name for path in Path(folder).iterdir() if not path.name.startswith("."))
        batches = islice(listing.list_batches(folder, ("",)), 1)
        keys = [uri for batch in batches for uri in batch["uri"].to_pylist()]
        return sorted({key.removeprefix(f"{folder}/").partition("/")[0] for key in keys})
    return []
