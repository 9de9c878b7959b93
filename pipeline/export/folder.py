"""A folder that has its name only when it is complete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import storage
from pipeline.errors import FolderError


@contextmanager
def whole_folder(path: str) -> Iterator[Path]:
    """A folder to write into, `PATH.incomplete`, which becomes `PATH` at the end and is removed after an exception.

    Raises:
        FolderError: `PATH` is there and not empty, or `PATH.incomplete` is there.
    """
    target = Path(storage.absolute(path))
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FolderError(f"--output {target} is there already and not empty; choose another, or remove it")
    aside = target.with_name(f"{target.name}.incomplete")
    try:
        aside.mkdir(parents=True)
    except FileExistsError:
        raise FolderError(f"{aside} is there: another export is at work, or one was killed; "
                          "if none is at work, remove it") from None  # fmt: skip
    try:
        yield aside
        aside.replace(target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
