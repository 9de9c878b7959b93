"""What all stores share: the error of a bad address, and what a listing is made of."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa

LISTING_SCHEMA = pa.schema([("uri", pa.string()), ("size", pa.int64())])


class StoredFile(NamedTuple):
    """One listed file: its address, as absolute as it can be, and its size in bytes."""

    uri: str
    size: int
