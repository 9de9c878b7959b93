"""The images of an export: links to them, or copies."""

from __future__ import annotations

from pathlib import Path

from pipeline import storage
from pipeline.export.results import Segmented
from pipeline.inputs.reading import in_container, read_image

FOLDER = "images"


class Pictures:
    """Puts images into an export, below `FOLDER`, and counts those that it could not put there.

    Args:
        folder: of the export.
        copy: copies them, bytes and all; else there are links to images on this machine, and nothing of others.
    """

    def __init__(self, folder: Path, *, copy: bool) -> None:
        self._folder, self._copy = folder, copy
        self.missing: list[str] = []
        """Addresses of the first images that are no longer there, or cannot be read."""
        self.missing_count = 0
        self.remote_count = 0
        """Images in a store, or in a tar or Parquet file, which were not copied."""

    def place(self, image: Segmented) -> str | None:
        """Put an image into the export; returns its path there, None where it could not be put."""
        path, uri = f"{FOLDER}/{image.picture}", image.row["uri"]
        target = self._folder / path
        if self._copy:
            content = self.content(image)
            if content is None:
                return None
            write(target, content)
            return path
        if not storage.is_local(uri) or in_container(uri):
            self.remote_count += 1
            return None
        source = Path(storage.absolute(uri))
        if not source.is_file():
            self._miss(uri)
            return None
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
        return path

    def content(self, image: Segmented) -> bytes | None:
        """The file of an image; None where copies are not wanted, or it is not there any more.

        Raises:
            StoreAwayError: the store does not answer.
        """
        if not self._copy:
            return None
        try:
            return read_image(image.row["uri"])
        except storage.StoreAwayError:
            raise
        except OSError:
            self._miss(image.row["uri"])
            return None

    def _miss(self, uri: str) -> None:
        self.missing_count += 1
        self.missing = [*self.missing, uri][:3]


def write(path: Path, data: bytes) -> None:
    """Write a file of an export; makes its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
