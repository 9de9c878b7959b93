"""Files that another library opens by path: brought to this machine from any store, with one fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline import storage


@contextmanager
def copied(uris: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """A temporary folder with copies of some files, and the fingerprint of their names and contents.

    The hash is of the bytes that are opened, whatever happens to the originals meanwhile.

    Args:
        uris: by the name that a file has in the folder, its address.

    Raises:
        OSError: one cannot be read, or the copy not be written.
    """
    whole = hashlib.sha256()
    with TemporaryDirectory(prefix="network-") as folder:
        for name in sorted(uris):
            data = storage.read_bytes(uris[name])
            (Path(folder) / name).write_bytes(data)
            whole.update(f"{name}\0{hashlib.sha256(data).hexdigest()}\0".encode())
        yield Path(folder), whole.hexdigest()[:16]
