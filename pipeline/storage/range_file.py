"""A file in any store as Python's file objects, read in parts: for libraries that seek in what they read."""

from __future__ import annotations

import io

from pipeline.storage import files as storage


class RangeFile(io.RawIOBase):
    """Reads one part of a file per request, and nothing before it is asked for; not for several threads.

    Args:
        uri: its address.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the store does not say.
    """

    def __init__(self, uri: str) -> None:
        self._uri, self._size, self._position = uri, storage.size(uri), 0

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; as `io.IOBase`."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill a buffer from the position on, as far as the file goes; as `io.RawIOBase`.

        Raises:
            OSError: the store does not give it, or gives less, because the file has changed.
        """
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        data = storage.read_range(self._uri, self._position, wanted)
        if len(data) != wanted:
            raise OSError(f"{self._uri}: {len(data)} of {wanted} bytes at {self._position}: it was changed meanwhile")
        buffer[:wanted] = data
        self._position += wanted
        return wanted
