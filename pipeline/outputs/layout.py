"""What an output folder looks like from outside."""

from __future__ import annotations

from pipeline import storage

FOLDERS = ("results", "errors", "masks", "panels", "run")
"""What the jobs write below an output folder."""
RECORD = "run/config.json"
"""By which a folder is told to be an output."""


def is_output(folder: str) -> bool:
    """Say of a folder's address whether it is one of `FOLDERS` of a run, told by the run's own record beside it.

    Raises:
        OSError: the store does not say.
    """
    above, _, name = folder.rpartition("/")
    return name in FOLDERS and storage.exists(f"{above}/{RECORD}")
