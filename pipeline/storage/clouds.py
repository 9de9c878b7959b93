"""Google Cloud Storage, `gs://bucket/key`, and Azure Blob Storage, `az://container/key`, through obstore."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow.fs as pafs

from pipeline.errors import StorageError
from pipeline.storage.base import Page, Selection
from pipeline.storage.clouds_client import call
from pipeline.storage.clouds_environment import CLOUDS
from pipeline.storage.environment import redact
from pipeline.storage.keys import choose
from pipeline.storage.range_file import RangeFile
from pipeline.storage.retrying import CredentialsError, TransientError

if TYPE_CHECKING:
    from obstore import ObjectMeta

    from pipeline.storage.clouds_client import Client

T = TypeVar("T")

_THREADS = 16
_KEYS = 1000
"""Keys in one page of a listing."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CloudStore:
    """The objects of one of the clouds (a `Store`)."""

    scheme: str
    """One of `CLOUDS`."""

    def absolute(self, uri: str) -> str:
        """Return `scheme://bucket/key` without trailing slashes."""
        bucket, cloud = self._split(uri)[0], CLOUDS[self.scheme]
        if "@" in bucket or ":" in bucket:
            raise StorageError(
                f"{redact(uri)}: credentials, accounts and ports do not belong in an address; set {cloud.to_set}, and "
                f"{cloud.endpoint[0]} for another server"
            )
        if not bucket:
            raise StorageError(f"{uri}: no {cloud.container}; write {self.scheme}://{cloud.container}/key")
        return uri.rstrip("/")

    def read(self, address: str) -> bytes:
        """Return an object's content, whole."""

        def get(client: Client, key: str) -> bytes:
            answer = client.get(key)
            data = bytes(answer.bytes())
            if len(data) != answer.meta["size"]:
                raise TransientError(f"{address}: {len(data)} of {answer.meta['size']} bytes arrived")
            return data

        return self._call(address, get)

    def read_range(self, address: str, start: int, size: int) -> bytes:
        """Return a part of an object."""
        return self._call(address, lambda client, key: bytes(client.get_range(key, start=start, length=size)))

    def write(self, address: str, data: bytes) -> None:
        """Write an object with one request, whole or not at all."""
        self._call(address, lambda client, key: client.put(key, data, use_multipart=False), writing=True)

    def move(self, source: str, target: str) -> None:
        """Copy, then delete. On Azure through this machine: a copy there may still be under way when it is answered."""
        if source == target:
            return
        if self.scheme == "az":
            self.write(target, self.read(source))
        else:
            self._call(source, lambda client, key: client.copy(key, self._split(target)[1]))
        self.remove(source)

    def remove(self, address: str) -> None:
        """Remove an object; does nothing if there is none."""
        try:
            self._call(address, lambda client, key: client.delete(key))
        except FileNotFoundError:
            return

    def remove_folder(self, address: str) -> None:
        """Remove every object whose key lies below `address`."""
        bucket, key = self._split(address)
        with ThreadPoolExecutor(_THREADS) as pool:
            for sizes in self._pages(bucket, key):
                try:
                    self._call(address, partial(_delete, list(sizes)))
                except CredentialsError:
                    raise
                except OSError as error:  # one is gone already; another reason stops the removal of single objects too
                    _log.info("objects are removed one by one: %s", error)
                    list(pool.map(self.remove, [f"{self.scheme}://{bucket}/{name}" for name in sizes]))

    def size(self, address: str) -> int | None:
        """Return an object's size in bytes; None if there is no object."""
        if not self._split(address)[1]:
            return None
        try:
            return int(self._call(address, lambda client, key: client.head(key)["size"]))
        except FileNotFoundError:
            return None

    def is_folder(self, address: str) -> bool:
        """Say whether any key lies below `address`, or whether there is such a bucket."""
        bucket, key = self._split(address)
        try:
            return bool(next(self._pages(bucket, key), None)) or not key
        except FileNotFoundError:
            return False

    def make_parents(self, address: str) -> None:
        """Do nothing: there are no folders."""

    def arrow(self, address: str) -> tuple[pafs.FileSystem, str]:
        """Return an Arrow file system that reads through this store, and the address."""
        return pafs.PyFileSystem(pafs.FSSpecHandler(_ArrowFiles(self))), address

    def files(self, selection: Selection, beginning: str) -> Iterator[Page]:
        """List the folder in which `beginning` ends, page by page, and choose from it."""
        bucket, key = self._split(beginning)
        chosen = partial(choose, f"{self.scheme}://{bucket}/", selection, {})
        for sizes in self._pages(bucket, key.rpartition("/")[0]):
            yield chosen({name: size for name, size in sizes.items() if name.startswith(key)})

    def _split(self, address: str) -> tuple[str, str]:
        bucket, _, key = address.removeprefix(f"{self.scheme}://").partition("/")
        return bucket, key

    def _call(self, address: str, operation: Callable[[Client, str], T], *, writing: bool = False) -> T:
        bucket, key = self._split(address)
        return call(self.scheme, bucket, address, lambda client: operation(client, key), writing=writing)

    def _pages(self, bucket: str, folder: str) -> Iterator[dict[str, int]]:
        """Sizes by key of everything below a folder. A listing that breaks off is read again up to where it was."""
        address = f"{self.scheme}://{bucket}/{folder}".rstrip("/")
        stream: Iterator[Sequence[ObjectMeta]] | None = None
        last: str | None = None

        def page(client: Client) -> Sequence[ObjectMeta] | None:
            nonlocal stream
            try:
                stream = stream or _after(last, address, iter(client.list(folder or None, chunk_size=_KEYS)))
                return next(stream, None)
            except BaseException:
                stream = None  # it has ended
                raise

        while found := call(self.scheme, bucket, address, page):
            last = found[-1]["path"]
            yield {entry["path"]: entry["size"] for entry in found}


def _delete(keys: list[str], client: Client, _folder: str) -> None:
    client.delete(keys)


def _after(last: str | None, address: str, pages: Iterator[Sequence[ObjectMeta]]) -> Iterator[Sequence[ObjectMeta]]:
    """The part of a listing that follows a key, in the store's own order, which need not be the alphabet's."""
    for page in pages:
        names = [entry["path"] for entry in page]
        if last is None:
            yield page
        elif last in names:
            rest = page[names.index(last) + 1 :]
            last = None
            if rest:
                yield rest
    if last is not None:
        raise OSError(f"{address}: the listing broke off, and {last} is gone since; start again")


@dataclass(frozen=True)
class _ArrowFiles:
    """What Arrow's adapter for file systems in Python asks for to read files."""

    store: CloudStore
    protocol = "cloud"

    def info(self, address: str) -> dict[str, Any]:
        """Size and kind of a file or folder; there is no other use of folders."""
        size = self.store.size(address)
        if size is None and not self.store.is_folder(address):
            raise FileNotFoundError(f"{address} does not exist")
        return {"name": address, "size": size, "type": "directory" if size is None else "file"}

    def isfile(self, address: str) -> bool:
        """Whether there is a file; the adapter asks before it opens one."""
        return self.store.size(address) is not None

    def open(self, address: str, mode: str) -> RangeFile:
        """Open a file for reading."""
        assert mode == "rb"
        return RangeFile(address)
