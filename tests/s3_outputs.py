"""Outputs that stand on a disk, taken to S3 with the addresses in them."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage


def upload(folder: Path, address: str) -> None:
    """Take a folder to S3; the addresses of photographs below it in its tables become those there."""
    for path in sorted(folder.rglob("*")):
        target = f"{address}/{path.relative_to(folder)}"
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            place = table.schema.get_field_index("uri")
            moved = pc.replace_substring(table["uri"], pattern=str(folder), replacement=address)
            storage.write_parquet(target, table.set_column(place, table.schema.field("uri"), moved))
        elif path.is_file():
            storage.write_atomic(target, path.read_bytes())
