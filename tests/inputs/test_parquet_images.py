"""Images in Parquet files: which column, what is carried, which rows are read, and what goes wrong."""

import itertools
import json
import os
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from container_files import HF_IMAGE, hf_images, parquet_of
from hypothesis import given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.errors import ImageError, ManifestError
from pipeline.inputs import parquet_images, reading
from pipeline.inputs.manifest import build_manifest

FILES = [bytes([number]) * (number + 1) for number in range(7)]


def contents(uri: str) -> dict[str, bytes]:
    """What a manifest of this input leads to, by id."""
    table = build_manifest(uri, None)
    return {row["image_id"]: reading.read_image(row["uri"]) for row in table.to_pylist()}


def carried(uri: str) -> list[object]:
    return [None if text is None else json.loads(text) for text in build_manifest(uri, None)["manifest"].to_pylist()]


@pytest.mark.parametrize("images", [
    hf_images(FILES), pa.array(FILES), pa.array(FILES, pa.large_binary()),
    pa.array([{"bytes": one} for one in FILES], pa.struct([("bytes", pa.large_binary())])),
])  # fmt: skip
@pytest.mark.parametrize("name", ["image", "photo é&/#"])
def test_every_row_is_an_image(store: str, images: pa.Array, name: str):
    storage.write_atomic(f"{store}/x.parquet", parquet_of({name: images}, rows_in_a_group=3))
    assert contents(f"{store}/x.parquet") == {f"x.parquet/{row:08}": content for row, content in enumerate(FILES)}


def test_a_folder_or_a_pattern_of_parts_as_datasets_are_kept(store: str):
    for part in range(2):
        name = f"{store}/data/train-{part:05}-of-00002.parquet"
        storage.write_atomic(name, parquet_of({"image": hf_images(FILES[part::2]), "label": range(part, 7, 2)}))
    expected = {f"train-{part:05}-of-00002.parquet/{row:08}": content
                for part in range(2) for row, content in enumerate(FILES[part::2])}  # fmt: skip
    assert contents(f"{store}/data") == contents(f"{store}/data/train-*") == expected
    storage.write_atomic(f"{store}/data/README.md", b"")
    assert contents(f"{store}/data/*.parquet") == expected
    assert contents(f"{store}/**/*.parquet") == {f"data/{name}": content for name, content in expected.items()}
    with pytest.raises(ManifestError, match=r"\.parquet 2, \.md 1.*give '.*/data/\*\*/\*\.parquet'"):
        build_manifest(f"{store}/data", None)


def test_ids_and_other_columns_are_kept(tmp_path: Path):
    columns = {"label": range(7), "image": hf_images(FILES), "image_id": list("gfedcba"), "thumb": FILES,
               "tags": [["x", str(number)] for number in range(7)]}  # fmt: skip
    (tmp_path / "x.parquet").write_bytes(parquet_of(columns, rows_in_a_group=3))
    lost: Counter[str] = Counter()
    build_manifest(str(tmp_path / "x.parquet"), None, lost)
    assert contents(str(tmp_path / "x.parquet")) == dict(zip("gfedcba", FILES, strict=True))
    assert carried(str(tmp_path / "x.parquet")) == [
        {"label": row, "tags": ["x", str(row)], "image": {"path": f"{row}.jpg"}} for row in reversed(range(7))
    ]
    assert lost == {"values of the manifest's column 'thumb'": 7}


def test_images_of_a_row_group_follow_each_other_whatever_their_ids(tmp_path: Path):
    for part in range(2):
        ids = [f"{row * 5 % 36:02}{part}" for row in range(36)]
        columns = {"image": [name.encode() for name in ids], "image_id": ids}
        (tmp_path / f"{part}.parquet").write_bytes(parquet_of(columns, rows_in_a_group=3))
    table = build_manifest(str(tmp_path), None)
    ordered = reading.in_reading_order(table)
    groups = [uri.rpartition("&row=")[0] for uri in ordered["uri"].to_pylist()]
    assert len(set(groups)) == len(list(itertools.groupby(groups))) == 24
    assert sorted(ordered.to_pylist(), key=lambda row: row["image_id"]) == table.to_pylist()
    assert all(reading.read_image(row["uri"]).decode() == row["image_id"] for row in ordered.to_pylist())
    files = pa.table({"image_id": ["b", "a"], "uri": ["/z.jpg", "/y.jpg"]})
    assert reading.in_reading_order(files).equals(files)


def test_rows_without_other_columns_carry_nothing(tmp_path: Path):
    (tmp_path / "x.parquet").write_bytes(parquet_of({"image": FILES}))
    assert carried(str(tmp_path / "x.parquet")) == [None] * 7


@pytest.mark.parametrize(("columns", "complaint"), [
    ({"left": FILES, "right": FILES}, "has bytes in the columns left, right; call the one with the images image"),
    ({"image": FILES, "image_id": ["a", None, "c", "d", "e", "f", "g"]}, "row 2: the image_id is empty"),
    ({"image": FILES, "image_id": ["a"] * 7}, "image id 'a' belongs to both"),
    ({"image": hf_images([]), "label": pa.array([], pa.int64())}, "holds no image; looked for rows"),
    ({"label": range(7)}, "needs one column uri, or in Parquet one with the images' bytes"),
    ({"image": pa.array([{"path": "a.jpg"}])}, "needs one column uri, or in Parquet one with the images' bytes"),
])  # fmt: skip
def test_what_cannot_be_used_is_refused(tmp_path: Path, columns: dict[str, object], complaint: str):
    (tmp_path / "x.parquet").write_bytes(parquet_of(columns))
    with pytest.raises(ManifestError, match=complaint):
        build_manifest(str(tmp_path / "x.parquet"), None)


def test_a_column_uri_comes_first(tmp_path: Path):
    (tmp_path / "x.parquet").write_bytes(parquet_of({"uri": ["a.jpg"], "image": [b"thumbnail"]}))
    lost: Counter[str] = Counter()
    assert build_manifest(str(tmp_path / "x.parquet"), None, lost)["uri"].to_pylist() == [f"{tmp_path}/a.jpg"]
    assert lost == {"values of the manifest's column 'image'": 1}


def test_a_row_without_bytes_is_an_error_of_that_row(tmp_path: Path):
    images = pa.array([{"bytes": b"a"}, {"bytes": None, "path": "b.jpg"}, None], HF_IMAGE)
    (tmp_path / "x.parquet").write_bytes(parquet_of({"image": images}))
    first, *others = build_manifest(str(tmp_path / "x.parquet"), None)["uri"].to_pylist()
    assert reading.read_image(first) == b"a"
    for uri in others:
        with pytest.raises(ImageError, match="the row of the Parquet file has no bytes"):
            reading.read_image(uri)


@pytest.mark.parametrize(("change", "complaint"), [
    (lambda path: path.write_bytes(parquet_of({"image": FILES[:2]})), "row group 1 is damaged.*it is not there"),
    (lambda path: path.write_bytes(parquet_of({"image": FILES[:4]}, 3)), "row group 1 is damaged"),
    (lambda path: path.write_bytes(parquet_of({"other": FILES}, 3)), "row group 1 is damaged"),
    (lambda path: path.write_bytes(path.read_bytes()[:-3]), r"x\.parquet: row group 1 is damaged"),
    (lambda path: path.unlink(), r"No such file.*x\.parquet"),
])  # fmt: skip
def test_a_file_that_changed_since_is_an_error_of_its_images(tmp_path: Path, change, complaint: str):
    path = tmp_path / "x.parquet"
    path.write_bytes(parquet_of({"image": FILES}, 3))
    last = build_manifest(str(path), None)["uri"].to_pylist()[5]
    assert reading.read_image(last) == FILES[5]
    change(path)
    with pytest.raises(OSError, match=complaint):
        reading.read_image(last)


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_pickled_type_in_a_file_is_not_unpickled(tmp_path: Path):
    """Arrow's Python once kept types of its own as pickles in a file's schema, and loaded them when it was opened."""
    hidden = {"ARROW:extension:name": "arrow.py_extension_type",
              "ARROW:extension:metadata": pickle.dumps(Bomb(tmp_path / "boom"))}  # fmt: skip
    schema = pa.schema([pa.field("image", pa.binary(), metadata=hidden)])
    pq.write_table(pa.table([pa.array(FILES)], schema=schema), tmp_path / "x.parquet")
    assert pq.read_schema(tmp_path / "x.parquet").field("image").metadata == {
        name.encode(): value if isinstance(value, bytes) else value.encode() for name, value in hidden.items()
    }
    assert list(contents(str(tmp_path / "x.parquet")).values()) == FILES
    assert not (tmp_path / "boom").exists()
    pickle.loads(hidden["ARROW:extension:metadata"])
    assert (tmp_path / "boom").exists()  # it would have gone off


def test_neither_the_manifest_nor_one_image_reads_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    files = [rng.bytes(100_000) for _ in range(40)]
    path = tmp_path / "x.parquet"
    path.write_bytes(parquet_of({"image": hf_images(files), "label": range(40)}, rows_in_a_group=4))
    read_range, asked = storage.read_range, list[int]()
    monkeypatch.setattr(storage.files, "read_range", lambda *place: asked.append(place[2]) or read_range(*place))
    uris = build_manifest(str(path), None)["uri"].to_pylist()
    assert 0 < sum(asked) < 100_000  # the end of the file, and the labels
    asked.clear()
    assert reading.read_image(uris[17]) == files[17]
    assert 400_000 < sum(asked) < 500_000  # one row group of ten, and the end
    assert len(asked) <= 3


@given(
    files=st.lists(st.one_of(st.none(), st.binary(max_size=50)), min_size=1, max_size=60),
    rows_in_a_group=st.integers(1, 70),
    compression=st.sampled_from(["none", "snappy", "zstd"]),
    dictionary=st.booleans(),
    struct=st.booleans(),
    data=st.data(),
)
def test_any_rows_are_what_arrow_reads(tmp_path_factory, files, rows_in_a_group, compression, dictionary, struct, data):
    path = tmp_path_factory.getbasetemp() / "any.parquet"
    column = hf_images(files) if struct else pa.array(files, pa.binary())
    path.write_bytes(parquet_of({"image": column}, rows_in_a_group, compression=compression, use_dictionary=dictionary))
    number = data.draw(st.integers(0, (len(files) - 1) // rows_in_a_group))
    whole = pq.ParquetFile(path).read_row_group(number)["image"].to_pylist()
    rows = data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1))
    group = parquet_images.Group(str(path), "image.bytes" if struct else "image", number)
    assert parquet_images.read(group, rows) == [whole[row]["bytes"] if struct else whole[row] for row in rows]
