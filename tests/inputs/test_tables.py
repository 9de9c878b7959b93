"""Manifests as people and programs write them: what is read, and what is refused by name and row."""

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.errors import ManifestError
from pipeline.inputs import tables
from pipeline.inputs.manifest import build_manifest


def ids(uri: object) -> list[str]:
    return build_manifest(str(uri), None)["image_id"].to_pylist()


@pytest.mark.parametrize(("text", "complaint"), [
    ('uri,caption\nimg/a.bmp,"unclosed\nimg/b c.bmp,fine\n', "row 1: a quote is never closed"),
    ('uri,caption\nok.bmp,x\nimg/a.bmp,"unclosed\nb.bmp,"fine"\nc.bmp,x\n', "row 2: a quote is never closed"),
    ('uri,caption\na.bmp,"unclosed\nb.bmp,x\nc.bmp,and here it closes"\nd.bmp,x\n', "row 1: a quoted field holds what "
     r"looks like a row \(b\.bmp,x\)"),
    ('uri\n"a.bmp\nb.bmp"\n', "row 1: a quoted field holds what looks like a row"),
    ('"uri,caption\na.bmp,x\n', "row 1: a quote is never closed"),
    ("uri,caption\na.bmp\n", "row 1: 1 fields, but the first line has 2"),
    ("uri,caption\na.bmp,x\nb,c.bmp,x\n", "row 2: 3 fields, but the first line has 2"),
])  # fmt: skip
def test_a_csv_that_would_lose_rows_is_refused_naming_the_row(tmp_path: Path, text: str, complaint: str):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(ManifestError, match=complaint):
        build_manifest(str(tmp_path / "m.csv"), None)


@pytest.mark.parametrize("content", [
    b"uri,caption\na.jpg,x\nb.jpg,y\n",
    b"uri, caption\na.jpg, x\nb.jpg, y\n",
    b" uri ,caption\r\na.jpg,x\r\n\r\nb.jpg,y",
    b'caption;uri\n"two\nlines";a.jpg\n"a ""b""";b.jpg\n',
    b"\xef\xbb\xbfuri\na.jpg\nb.jpg\n",
    b"\n \nuri\n\na.jpg\n   \nb.jpg\n\n",
    b"uri\ra.jpg\rb.jpg\r",
    "uri,caption\na.jpg,ü\nb.jpg,y\n".encode("utf-16"),
    b"\xff\xfe" + "uri\na.jpg\nb.jpg\n".encode("utf-16-le"),
    b"\xfe\xff" + "uri\na.jpg\nb.jpg\n".encode("utf-16-be"),
])  # fmt: skip
def test_csv_in_the_dialects_that_people_have(store: str, content: bytes):
    storage.write_atomic(f"{store}/m.csv", content)
    assert ids(f"{store}/m.csv") == ["a.jpg", "b.jpg"]


def test_blanks_and_quotes_of_a_name_are_kept(tmp_path: Path):
    (tmp_path / "m.csv").write_text('uri,n\n a.jpg,1\n5" disk.jpg,2\n"x, y.jpg",3\n')
    assert build_manifest(str(tmp_path / "m.csv"), None)["uri"].to_pylist() == [
        f"{tmp_path}/ a.jpg", f"{tmp_path}/5\" disk.jpg", f"{tmp_path}/x, y.jpg"]  # fmt: skip


@pytest.mark.parametrize(("name", "content"), [
    ("m.tsv", "uri\tcaption\na.jpg\tx, y\nb.jpg\tz\n"),
    ("m.TSV", "uri\na.jpg\nb.jpg\n"),
    ("m.jsonl", '{"uri": "a.jpg", "n": 1}\n\n{"n": "two\\nlines", "uri": "b.jpg"}'),
    ("m.ndjson", '{"uri": "a.jpg"}\r\n{"uri": "b.jpg"}\r\n'),
])  # fmt: skip
def test_tab_separated_and_json_lines(store: str, name: str, content: str):
    storage.write_atomic(f"{store}/{name}", content.encode())
    assert ids(f"{store}/{name}") == ["a.jpg", "b.jpg"]


def test_ids_of_json_lines_may_be_numbers(tmp_path: Path):
    (tmp_path / "m.jsonl").write_text('{"uri": "a.jpg", "image_id": 7}\n{"uri": "b.jpg", "image_id": "x"}\n')
    assert ids(tmp_path / "m.jsonl") == ["7", "x"]


@pytest.mark.parametrize(("name", "content", "complaint"), [
    ("m.jsonl", b'{"uri": "a.jpg"}\n{"uri": "b.jpg"\n', "row 2: no JSON object in one line"),
    ("m.jsonl", b'["a.jpg"]\n', "row 1: no JSON object"),
    ("m.jsonl", b"[" * 100_000, "row 1: no JSON object"),
    ("m.jsonl", b'{"path": "a.jpg"}\n', "needs one column uri.*rename path to uri"),
    ("m.jsonl", b'{"uri": "a.jpg"}\n{"path": "b.jpg"}\n', "row 2: the uri is empty"),
    ("m.jsonl", b'{"uri": "a.jpg"}\n{"uri": "b.jpg", "image_id": "b"}\n', "row 2 has an image_id, unlike the first"),
    ("m.jsonl", b'{"uri": "a.jpg", "image_id": "a"}\n{"uri": "b.jpg"}\n', "row 2 has no image_id, unlike the first"),
    ("m.jsonl", b'{"uri": ["a.jpg"]}\n', r"row 1: the uri is \['a.jpg'\], which is no text"),
    ("m.jsonl", b'{"uri": "a.jpg", "image_id": NaN}\n', "row 1: the image_id is nan"),
    ("m.jsonl", b'{"uri": "a\\ud800.jpg"}\n', "row 1: the uri, 'a.ud800.jpg', holds half a character"),
    ("m.csv", b"", "is empty; it needs a column uri"),
    ("m.csv", b" \n\n", "is empty; it needs a column uri"),
    ("m.csv", b"uri,image_id\na.jpg,\n", "row 1: the image_id is empty"),
    ("m.csv", b"uri\n", "holds no image; looked for rows; it has none"),
    ("m.csv", b"uri\na\0.jpg\n", "is no text"),
    ("m.csv", b"uri\n\xe4.jpg\n", "row 1: no UTF-8 text.*save it as UTF-8"),
    ("m.csv", "uri\na.jpg\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
    ("m.tsv", b"path\tlabel\na.jpg\tx\n", "its columns are path, label"),
])  # fmt: skip
def test_other_faults_of_manifests_are_named(tmp_path: Path, name: str, content: bytes, complaint: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ManifestError, match=complaint):
        build_manifest(str(tmp_path / name), None)


def parts(store: str, folder: str) -> None:
    for number, uris in enumerate((["a.jpg", "sub/b.jpg"], [], ["../c.jpg"])):
        storage.write_parquet(f"{store}/{folder}/part-{number}.parquet", pa.table({"uri": pa.array(uris, pa.string())}))
    storage.write_atomic(f"{store}/{folder}/_SUCCESS", b"")
    storage.write_atomic(f"{store}/{folder}/.part-0.parquet.crc", b"x")


@pytest.mark.parametrize("folder", ["m.parquet", "list"])
def test_a_folder_of_parquet_files_is_one_manifest(store: str, folder: str):
    parts(store, f"lists/{folder}")
    table = build_manifest(f"{store}/lists/{folder}", None)
    assert set(table["uri"].to_pylist()) == {f"{store}/lists/a.jpg", f"{store}/lists/sub/b.jpg", f"{store}/c.jpg"}


def test_a_folder_with_an_image_is_no_manifest(store: str):
    parts(store, "list")
    storage.write_atomic(f"{store}/list/x.jpg", b"1")
    assert ids(f"{store}/list") == ["x.jpg"]


def test_a_folder_of_csv_parts_has_the_ending(store: str):
    storage.write_atomic(f"{store}/m.csv/0.csv", b"uri\na.jpg\n")
    storage.write_atomic(f"{store}/m.csv/1.csv", b"uri\nb.jpg\n")
    assert build_manifest(f"{store}/m.csv/", None)["uri"].to_pylist() == [f"{store}/a.jpg", f"{store}/b.jpg"]


def test_faults_in_parts_name_the_part(tmp_path: Path):
    parts(str(tmp_path), "m.parquet")
    storage.write_parquet(str(tmp_path / "m.parquet/part-3.parquet"), pa.table({"uri": ["d.jpg", None]}))
    with pytest.raises(ManifestError, match=r"part-3\.parquet, row 2: the uri is empty"):
        build_manifest(str(tmp_path / "m.parquet"), None)
    storage.write_parquet(str(tmp_path / "m.parquet/part-3.parquet"), pa.table({"path": ["d.jpg"]}))
    with pytest.raises(ManifestError, match=r"part-3\.parquet needs one column uri"):
        build_manifest(str(tmp_path / "m.parquet"), None)


FIELD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), min_size=1, max_size=20)


@given(st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=8))
def test_what_arrow_writes_as_csv_is_read_back(rows: list[tuple[str, str]]):
    sink = pa.BufferOutputStream()
    uris, captions = zip(*rows, strict=True)
    pyarrow.csv.write_csv(pa.table({"caption": captions, "uri": uris}), sink)
    entries = list(tables._csv_rows("m.csv", sink.getvalue().to_pybytes().decode(), "csv", Counter()))
    assert [uri for (uri,), _ in entries] == list(uris)
    assert [json.loads(others) for _, others in entries] == [{"caption": caption} for caption in captions]


@given(st.lists(FIELD, min_size=1, max_size=8))
def test_what_json_writes_is_read_back(uris: list[str]):
    text = "\n".join(json.dumps({"uri": uri}, ensure_ascii=False) for uri in uris)
    assert list(tables._json_rows("m.jsonl", text, Counter())) == [([uri], None) for uri in uris]


def test_names_are_found_in_the_other_form_of_unicode(store: str):
    composed, decomposed = "\N{LATIN SMALL LETTER E WITH ACUTE}", "e\N{COMBINING ACUTE ACCENT}"
    storage.write_atomic(f"{store}/{composed}/in/{decomposed}.jpg", b"mac")
    storage.write_atomic(f"{store}/{composed}/m.csv", f"uri\nin/{composed}.jpg\n".encode())
    (uri,) = build_manifest(f"{store}/{composed}/m.csv", None)["uri"].to_pylist()
    assert uri.endswith(f"in/{composed}.jpg")
    assert storage.read_image(uri) == b"mac"
    with pytest.raises(FileNotFoundError):
        storage.read_image(f"{store}/{composed}/in/{composed}{composed}.jpg")


def test_a_home_folder_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("~/x") == str(tmp_path / "x")
    assert storage.absolute("~") == str(tmp_path)
    assert storage.absolute("./~/x") == f"{tmp_path}/~/x"
    assert storage.join("~", "a") == str(tmp_path / "a")
    storage.write_atomic("~/x/y.bin", b"1")
    assert not (tmp_path / "~").exists()
    pq.write_table(pa.table({"uri": ["~1.jpg"]}), tmp_path / "m.parquet")
    assert build_manifest("~/m.parquet", None)["uri"].to_pylist() == [f"{tmp_path}/~1.jpg"]
