"""Stores of keys have no folders: which of the keys that a store lists are files that a listing wants."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from pipeline.storage.base import LISTING_SCHEMA, Page, Selection


def choose(root: str, selection: Selection, folders: dict[str, str | None], sizes: dict[str, int]) -> Page:
    """Choose the objects that are wanted.

    Args:
        root: the bucket's address with a slash at its end.
        selection: says what is wanted.
        folders: what is known about the folders above the keys; it is added to.
        sizes: sizes in bytes by key.
    """
    found: dict[str, int] = {}
    left_aside: Counter[str] = Counter()
    for key, size in sizes.items():
        if key.endswith("/"):  # a marker for a folder
            continue
        address = f"{root}{key}"
        reason = _folder_left_aside(selection, folders, address.rpartition("/")[0])
        reason = selection.file_left_aside(address) if reason is None else reason
        if reason is None:
            found[address] = size
        elif reason:
            left_aside[reason] += 1
    return Page(pa.record_batch([list(found), list(found.values())], schema=LISTING_SCHEMA), left_aside)


def _folder_left_aside(selection: Selection, known: dict[str, str | None], folder: str) -> str | None:
    if folder == selection.root.rstrip("/"):
        return None
    if folder not in known:
        above = _folder_left_aside(selection, known, folder.rpartition("/")[0])
        known[folder] = selection.folder_left_aside(folder) if above is None else above
    return known[folder]
