"""Tar and Parquet files of images, as people pack them."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

HF_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""What an `Image` of Hugging Face's `datasets` is in Parquet."""


def tar_of(files: Mapping[str, bytes], **options: Any) -> bytes:
    """A tar file with these members, in this order."""
    with io.BytesIO() as data:
        with tarfile.open(fileobj=data, mode="w", **options) as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return data.getvalue()


def parquet_of(columns: Mapping[str, Any], rows_in_a_group: int = 100, **options: Any) -> bytes:
    """A Parquet file with these columns."""
    with io.BytesIO() as data:
        pq.write_table(pa.table(columns), data, row_group_size=rows_in_a_group, **options)
        return data.getvalue()


def hf_images(files: Sequence[bytes | None]) -> pa.Array:
    """A column of images as `datasets` writes it."""
    rows = [{"bytes": content, "path": f"{number}.jpg"} for number, content in enumerate(files)]
    return pa.array(rows, HF_IMAGE)


def files_in(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by their path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
