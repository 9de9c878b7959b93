"""What all stores share: what a store can do, and what a listing wants and gives."""

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
    """One listed file: its address, as absolute as it can be, and its size in bytes (0 for a link to nowhere)."""

    uri: str
    size: int


class Page(NamedTuple):
    """A part of a listing."""

    files: pa.RecordBatch
    """Of `LISTING_SCHEMA`."""
    left_aside: Counter[str]
    """How many others there are, by ending (`.txt`, `NO_ENDING`) or by another reason (`HIDDEN`, ...)."""


@dataclass(frozen=True)
class Selection:
    """What a listing is to give of all that lies below a folder."""

    root: str
    """The folder's address; what its own name is does not matter."""
    suffixes: tuple[str, ...]
    """Endings of the names wanted, in lower case; names may be in any case."""
    pattern: re.Pattern[str] | None = None
    """What the whole address must match."""
    folders: re.Pattern[str] | None = None
    """What the address of a folder must match for files below it to match `pattern`."""
    hidden: tuple[str, ...] = ()
    """Beginnings of the names to skip, those of folders included."""
    is_output: Callable[[str], bool] = lambda _folder: False
    """Says of a folder's address whether a run of the job wrote what lies below it."""

    def folder_left_aside(self, folder: str) -> str | None:
        """Return why nothing below a folder is wanted; None if something may be. Asks nothing of the folders above."""
        if folder.rpartition("/")[2].startswith(self.hidden or ("/",)):
            return HIDDEN
        if self.is_output(folder):
            return OUTPUT
        return "" if self.folders is not None and not self.folders.fullmatch(folder) else None

    def file_left_aside(self, file: str) -> str | None:
        """Return why a file is not wanted, "" if it does not match the pattern, None if it is wanted."""
        name = file.rpartition("/")[2]
        if name.startswith(self.hidden or ("/",)):
            return HIDDEN
        if self.pattern is not None and not self.pattern.fullmatch(file):
            return ""
        return None if name.lower().endswith(self.suffixes) else ending(name)


def ending(name: str) -> str:
    """Return the ending of a file's name, as a key to count by."""
    found = f".{name.rpartition('.')[2].lower()}" if "." in name.lstrip(".") else ""
    return found if _ENDING.fullmatch(found) else NO_ENDING


class Store(Protocol):
    """Files under addresses of one scheme. Addresses are absolute, as `absolute` makes them.

    What goes wrong is a FileNotFoundError, a PermissionError or another OSError that names the address; a store tries
    again by itself what may succeed then.
    """

    def absolute(self, uri: str) -> str:
        """Return the one spelling under which any process finds `uri`, or raise StorageError."""

    def read(self, address: str) -> bytes:
        """Return a file's content, whole."""

    def write(self, address: str, data: bytes) -> None:
        """Write a file that readers see whole or not at all, replacing one of that name; makes its folders."""

    def move(self, source: str, target: str) -> None:
        """Give a file another address, replacing one that is there; a missing source never makes a target."""

    def remove(self, address: str) -> None:
        """Remove one file; does nothing where there is none."""

    def remove_folder(self, address: str) -> None:
        """Remove a folder and everything in it; does nothing where there is none."""

    def size(self, address: str) -> int | None:
        """Return a file's size in bytes; None where there is no file."""

    def is_folder(self, address: str) -> bool:
        """Say whether `address` is a folder."""

    def make_parents(self, address: str) -> None:
        """Create the folders above `address` where the store has real folders."""

    def files(self, selection: Selection, beginning: str) -> Iterator[Page]:
        """List the files below `selection.root` whose addresses begin with `beginning`, in no order."""

    def arrow(self, address: str) -> tuple[pafs.FileSystem, str]:
        """Return the Arrow file system of an address and the path in it."""
