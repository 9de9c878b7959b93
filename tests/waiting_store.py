"""A store whose requests wait and fail as a test wants it, on local files: what is read at once, and what repeated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TypeVar

import pytest

from pipeline.storage import retrying, stores
from pipeline.storage.local import LocalStore
from pipeline.storage.retrying import TransientError

T = TypeVar("T")
SCHEME = "waiting://"


class WaitingStore:
    """`waiting:///folder/x.jpg` is the local file /folder/x.jpg (what these tests need of a `Store`).

    Args:
        wait: called within each request for a file, with its name.
        faults: how many requests for a file fail before one succeeds, by a part of its address.
    """

    def __init__(self, wait: Callable[[str], object], faults: dict[str, int]) -> None:
        self._wait, self._faults, self._local = wait, faults, LocalStore()
        self._lock = Lock()
        self.asked: Counter[str] = Counter()
        """Requests for each file, by its name."""

    def absolute(self, uri: str) -> str:
        return uri.rstrip("/")

    def read(self, address: str) -> bytes:
        return self._request(address, lambda: self._local.read(_path(address)))

    def read_range(self, address: str, start: int, size: int) -> bytes:
        return self._request(address, lambda: self._local.read_range(_path(address), start, size))

    def write(self, address: str, data: bytes) -> None:
        self._request(address, lambda: self._local.write(_path(address), data))

    def size(self, address: str) -> int | None:
        return self._local.size(_path(address))

    def is_folder(self, address: str) -> bool:
        if "folder" in self._faults:
            raise TransientError(f"{address}: nobody answers")
        return self._local.is_folder(_path(address))

    def _request(self, address: str, operation: Callable[[], T]) -> T:
        def attempt() -> T:
            name = Path(address).name
            with self._lock:
                self.asked[name] += 1
                before = self.asked[name] - 1
            self._wait(name)
            if any(part in name and before < times for part, times in self._faults.items()):
                raise TransientError(f"{address}: busy")
            return operation()

        return retrying.retrying(attempt)


def _path(address: str) -> str:
    return address.removeprefix(SCHEME)


@contextmanager
def waiting_store(
    wait: Callable[[str], object] = lambda _: None, faults: dict[str, int] | None = None
) -> Iterator[WaitingStore]:
    """The store under its scheme, with short waits between repeated requests and three attempts."""
    store = WaitingStore(wait, faults or {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(stores._STORES, SCHEME.removesuffix("://"), lambda: store)
        patch.setattr(retrying, "FIRST_WAIT", 0.001)
        patch.setenv("AWS_MAX_ATTEMPTS", "3")
        stores._store.cache_clear()
        yield store
    stores._store.cache_clear()
