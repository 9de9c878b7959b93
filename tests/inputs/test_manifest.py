"""The manifest: what counts as an image, and ids that are safe, stable and unique."""

import posixpath
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import storage
from pipeline.errors import ManifestError
from pipeline.imaging.images import SUPPORTED
from pipeline.inputs import tables
from pipeline.inputs.manifest import MANIFEST_SCHEMA, build_manifest, safe_id


def make_files(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def ids(input_uri: object, limit: int | None = None) -> list[str]:
    return build_manifest(str(input_uri), limit)["image_id"].to_pylist()


def test_a_folder_gives_its_images_sorted_by_id_with_absolute_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_files(tmp_path, "in/b.jpg", "in/a/z.PNG", "in/a/y.tif", "in/readme.txt")
    monkeypatch.chdir(tmp_path)
    table = build_manifest("in", None)
    assert table.schema == MANIFEST_SCHEMA
    assert table.to_pylist() == [
        {"image_id": "a/y.tif", "uri": str(tmp_path / "in/a/y.tif"), "manifest": None},
        {"image_id": "a/z.PNG", "uri": str(tmp_path / "in/a/z.PNG"), "manifest": None},
        {"image_id": "b.jpg", "uri": str(tmp_path / "in/b.jpg"), "manifest": None},
    ]


def test_the_same_folder_gives_the_same_ids_however_it_is_written(tmp_path: Path):
    make_files(tmp_path, "in/a/x.jpg", "in/y.jpg")
    expected = ["a/x.jpg", "y.jpg"]
    assert ids(tmp_path / "in") == ids(f"{tmp_path}/in/") == ids((tmp_path / "in").as_uri()) == expected
    assert ids(f"{tmp_path}/./in/") == expected


def test_an_id_does_not_depend_on_the_other_files(tmp_path: Path):
    make_files(tmp_path, "sub/x.jpg")
    before = ids(tmp_path)
    make_files(tmp_path, "sub/a.jpg", "y.jpg")
    assert set(before) < set(ids(tmp_path))


def test_files_that_differ_only_in_their_extension_stay_apart(tmp_path: Path):
    make_files(tmp_path, "a.jpg", "a.png", "a.JPG")
    assert ids(tmp_path) == ["a.JPG", "a.jpg", "a.png"]


def test_hidden_files_and_folders_are_skipped(tmp_path: Path):
    make_files(tmp_path, ".h.jpg", "_h.jpg", "__MACOSX/x.jpg", ".git/x.jpg", "s/_t/x.jpg", "s/x_.jpg")
    assert ids(tmp_path) == ids(tmp_path / "**/*.jpg") == ["s/x_.jpg"]


def test_a_hidden_folder_above_the_input_hides_nothing(tmp_path: Path):
    make_files(tmp_path, "_in/.x/a.jpg")
    assert ids(tmp_path / "_in" / ".x") == ids(tmp_path / "_in/.x/*.jpg") == ids(tmp_path / "_in/.x/a.jpg") == ["a.jpg"]


def test_a_pattern_counts_from_its_folder_without_wildcards(tmp_path: Path):
    make_files(tmp_path, "in/2007/x.jpg", "in/2008/x.jpg", "in/2008/x.png", "in/other.jpg")
    assert ids(tmp_path / "in/20*/x.jpg") == ["2007/x.jpg", "2008/x.jpg"]
    assert ids(tmp_path / "in/2008/*") == ["x.jpg", "x.png"]


def test_one_image_and_one_that_is_none(tmp_path: Path):
    make_files(tmp_path, "a b.jpg", "notes.txt")
    assert ids(tmp_path / "a b.jpg") == ["a%20b.jpg"]
    with pytest.raises(ManifestError, match="neither a folder, nor an image"):
        build_manifest(str(tmp_path / "notes.txt"), None)


def test_the_limit_takes_the_first(tmp_path: Path):
    make_files(tmp_path, "c.jpg", "a.jpg", "b.jpg")
    assert ids(tmp_path, 2) == ["a.jpg", "b.jpg"]
    assert ids(tmp_path, 9) == ["a.jpg", "b.jpg", "c.jpg"]
    with pytest.raises(ManifestError, match="limit is 0"):
        build_manifest(str(tmp_path), 0)


def test_missing_and_empty_inputs_are_said(tmp_path: Path):
    make_files(tmp_path, "in/notes.txt")
    for missing in ("absent", "absent/*.jpg", "absent.jpg", "absent.csv", "absent.parquet"):
        with pytest.raises(ManifestError, match="absent"):
            build_manifest(str(tmp_path / missing), None)
    for empty in ("in", "in/*.jpg"):
        with pytest.raises(ManifestError, match="holds no image") as caught:
            build_manifest(str(tmp_path / empty), None)
        assert all(suffix in str(caught.value) for suffix in SUPPORTED)
    with pytest.raises(ManifestError, match="s3://"):
        build_manifest("https://host/images", None)
    with pytest.raises(ManifestError, match="AWS_") as caught:
        build_manifest("s3://key:hush@bucket/images", None)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("list.txt", "write `uri` as its first line and name it .csv"),
        ("clip.MP4", "take frames out of it first"),
        ("photos.zip", "unpack it and give the folder"),
        ("photo.HEIC", "convert it to JPEG, PNG or TIFF first"),
    ],
)
def test_a_file_that_is_no_input_is_answered_with_what_to_do(name, said, tmp_path: Path):
    make_files(tmp_path, name)
    with pytest.raises(ManifestError, match="neither a folder, nor an image") as caught:
        build_manifest(str(tmp_path / name), None)
    assert said in str(caught.value)


def test_a_folder_of_camera_files_is_answered_with_what_to_do(tmp_path: Path):
    make_files(tmp_path, "x/1.CR2", "x/2.heic", "y/3.dng", "y/4.zip", "notes.txt")
    advice = r"unpack the \.zip files first; convert to JPEG, PNG or TIFF the \.cr2, \.dng, \.heic files first"
    with pytest.raises(ManifestError, match=advice):
        build_manifest(str(tmp_path), None)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_manifest_with_relative_and_absolute_uris(tmp_path: Path, suffix: str):
    path = tmp_path / "lists" / f"m{suffix}"
    path.parent.mkdir()
    columns = {"n": [1, 2, 3, 4, 5], "uri": ["img/b.jpg", "./a.jpg", "../up.jpg", "/data/x y.jpg", "s3://bucket/k.jpg"]}
    write_table(path, columns)
    table = build_manifest(str(path), None)
    assert dict(zip(table["image_id"].to_pylist(), table["uri"].to_pylist(), strict=True)) == {
        "%2E./up.jpg": f"{tmp_path}/up.jpg",
        "a.jpg": f"{tmp_path}/lists/a.jpg",
        "bucket/k.jpg": "s3://bucket/k.jpg",
        "data/x%20y.jpg": "/data/x y.jpg",
        "img/b.jpg": f"{tmp_path}/lists/img/b.jpg",
    }


def write_table(path: Path, columns: dict[str, list]) -> None:
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        rows = [list(columns), *zip(*columns.values(), strict=True)]
        path.write_text("\n".join(",".join("" if v is None else str(v) for v in row) for row in rows) + "\n")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_given_ids_are_kept_as_text_and_made_safe(tmp_path: Path, suffix: str):
    write_table(tmp_path / f"m{suffix}", {"image_id": ["007", "../../etc/x", "/a"], "uri": ["a.jpg", "b.jpg", "c.jpg"]})
    assert ids(tmp_path / f"m{suffix}") == ["%2E./%2E./etc/x", "%2F/a", "007"]


def test_relative_uris_of_a_manifest_in_a_bucket_stay_in_it():
    from pipeline.inputs.manifest import _below

    assert _below("s3://bucket/lists", "../img/./a.jpg") == "s3://bucket/img/a.jpg"
    assert _below("/data/lists", "../a.jpg") == "/data/a.jpg"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(("columns", "complaint"), [
    ({"path": ["a.jpg"], "label": ["x"]}, "path, label"),
    ({"uri": ["a.jpg", None], "n": [1, 2]}, "row 2: the uri is empty"),
    ({"uri": ["a.jpg"], "image_id": [None]}, "row 1: the image_id is empty"),
    ({"uri": []}, "holds no image"),
    ({"uri": ["a.jpg", "./a.jpg"]}, r"/a\.jpg is listed twice"),
    ({"uri": ["a.jpg", "b.jpg"], "image_id": ["x", "x"]}, r"'x' belongs to both .*a\.jpg and .*b\.jpg"),
    ({"uri": ["ftp://host/a.jpg"]}, "use a local path"),
])  # fmt: skip
def test_unusable_manifests_are_refused(tmp_path: Path, suffix: str, columns: dict, complaint: str):
    path = tmp_path / f"m{suffix}"
    write_table(path, columns)
    with pytest.raises(ManifestError, match=complaint):
        build_manifest(str(path), None)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0rubbish,\x80\n\x81", b"PAR1....PAR1"])
def test_damaged_manifests_are_refused(tmp_path: Path, suffix: str, content: bytes):
    path = tmp_path / f"m{suffix}"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match="m\\."):
        build_manifest(str(path), None)


def test_an_empty_folder_named_like_a_manifest_is_refused(tmp_path: Path):
    (tmp_path / "m.parquet").mkdir()
    with pytest.raises(ManifestError, match=r"a folder without files ending in \.parquet"):
        build_manifest(str(tmp_path / "m.parquet"), None)


SEGMENT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), max_size=30)
PATH = st.lists(st.one_of(SEGMENT, st.sampled_from([".", "..", "", "%2F", "%2E.", "a" * 300])), min_size=1, max_size=5)


@given(PATH)
def test_no_id_leaves_the_output_folder(segments: list[str]):
    image_id = safe_id("/".join(segments))
    path = posixpath.normpath(posixpath.join("/out/masks", f"{image_id}.png"))
    assert path == f"/out/masks/{image_id}.png"
    for segment in image_id.split("/"):
        assert segment
        assert not segment.startswith(".")
        assert len(segment.encode()) <= 180
        assert not set('\\:*?"<>|\0\n ') & set(segment)


@given(PATH, PATH)
def test_different_paths_have_different_ids(one: list[str], other: list[str]):
    assert (safe_id("/".join(one)) == safe_id("/".join(other))) == (one == other)


TEXT = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("/.%\\~\0")), max_size=400)


@given(TEXT)
def test_no_key_whatever_leaves_the_output_folder(key: str):
    target = storage.join("/out", "masks", f"{safe_id(key)}.png")
    assert posixpath.normpath(target) == target
    assert target.startswith("/out/masks/")
    assert all(len(part.encode()) <= 184 for part in target.split("/"))


@given(TEXT, TEXT)
def test_different_keys_whatever_have_different_ids(one: str, other: str):
    assert (safe_id(one) == safe_id(other)) == (one == other)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXT.filter(bool), min_size=1, max_size=30, unique=True))
def test_a_manifest_of_any_keys_keeps_them_apart_and_inside(tmp_path: Path, keys: list[str]):
    write_table(tmp_path / "m.parquet", {"image_id": keys, "uri": [f"/data/{i}.jpg" for i in range(len(keys))]})
    table = build_manifest(str(tmp_path / "m.parquet"), None)
    assert len(set(table["image_id"].to_pylist())) == len(keys)
    assert table["image_id"].to_pylist() == sorted(map(safe_id, keys))


@given(st.lists(SEGMENT.filter(lambda s: 0 < len(s.encode()) < 50), min_size=1, max_size=4))
def test_an_id_can_be_decoded(segments: list[str]):
    assert unquote(safe_id("/".join(segments))) == "/".join(segments)


LONG = st.lists(st.sampled_from(["one two three four five six seven eight", "x" * 99, "deep", "é" * 90]), max_size=40)


@given(LONG, LONG)
def test_names_of_deep_folders_fit_a_key_of_s3_and_stay_different(one: list[str], other: list[str]):
    """Such a mask could not be written, and the run would end at it each time."""
    paths = ["/".join([*folders, "last.jpg"]) for folders in (one, other)]
    ids = [safe_id(path) for path in paths]
    for image_id in ids:
        assert len(image_id.encode()) <= 800
        assert image_id.endswith("last.jpg")
    assert (ids[0] == ids[1]) == (one == other)


def test_usual_names_are_left_alone():
    for name in ("2007_000032.jpg", "a/B-2 (1).jpg".replace(" ", "_"), "köln/猫.png", "x~1+2=3,@.jpg"):
        assert safe_id(name) == name


def test_long_names_keep_their_beginning_and_extension():
    image_id = safe_id("folder/" + "ä" * 200 + ".jpg")
    assert image_id.startswith("folder/äää")
    assert image_id.endswith(".jpg")
    assert safe_id("x" * 300 + ".jpg") != safe_id("x" * 301 + ".jpg")


def test_an_id_of_the_longest_name_is_a_legal_file_name(tmp_path: Path):
    make_files(tmp_path, "in/" + "ü" * 125 + ".jpg")
    (image_id,) = ids(tmp_path / "in")
    (tmp_path / f"{image_id}.png").write_bytes(b"")
    assert (tmp_path / f"{image_id}.png").is_file()


def test_a_bucket_gives_the_same_ids_as_a_folder(tmp_path: Path, stored: str):
    names = ["b.jpg", "a/z.PNG", "a/y.tif", "a/_hidden/x.jpg", ".h.jpg", "readme.txt", "a b+c%20.jpg"]
    for name in names:
        storage.write_atomic(storage.join(stored, name), b"1")
        storage.write_atomic(storage.join(str(tmp_path), name), b"1")
    table = build_manifest(stored, None)
    assert table["image_id"].to_pylist() == ids(tmp_path)
    assert set(table["uri"].to_pylist()) == {
        f"{stored}/{name}" for name in ("b.jpg", "a/z.PNG", "a/y.tif", "a b+c%20.jpg")
    }
    assert ids(f"{stored}/a/*") == ids(tmp_path / "a" / "*")
    assert ids(f"{stored}/b.jpg") == ["b.jpg"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_manifest_in_a_bucket(tmp_path: Path, stored: str, suffix: str):
    write_table(tmp_path / f"m{suffix}", {"uri": ["a.jpg", "../up.jpg", "gs://other/k.jpg", "s3://third/k.jpg"]})
    storage.write_atomic(f"{stored}/lists/m{suffix}", (tmp_path / f"m{suffix}").read_bytes())
    table = build_manifest(f"{stored}/lists/m{suffix}", None)
    uris = table["uri"].to_pylist()
    assert set(uris) == {f"{stored}/lists/a.jpg", f"{stored}/up.jpg", "gs://other/k.jpg", "s3://third/k.jpg"}
    assert {"other/k.jpg", "third/k.jpg"} < set(table["image_id"].to_pylist())


def test_rows_are_counted_over_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tables, "_ROWS_A_CHUNK", 3)
    write_table(tmp_path / "m.parquet", {"uri": [f"{i}.jpg" for i in range(8)]})
    assert ids(tmp_path / "m.parquet", 7) == [f"{i}.jpg" for i in range(7)]
    write_table(tmp_path / "m.parquet", {"uri": [*(f"{i}.jpg" for i in range(8)), None]})
    with pytest.raises(ManifestError, match="row 9: the uri is empty"):
        build_manifest(str(tmp_path / "m.parquet"), None)
