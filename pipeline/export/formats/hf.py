"""Hugging Face's `datasets`: data/train-*.parquet with `Image` features, and id2label.json.

`load_dataset(FOLDER)` opens it. The features stand in the files' metadata, where `datasets` looks for them; to write
them takes nothing but Arrow. The columns `image` and `label` and id2label.json are those of Transformers' example for
semantic segmentation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.export.pictures import Pictures, write
from pipeline.export.results import Results, Segmented
from pipeline.imaging.images import encode_mask

ROWS_IN_A_GROUP = 100
"""Rows that wait in memory, with their images where these are copied; `datasets` itself writes as many."""
BYTES_IN_A_FILE = 500_000_000
"""After which another file begins; those of `datasets` are as large."""

_FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema([
    ("image", _FILE), ("label", _FILE), ("image_id", pa.string()), ("uri", pa.string()),
    ("manifest", pa.string()),
    ("pixel_counts", pa.list_(pa.int64())), ("mean_probability", pa.list_(pa.float32())),
    ("mean_confidence", pa.float32()), ("model_fingerprint", pa.string()),
])  # fmt: skip


def export(results: Results, pictures: Pictures, folder: Path) -> None:
    """Write data/train-*.parquet and id2label.json."""
    names = {str(label): name for label, name in enumerate(results.class_names)}
    write(folder / "id2label.json", json.dumps(names, indent=1).encode())
    (folder / "data").mkdir()
    schema = SCHEMA.with_metadata({"huggingface": json.dumps({"info": {"features": features()}})})
    rows = (row_of(image, pictures) for image in results)
    number = 0
    table = _table(rows, schema)
    while table is not None:
        path = folder / "data" / f"train-{number:05d}.parquet"
        with pq.ParquetWriter(path, schema) as file:
            while table is not None and path.stat().st_size < BYTES_IN_A_FILE:
                file.write_table(table)
                table = _table(rows, schema)
        number += 1


def features() -> dict[str, Any]:
    """The columns as `datasets` describes them. `Sequence` is understood by all its versions."""
    kinds: dict[str, Any] = {}
    for field in SCHEMA:
        if field.type == _FILE:
            kinds[field.name] = {"_type": "Image"}
        elif pa.types.is_list(field.type):
            value = {"dtype": _name(field.type.value_type), "_type": "Value"}
            kinds[field.name] = {"feature": value, "_type": "Sequence"}
        else:
            kinds[field.name] = {"dtype": _name(field.type), "_type": "Value"}
    return kinds


def _name(kind: pa.DataType) -> str:
    return "float32" if kind == pa.float32() else str(kind)  # Arrow calls it `float`


def row_of(image: Segmented, pictures: Pictures) -> dict[str, Any]:
    """An image as a row: its file where it is to be copied, else its address; the mask as a grey PNG."""
    content, uri = pictures.content(image), image.row["uri"]
    return image.row | {
        "image": {"bytes": content, "path": uri if content is None else image.picture},
        "label": {"bytes": encode_mask(image.labels_HW, None), "path": f"{image.name}.png"},
    }


def _table(rows: Iterator[dict[str, Any]], schema: pa.Schema) -> pa.Table | None:
    """The next group of rows; None where there are no more."""
    group = list(islice(rows, ROWS_IN_A_GROUP))
    return pa.Table.from_pylist(group, schema=schema) if group else None
