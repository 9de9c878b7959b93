"""The file that names the classes of a data set."""

from __future__ import annotations

from pipeline import storage
from pipeline.errors import DatasetError
from pipeline.imaging.classes import check_classes


def read_class_list(uri: str) -> tuple[str, ...]:
    """Read class names from a UTF-8 text file, one a line, background first.

    Args:
        uri: a local path or any address that `storage` reads.

    Raises:
        ValueError: the names cannot be classes (`check_classes`) or the file is not UTF-8 text; the message names it.
        FileNotFoundError: there is no such file.
    """
    try:
        lines = storage.read_bytes(uri).decode("utf-8-sig").rstrip().splitlines()
        return check_classes(line.strip() for line in lines)
    except ValueError as error:
        raise DatasetError(f"class list {uri}: {error}") from error
