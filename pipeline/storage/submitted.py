"""Where a job sent with `ray job submit` may write: not into Ray's copy of the working directory."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import StorageError
from pipeline.storage.stores import scheme_of

SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""A variable that Ray sets for the driver of a submitted job only."""


def check_kept(option: str, uri: str) -> None:
    """Make sure that Ray will not delete what a job writes to `uri`.

    Args:
        option: the setting that holds the address, without dashes.
        uri: the address as given.

    Raises:
        StorageError: this process is a submitted job, and the address is relative to Ray's copy of the working
            directory, which Ray may remove at any time.
    """
    if SUBMITTED not in os.environ or scheme_of(uri) or Path(uri).is_absolute():
        return
    kept = os.path.normpath(Path.home() / uri)
    raise StorageError(
        f"--{option} {uri} would lie in Ray's copy of the working directory, which Ray removes. Write --{option} "
        f"{kept} (on the machine that runs the job), or a folder that you can read from here, shared or in a store"
    )
