"""Rows of a manifest, in whatever format it is written, and the columns that it must have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.errors import ManifestError

OURS = ("uri", "image_id")
"""The columns of a manifest that have a meaning; all others are carried."""

_USUAL = ("path", "image", "file", "filename", "file_name", "filepath", "image_path", "url")
"""What others call the column `uri`."""


class Entries(NamedTuple):
    """Some rows of a manifest."""

    where: str
    """The file that they are in."""
    first: int
    """Number of the first of them in the file, from 1."""
    uris: Sequence[str | None]
    image_ids: Sequence[str | None] | None
    """None if the file has no such column."""
    others: list[str | None]
    """The other columns of each row as a JSON object (`carried.as_json`); None if there are none."""


def chosen(manifest: str, names: Sequence[str]) -> list[str]:
    """Those of `OURS` that a manifest has.

    Raises:
        ManifestError: it has no `uri`, or one of them twice.
    """
    if not any(names):
        raise ManifestError(f"manifest {manifest} is empty; it needs a column uri")
    if names.count("uri") != 1 or names.count("image_id") > 1:
        usual = [] if "uri" in names else [name for name in names if name.lower() in _USUAL]
        hint = f"; rename {usual[0]} to uri, if it says where the images are" if usual else ""
        raise ManifestError(
            f"manifest {manifest} needs one column uri, or in Parquet one with the images' bytes, and at most one "
            f"image_id; its columns are {', '.join(names)}{hint}"
        )
    return list(OURS) if "image_id" in names else ["uri"]
