"""S3 Inventory as input: CSV and Parquet data files, versions, encoded keys; in a bucket or as a local copy."""

import gzip
import io
import json
from collections import Counter
from urllib.parse import quote, quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.errors import ManifestError
from pipeline.inputs.manifest import build_manifest

KEYS = ["photos/a.jpg", "photos/b c+d%20.JPG", 'köln/猫,"1".png', "photos/.hidden.jpg", "_tmp/x.jpg", "notes.txt"]
EXPECTED = {
    "photos/a.jpg": "s3://images/photos/a.jpg",
    "photos/b%20c+d%2520.JPG": "s3://images/photos/b c+d%20.JPG",
    "köln/猫,%221%22.png": 's3://images/köln/猫,"1".png',
}
SCHEMA = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size"


def csv_file(keys: list[str], *, latest: str = "true", deleted: str = "false", encode=quote_plus) -> bytes:
    lines = [f'"images","{encode(key)}","v1","{latest}","{deleted}","17"\n' for key in keys]
    return gzip.compress("".join(lines).encode())


def parquet_file(keys: list[str], *, latest: bool = True) -> bytes:
    objects = [
        {"bucket": "images", "key": key, "version_id": "v1", "is_latest": latest, "is_delete_marker": False, "size": 17}
        for key in keys
    ]
    pq.write_table(pa.Table.from_pylist(objects), buffer := io.BytesIO())
    return buffer.getvalue()


def write_inventory(folder: str, files: dict[str, bytes], form: str, schema: str = SCHEMA) -> str:
    """Lay an inventory out below `folder` as S3 does; return the address of its manifest.json."""
    key = folder.removeprefix("s3://").partition("/")[2]
    names = [f"{key}/images/weekly/data/{name}" for name in files]
    content = {
        "sourceBucket": "images",
        "destinationBucket": "arn:aws:s3:::bucket",
        "version": "2016-11-30",
        "fileFormat": form,
        "fileSchema": schema,
        "files": [{"key": name, "size": 1} for name in names],
    }
    for name, data in files.items():
        storage.write_atomic(storage.join(folder, "images", "weekly", "data", name), data)
    uri = storage.join(folder, "images", "weekly", "2026-11-01T01-00Z", "manifest.json")
    storage.write_atomic(uri, json.dumps(content).encode())
    return uri


def rows(uri: str) -> dict[str, str]:
    table = build_manifest(uri, None)
    return dict(zip(table["image_id"].to_pylist(), table["uri"].to_pylist(), strict=True))


@pytest.mark.parametrize("encode", [quote_plus, quote])
def test_csv_with_encoded_keys(store: str, encode):
    old = csv_file(["photos/old.jpg"], latest="false")
    gone = csv_file(["photos/gone.jpg"], deleted="true")
    files = {"1.csv.gz": csv_file(KEYS[:2], encode=encode), "2.csv.gz": csv_file(KEYS[2:], encode=encode),
             "3.csv.gz": old, "4.csv.gz": gone}  # fmt: skip
    assert rows(write_inventory(store, files, "CSV")) == EXPECTED


def test_parquet(store: str):
    files = {"1.parquet": parquet_file(KEYS), "2.parquet": parquet_file(["photos/old.jpg"], latest=False)}
    assert (
        rows(write_inventory(store, files, "Parquet", "message s3.inventory { required binary bucket; }")) == EXPECTED
    )


def test_what_is_no_image_is_counted_and_what_a_run_wrote_is_none(store: str):
    outputs = ["out/masks/a.jpg.png", "out/panels/a.png", "out/run/config.json", "out/run/x.png", "masks/kept.png"]
    files = {"1.csv.gz": csv_file([*outputs[:2], *KEYS, "photos/"]), "2.csv.gz": csv_file(outputs[2:])}
    left_aside: Counter[str] = Counter()
    table = build_manifest(write_inventory(store, files, "CSV"), None, left_aside)
    assert set(table["image_id"].to_pylist()) == {*EXPECTED, "masks/kept.png"}
    assert left_aside == {"hidden": 2, ".txt": 1, ".json": 1, "of a run's output": 3}
    assert len(table) + left_aside.total() == len(outputs) + len(KEYS)


def test_an_inventory_without_versions(store: str):
    files = {"1.csv.gz": gzip.compress(b'"images","a.jpg"\n"images","b.jpg"\n')}
    assert rows(write_inventory(store, files, "CSV", "Bucket, Key")) == {
        "a.jpg": "s3://images/a.jpg", "b.jpg": "s3://images/b.jpg"}  # fmt: skip


def test_an_inventory_of_the_bucket_gives_the_ids_of_the_bucket(tmp_path, monkeypatch):
    from conftest import use_s3
    from s3_server import s3_server

    for name in ("photos/a.jpg", "photos/b c.jpg"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"1")
    uri = write_inventory(str(tmp_path), {"1.csv.gz": csv_file(["photos/a.jpg", "photos/b c.jpg"])}, "CSV")
    with s3_server(tmp_path) as server:
        use_s3(server, monkeypatch)
        listed = {key: uri for key, uri in rows("s3://images").items() if key.startswith("photos/")}
        assert rows(uri) == listed


@pytest.mark.parametrize(("content", "complaint"), [
    (b"{}", "is not the manifest.json of an S3 Inventory"),
    (b"[1]", "is not the manifest.json of an S3 Inventory"),
    (b"\xff", "is not the manifest.json of an S3 Inventory"),
    (b'{"fileFormat": "ORC", "files": [], "fileSchema": ""}', "inventory in ORC; CSV and Parquet"),
    (b'{"fileFormat": "CSV", "files": [], "fileSchema": "Bucket, Key"}', "holds no image"),
    (b'{"fileFormat": "CSV", "files": [{"key": "absent.gz"}], "fileSchema": "Bucket, Key"}', "absent"),
])  # fmt: skip
def test_unusable_inventories_are_refused(tmp_path, content: bytes, complaint: str):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ManifestError, match=complaint):
        build_manifest(str(tmp_path / "manifest.json"), None)


def test_damaged_and_unfit_data_files_are_refused(store: str):
    uri = write_inventory(store, {"1.csv.gz": csv_file(KEYS)[:-20]}, "CSV")
    with pytest.raises(ManifestError, match="cannot be read"):
        build_manifest(uri, None)
    uri = write_inventory(store, {"1.csv.gz": gzip.compress(b'"images","17"\n')}, "CSV", "Bucket, Size")
    with pytest.raises(ManifestError, match="no column key"):
        build_manifest(uri, None)
