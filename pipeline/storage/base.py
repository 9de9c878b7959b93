"""What all stores share: the operations of a store, and the input and output of a listing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import pyarrow as pa
import pyarrow.fs as pafs

LISTING_SCHEMA = pa.schema([("uri", pa.string()), ("size", pa.int64())])

HIDDEN = "hidden"
OUTPUT = "of a run's output"
AGAIN = "links to a folder that is listed already or lies above"
NOWHERE = "links to nowhere"
SPECIAL = "pipes, sockets or devices"
NO_ENDING = "no ending"
_ENDING = re.compile(r"\.\w{1,10}", re.ASCII)


class StoredFile(NamedTuple):
    """One listed file: its absolute address, and its size in bytes (0 for a broken link)."""

    uri: str
    size: int


class Page(NamedTuple):
    """A part of a listing."""

    files: pa.RecordBatch
    """Of `LISTING_SCHEMA`."""
    left_aside: Counter[str]
    """Numbers of files that are not listed, by extension (`.txt`, `NO_ENDING`) or another reason (`HIDDEN`, ...)."""


@dataclass(frozen=True)
class Selection:
    """Which of the files below a folder a listing returns."""

    root: str
    """The folder's address; its own name is not checked."""
    suffixes: tuple[str, ...]
    """Extensions of the files wanted, in lower case; names may be in any case."""
    pattern: re.Pattern[str] | None = None
    """What a file's whole address must match."""
    folders: re.Pattern[str] | None = None
    """What a folder's address must match so that files below it can match `pattern`."""
    hidden: tuple[str, ...] = ()
    """Prefixes of names to skip, for files and folders."""
    is_output: Callable[[str], bool] = lambda _folder: False
    """Whether the folder at an address is the output of a run."""

    def folder_left_aside(self, folder: str) -> str | None:
        """Return why nothing below a folder is wanted; None if something may be. The folders above are not checked."""
        if folder.rpartition("/")[2].startswith(self.hidden or ("/",)):
            return HIDDEN
        if self.is_output(folder):
            return OUTPUT
        return "" if self.folders is not None and not self.folders.fullmatch(folder) else None

    def file_left_aside(self, file: str) -> str | None:
        """Return why a file is not wanted; "" if it does not match the pattern; None if it is wanted."""
        name = file.rpartition("/")[2]
        if name.startswith(self.hidden or ("/",)):
            return HIDDEN
        if self.pattern is not None and not self.pattern.fullmatch(file):
            return ""
        return None if name.lower().endswith(self.suffixes) else ending(name)


def ending(name: str) -> str:
    """Return the extension of a file's name, as a key to count by."""
    found = f".{name.rpartition('.')[2].lower()}" if "." in name.lstrip(".") else ""
    return found if _ENDING.fullmatch(found) else NO_ENDING


class Store(Protocol):
    """Files under addresses of one scheme. Addresses are absolute, as `absolute` makes them.

    Failures are a FileNotFoundError, a PermissionError or another OSError that names the address; a store repeats by
    itself requests that may succeed later.
    """

    def absolute(self, uri: str) -> str:
        """Return the absolute address under which any process finds `uri`, or raise StorageError."""

    def read(self, address: str) -> bytes:
        """Return a file's content, whole."""

    def read_range(self, address: str, start: int, size: int) -> bytes:
        """Return `size` bytes of a file, at least 1, from `start` on, which lies in the file; fewer where it ends."""

    def write(self, address: str, data: bytes) -> None:
        """Write a file that readers see whole or not at all, replacing one of that name; makes its folders."""

    def move(self, source: str, target: str) -> None:
        """Move a file to another address, replacing a file there; a missing source never creates a target."""

    def remove(self, address: str) -> None:
        """Remove one file; does nothing if there is none."""

    def remove_folder(self, address: str) -> None:
        """Remove a folder and everything in it; does nothing if there is none."""

    def size(self, address: str) -> int | None:
        """Return a file's size in bytes; None if there is no file."""

    def is_folder(self, address: str) -> bool:
        """Say whether `address` is a folder."""

    def make_parents(self, address: str) -> None:
        """Create the folders above `address`, if the store has real folders."""

    def files(self, selection: Selection, beginning: str) -> Iterator[Page]:
        """List the files below `selection.root` whose addresses begin with `beginning`, in no particular order."""

    def arrow(self, address: str) -> tuple[pafs.FileSystem, str]:
        """Return the Arrow file system of an address and the path in it."""
