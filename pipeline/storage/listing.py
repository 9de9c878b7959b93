"""Listing the files in a folder or of a pattern, in any store, for millions of files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

import pyarrow as pa

from pipeline.errors import DatasetError
from pipeline.storage import files as storage
from pipeline.storage.base import LISTING_SCHEMA, Selection, StoredFile
from pipeline.storage.stores import store_of


def read_names(uri: str) -> list[str]:
    """The names in a UTF-8 text file, one per line; they may hold spaces.

    Raises:
        FileNotFoundError: there is no such file.
        DatasetError: it is not UTF-8 text; the message names it.
    """
    try:
        lines = storage.read_bytes(uri).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{uri} is no list of names: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def is_glob(uri: str) -> bool:
    """Say whether `uri` is a pattern: `*` and `?` stay in one folder, `**` crosses folders."""
    return "*" in uri or "?" in uri


def glob_root(uri: str) -> str:
    """Return the address of the deepest folder above every match of a pattern; `uri` itself if it is no pattern."""
    address = storage.absolute(uri)
    return (_literal_part(address).rpartition("/")[0] or "/") if is_glob(uri) else address


def _literal_part(address: str) -> str:
    return re.split(r"[*?]", address, maxsplit=1)[0]


def _regex_of(pattern: str) -> str:
    words = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return "".join(words.get(piece, re.escape(piece)) for piece in pieces)


def _glob_regex(pattern: str) -> re.Pattern[str]:
    return re.compile(_regex_of(pattern), re.DOTALL)


def _folders_regex(pattern: str) -> re.Pattern[str]:
    """An expression for the folders in which, at any depth, a file can match the pattern."""
    fixed, crossing, _ = pattern.partition("**")  # below that, any folder may hold a match
    names = fixed.split("/")
    above = ["/".join(names[:depth]) for depth in range(1, len(names))]
    regexes = [_regex_of(folder) for folder in above] + [_regex_of(fixed) + ".*"] * bool(crossing)
    return re.compile("|".join(regexes), re.DOTALL)


def list_batches(
    uri: str,
    suffixes: tuple[str, ...],
    *,
    hidden: tuple[str, ...] = (),
    is_output: Callable[[str], bool] = lambda _folder: False,
    left_aside: Counter[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """List the files of a folder and all its subfolders, or those that match a pattern, in no particular order.

    Made for millions of files: they come in batches, and only the batches use memory.

    Args:
        uri: a folder, a pattern (`is_glob`), or one file. Local links are followed and each real folder is listed
            once. A broken link with a wanted extension is listed too, so that reading it reports the missing file.
        suffixes: extensions of the files wanted, in lower case; names may be in any case.
        hidden: prefixes of names to skip below the folder, for files and folders.
        is_output: whether to skip the folder at an address as a run's output.
        left_aside: counts the files that are not listed, by extension or other reason (`storage.base`), on top of its
            counts; a skipped local folder counts as one. Files that only the pattern excludes are not counted.

    Yields:
        Batches of `LISTING_SCHEMA`.

    Raises:
        FileNotFoundError: there is no such folder or file, or no folder for the pattern to start from.
        StorageError: a file's name is not UTF-8, or as `storage.absolute`.
        OSError: a folder cannot be read, also in the middle of the listing; the message names it.
    """
    address, root, store = storage.absolute(uri), glob_root(uri), store_of(uri)
    pattern, folders = (_glob_regex(address), _folders_regex(address)) if is_glob(uri) else (None, None)
    selection = Selection(root, suffixes, pattern, folders, hidden, is_output)
    if store.is_folder(root):
        for page in store.files(selection, _literal_part(address) if pattern else f"{root.rstrip('/')}/"):
            if left_aside is not None:
                left_aside.update(page.left_aside)
            if page.files.num_rows:
                yield page.files
    elif (size := store.size(root)) is None:
        raise FileNotFoundError(f"{root} does not exist")
    elif root.lower().endswith(suffixes) and pattern is None:
        yield pa.record_batch([[root], [size]], schema=LISTING_SCHEMA)


def list_files(uri: str, suffixes: tuple[str, ...], *, hidden: tuple[str, ...] = ()) -> list[StoredFile]:
    """List files as `list_batches` does, sorted by address; for folders of some thousand files.

    Args:
        uri: as for `list_batches`.
        suffixes: as for `list_batches`.
        hidden: as for `list_batches`.

    Raises:
        FileNotFoundError: as `list_batches`.
        StorageError: as `list_batches`.
        OSError: as `list_batches`.
    """
    batches = list_batches(uri, suffixes, hidden=hidden)
    return sorted(
        StoredFile(file, size)
        for batch in batches
        for file, size in zip(batch["uri"].to_pylist(), batch["size"].to_pylist(), strict=True)
    )
