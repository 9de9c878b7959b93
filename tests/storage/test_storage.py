"""Storage, local and in S3: addresses, listing, patterns and whole-or-nothing writes."""

import fnmatch
import os
import pickle
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.errors import StorageError
from pipeline.storage import listing, local


def make_files(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def relative(files: list[listing.StoredFile], root: Path) -> list[str]:
    return [os.path.relpath(file.uri, root) for file in files]


def put(store: str, *names: str) -> None:
    for name in names:
        storage.write_atomic(storage.join(store, name), name.encode())


def names_in(store: str, pattern: str = "") -> list[str]:
    found = listing.list_files(storage.join(store, pattern) if pattern else store, ("",))
    return [file.uri.removeprefix(f"{store}/") for file in found]


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("images/a.jpg") == str(tmp_path / "images" / "a.jpg")


def test_a_path_with_dots_is_the_one_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """So that `../set` from one folder and the same set from another are one; a link's `..` is where the link leads."""
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "link").symlink_to(tmp_path / "far" / "deep")
    monkeypatch.chdir(tmp_path / "near")
    for uri in ("../a.jpg", "./.././a.jpg", "../near/../a.jpg", (tmp_path / "near").as_uri() + "/../a.jpg"):
        assert storage.absolute(uri) == str(tmp_path / "a.jpg")
    assert storage.absolute("link/../a.jpg") == str(tmp_path / "far" / "a.jpg")
    assert storage.absolute("link/a.jpg") == str(tmp_path / "near" / "link" / "a.jpg")
    assert storage.absolute("../../../../../../../../../../..") == "/"


def test_a_file_address_is_decoded_once(tmp_path: Path):
    path = tmp_path / "100% a b#c?.txt"
    path.write_bytes(b"here")
    assert storage.absolute(path.as_uri()) == str(path)
    assert storage.read_bytes(path.as_uri()) == b"here"
    assert storage.absolute("file://localhost/a%20b") == "/a b"


def test_join_takes_parts_literally(tmp_path: Path):
    uri = storage.join(tmp_path.as_uri(), "a%20b", "c d.png")
    storage.write_atomic(uri, b"1")
    assert (tmp_path / "a%20b" / "c d.png").read_bytes() == b"1"
    assert storage.join("s3://bucket/run/", "masks", "a%20b.png") == "s3://bucket/run/masks/a%20b.png"
    assert storage.join("/", "x") == "/x"


def test_parent():
    assert storage.parent("/data/x.csv") == "/data"
    assert storage.parent("/x.csv") == "/"
    for scheme in ("s3", "gs", "az"):
        assert storage.parent(f"{scheme}://bucket/x.csv") == f"{scheme}://bucket"
        assert storage.parent(f"{scheme}://bucket") == f"{scheme}://bucket"


@pytest.mark.parametrize(
    "uri",
    ["", "https://host/x.jpg", "ftp://bucket/x", "file://host/x", "file:relative", "s3:///x", "gs:///x", "az:///x"],
)
def test_unusable_addresses_are_refused(uri):
    if uri == "file:relative":
        assert storage.absolute(uri).endswith("/file:relative")  # no scheme without //: a funny local name
    else:
        with pytest.raises(StorageError):
            storage.absolute(uri)


@pytest.mark.parametrize("uri", ["s3://AKIA:hush@bucket/x", "s3://AKIA:hu/hush@bucket/x", "https://me:hush@host/x",
                                 "gs://AKIA:hush@bucket/x", "az://AKIA:hush@box/x",
                                 "https://hush@host/x"])  # fmt: skip
def test_credentials_are_refused_and_never_repeated(uri):
    with pytest.raises(StorageError) as caught:
        storage.resolve(uri)
    assert "hush" not in str(caught.value)
    assert "AKIA" not in str(caught.value)


def test_an_access_point_is_to_be_named_by_its_alias():
    with pytest.raises(StorageError, match="-s3alias"):
        storage.absolute("s3://arn:aws:s3:us-west-2:123456789012:accesspoint/photos/2026/x.jpg")
    assert storage.absolute("s3://photos-abc-s3alias/2026") == "s3://photos-abc-s3alias/2026"


def test_an_at_sign_in_a_key_is_no_credential():
    assert storage.absolute("s3://bucket/me@home.jpg") == "s3://bucket/me@home.jpg"
    assert storage.redact("s3://bucket/me@home.jpg") == "s3://bucket/me@home.jpg"


def test_read_and_exists(store: str):
    put(store, "sub/x.bin")
    assert storage.read_bytes(storage.join(store, "sub", "x.bin")) == b"sub/x.bin"
    assert storage.exists(storage.join(store, "sub"))
    assert storage.exists(storage.join(store, "sub", "x.bin"))
    assert not storage.exists(storage.join(store, "sub", "y.bin"))
    assert not storage.exists(storage.join(store, "su"))
    assert storage.is_folder(storage.join(store, "sub"))
    assert not storage.is_folder(storage.join(store, "sub", "x.bin"))
    with pytest.raises(FileNotFoundError, match="absent"):
        storage.read_bytes(storage.join(store, "absent"))


def test_a_folder_cannot_be_read(tmp_path: Path):
    with pytest.raises(OSError, match="directory"):
        storage.read_bytes(str(tmp_path))


def test_a_gzip_file_is_read_as_it_is(store: str):
    import gzip

    storage.write_atomic(storage.join(store, "x.gz"), gzip.compress(b"inside"))
    assert storage.read_bytes(storage.join(store, "x.gz")).startswith(b"\x1f\x8b")


@pytest.mark.parametrize("size", [0, 1, 100_000, 9_000_000])
def test_what_is_written_is_read(store: str, size: int):
    data = os.urandom(size)
    storage.write_atomic(storage.join(store, "x.bin"), data)
    assert storage.read_bytes(storage.join(store, "x.bin")) == data


def test_a_write_makes_folders_replaces_and_leaves_nothing_beside(store: str):
    uri = storage.join(store, "a", "b", "x.bin")
    storage.write_atomic(uri, b"first")
    storage.write_atomic(uri, b"second")
    assert storage.read_bytes(uri) == b"second"
    assert names_in(store) == ["a/b/x.bin"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    uri = str(tmp_path / "x.bin")
    storage.write_atomic(uri, b"old")
    with pytest.raises(TypeError):
        storage.write_atomic(uri, "text")  # type: ignore[arg-type]
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        storage.write_atomic(str(tmp_path / "folder"), b"new")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "x.bin"]
    assert storage.read_bytes(uri) == b"old"


def test_a_disk_that_takes_no_more_is_told_with_the_name_of_the_file(tmp_path):
    """A limit on the size of files stands in for a full disk: the write itself fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"too large.*x\.bin"):
            storage.write_atomic(str(tmp_path / "x.bin"), bytes(2_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_name_of_255_bytes_can_be_written(tmp_path: Path):
    uri = str(tmp_path / ("x" * 255))
    storage.write_atomic(uri, b"1")
    assert storage.read_bytes(uri) == b"1"


def test_removing_a_folder(store: str):
    put(store, "run/a/x.bin", "run/.y.tmp", "other/z.bin", "run2/x.bin")
    storage.remove_folder(storage.join(store, "run"))
    storage.remove_folder(storage.join(store, "run"))
    storage.remove_folder(storage.join(store, "other", "z.bin"))
    assert names_in(store) == ["other/z.bin", "run2/x.bin"]
    assert not storage.exists(storage.join(store, "run"))


def test_removing_a_file(store: str):
    put(store, "run/x.bin", "run/y.bin")
    for _ in range(2):
        storage.remove(storage.join(store, "run", "x.bin"))
    storage.remove(storage.join(store, "absent", "x.bin"))
    assert names_in(store) == ["run/y.bin"]


def test_a_move_makes_folders_and_replaces(store: str):
    put(store, "claims/x", "claims/y")
    for name in ("x", "y"):
        storage.move(storage.join(store, "claims", name), storage.join(store, "done", "deep", "z"))
    assert storage.read_bytes(storage.join(store, "done", "deep", "z")) == b"claims/y"
    assert names_in(store) == ["done/deep/z"]


def test_moving_a_file_to_itself_keeps_it(store: str):
    put(store, "x")
    storage.move(storage.join(store, "x"), storage.join(store, "x"))
    assert names_in(store) == ["x"]


def test_moving_what_is_gone_makes_no_target(store: str):
    put(store, "other")
    with pytest.raises(FileNotFoundError, match="gone"):
        storage.move(storage.join(store, "gone"), storage.join(store, "target"))
    assert names_in(store) == ["other"]


def test_a_move_stays_in_its_store(tmp_path: Path):
    with pytest.raises(StorageError, match="different stores"):
        storage.move(str(tmp_path / "x"), "s3://bucket/x")


def test_listing_is_recursive_sorted_and_by_suffix(store: str):
    put(store, "b.jpg", "a/z.JPG", "a/b/c.jpeg", "notes.txt", "a.jpg/inner.png")
    files = listing.list_files(store, (".jpg", ".jpeg", ".png"))
    names = ["a.jpg/inner.png", "a/b/c.jpeg", "a/z.JPG", "b.jpg"]
    assert files == [(f"{store}/{name}", len(name)) for name in names]
    assert listing.list_files(f"{store}/", (".jpg", ".jpeg", ".png")) == files
    if storage.is_local(store):
        assert listing.list_files(Path(store).as_uri(), (".jpg", ".jpeg", ".png")) == files


def test_a_single_file_lists_itself(store: str):
    put(store, "b.jpg")
    assert listing.list_files(storage.join(store, "b.jpg"), (".jpg",)) == [(f"{store}/b.jpg", 5)]
    assert listing.list_files(storage.join(store, "b.jpg"), (".png",)) == []


def test_listing_what_is_not_there(store: str):
    put(store, "notes.txt")
    for missing in ("absent", "absent/*.jpg"):
        with pytest.raises(FileNotFoundError, match="absent does not exist"):
            listing.list_files(storage.join(store, missing), (".jpg",))
    assert listing.list_files(store, (".jpg",)) == []
    assert listing.list_files(storage.join(store, "*.jpg"), (".jpg",)) == []


def test_a_listing_comes_in_batches(store: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local, "_BATCH", 3)
    put(store, *(f"{i % 3}/{i}.jpg" for i in range(20)))
    batches = list(listing.list_batches(store, (".jpg",)))
    assert len(batches) > 2 or not storage.is_local(store)  # there, the store decides
    assert all(batch.schema == listing.LISTING_SCHEMA for batch in batches)
    uris = [uri for batch in batches for uri in batch["uri"].to_pylist()]
    assert sorted(uris) == sorted(f"{store}/{i % 3}/{i}.jpg" for i in range(20))


def test_links_are_followed_but_not_in_circles(tmp_path: Path):
    make_files(tmp_path, "in/a/x.jpg", "elsewhere/y.jpg")
    (tmp_path / "in" / "a" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "far").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "dead.jpg").symlink_to(tmp_path / "nowhere.jpg")
    files = listing.list_files(str(tmp_path / "in"), (".jpg",))
    assert relative(files, tmp_path / "in") == ["a/x.jpg", "dead.jpg", "far/y.jpg"]
    assert [file.size for file in files] == [10, 0, 15]


def test_a_name_that_is_not_utf8_is_named(tmp_path: Path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")).write_bytes(b"")
    assert listing.list_files(str(tmp_path), (".png",)) == []
    with pytest.raises(StorageError, match="not UTF-8"):
        listing.list_files(str(tmp_path), (".jpg",))


@pytest.mark.parametrize(("pattern", "expected"), [
    ("*.jpg", ["a.jpg", "b+(1).jpg"]),
    ("?.jpg", ["a.jpg"]),
    ("**/*.jpg", ["a.jpg", "b+(1).jpg", "s/c.jpg", "s/t/d.jpg"]),
    ("s/**/d.jpg", ["s/t/d.jpg"]),
    ("s/**", ["s/c.jpg", "s/t/d.jpg"]),
    ("*/c.jpg", ["s/c.jpg"]),
    ("s*/c.jpg", ["s/c.jpg"]),
    ("b+(?).jpg", ["b+(1).jpg"]),
])  # fmt: skip
def test_patterns(store: str, pattern: str, expected: list[str]):
    put(store, "a.jpg", "b+(1).jpg", "s/c.jpg", "s/t/d.jpg", "s/t/d.txt")
    assert listing.is_glob(pattern)
    assert [name for name in names_in(store, pattern) if name.endswith(".jpg")] == expected


@given(st.text("ab*?.[", max_size=8), st.text("ab.[", max_size=8))
def test_patterns_in_one_folder_agree_with_fnmatch(pattern: str, name: str):
    pattern = pattern.replace("**", "*")
    ours = listing._glob_regex(pattern).fullmatch(name) is not None
    assert ours == fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def test_the_root_of_a_pattern_has_no_wildcard():
    assert listing.glob_root("/data/2007*/x.jpg") == "/data"
    assert listing.glob_root("/data/images/*.jpg") == "/data/images"
    assert listing.glob_root("s3://bucket/*.jpg") == "s3://bucket"
    assert listing.glob_root("/data/images") == "/data/images"


def test_file_systems_travel_to_other_processes_without_credentials(store: str):
    put(store, "x.bin")
    parcel = pickle.dumps(storage.resolve(storage.join(store, "x.bin")))
    for name in ("AWS_SECRET_ACCESS_KEY", "GOOGLE_BEARER_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY"):
        assert os.environ.get(name, "none here").encode() not in parcel
    filesystem, path = pickle.loads(parcel)
    with filesystem.open_input_file(path) as stream:
        assert stream.read() == b"x.bin"


@pytest.mark.parametrize(
    "name", ["a b+c%20=~@(1),'.jpg", "köln/猫.png", "ä\N{COMBINING DIAERESIS}.jpg", "a&b<c>;?.jpg"]
)
def test_any_name_is_taken_literally(store: str, name: str):
    put(store, name)
    assert names_in(store) == [name]
    assert storage.read_bytes(storage.join(store, name)) == name.encode()
    storage.move(storage.join(store, name), storage.join(store, f"moved {name}"))
    assert names_in(store) == [f"moved {name}"]
