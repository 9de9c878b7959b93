"""Images in tar files: what is listed, under which names, and that just their bytes are read."""

import gzip
import io
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from container_files import tar_of
from hypothesis import given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.errors import ManifestError
from pipeline.inputs import reading, tar_images
from pipeline.inputs.manifest import build_manifest, safe_id
from pipeline.storage.base import HIDDEN, SPECIAL

FILES = {"a.jpg": b"one", "a.json": b"{}", "cats/b.PNG": b"two" * 1000, "a.cls": b"1", "cats/c.jpg": b""}


def contents(uri: str) -> dict[str, bytes]:
    """What a manifest of this input leads to, by id."""
    table = build_manifest(uri, None)
    return {row["image_id"]: reading.read_image(row["uri"]) for row in table.to_pylist()}


def test_images_are_members_of_all_archives_of_a_pattern(store: str):
    for name, files in {"0.tar": FILES, "sub/1.tar": {"a.jpg": b"other"}, "sub/2.TAR": {"x.gif": b"g"}}.items():
        storage.write_atomic(f"{store}/shards/{name}", tar_of(files))
    left_aside: Counter[str] = Counter()
    build_manifest(f"{store}/shards/**/*.tar", None, left_aside)
    assert left_aside == {".json": 1, ".cls": 1}
    expected = {"0.tar/a.jpg": b"one", "0.tar/cats/b.PNG": b"two" * 1000, "0.tar/cats/c.jpg": b"",
                "sub/1.tar/a.jpg": b"other"}  # fmt: skip
    assert contents(f"{store}/shards/**/*.tar") == expected
    assert contents(f"{store}/shards") == expected | {"sub/2.TAR/x.gif": b"g"}  # a folder that holds nothing else
    assert contents(f"{store}/shards/sub/1.tar") == {"1.tar/a.jpg": b"other"}
    storage.write_atomic(f"{store}/shards/notes.txt", b"")
    with pytest.raises(ManifestError, match=r"holds no image.*\.tar 3.*give '.*/shards/\*\*/\*\.tar'"):
        build_manifest(f"{store}/shards", None)
    storage.write_atomic(f"{store}/shards/photo.jpg", b"photo")
    assert contents(f"{store}/shards") == {"photo.jpg": b"photo"}  # as before there were archives


def test_an_image_is_read_with_one_request_for_its_bytes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "x.tar").write_bytes(tar_of(FILES))
    (first, *_) = build_manifest(str(tmp_path / "x.tar"), None)["uri"].to_pylist()
    asked = []
    read_range = storage.read_range
    monkeypatch.setattr(storage, "read_range", lambda *place: asked.append(place) or read_range(*place))
    assert reading.read_image(first) == b"one"
    assert asked == [(str(tmp_path / "x.tar"), 512, 3)]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_all_lengths_and_scripts_in_all_formats(tmp_path: Path, form: int):
    names = ["n.jpg", f"{'long/' * 20}{'n' * 90}.jpg", "köln/猫 %.png"]
    if form != tarfile.USTAR_FORMAT:
        names.append(f"{'x' * 300}.jpg")
    (tmp_path / "x.tar").write_bytes(tar_of({name: name.encode() for name in names}, format=form))
    assert contents(str(tmp_path / "x.tar")) == {safe_id(f"x.tar/{name}"): name.encode() for name in names}


def test_an_archive_made_by_tar_gives_what_tar_unpacks(tmp_path: Path):
    """The command's own archive: `./` before every name, folders, a link, a name that comes twice."""
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(b"old")
    (folder / "deep" / "b.jpg").write_bytes(b"b" * 10_000)
    (folder / "deep" / "._b.jpg").write_bytes(b"of macOS")
    (folder / "link.jpg").symlink_to("a.jpg")
    tar = ["tar", "-C", str(folder), "-f", str(tmp_path / "x.tar")]
    subprocess.run([*tar, "-c", "."], check=True)
    (folder / "a.jpg").write_bytes(b"new one")
    subprocess.run([*tar, "-r", "./a.jpg"], check=True)
    left_aside: Counter[str] = Counter()
    build_manifest(str(tmp_path / "x.tar"), None, left_aside)
    assert left_aside == {HIDDEN: 1, SPECIAL: 1}
    assert contents(str(tmp_path / "x.tar")) == {"x.tar/a.jpg": b"new one", "x.tar/deep/b.jpg": b"b" * 10_000}


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8})?\.(jpg|txt)", fullmatch=True), st.binary(max_size=2000)))
def test_what_is_read_is_what_tarfile_reads(tmp_path_factory, files: dict[str, bytes]):
    path = tmp_path_factory.getbasetemp() / "any.tar"
    path.write_bytes(tar_of(files))
    found = {image.name: reading.read_image(image.address) for image in tar_images.members(str(path), Counter())}
    with tarfile.open(path) as tar:
        assert found == {name: tar.extractfile(name).read() for name in tar.getnames() if name.endswith(".jpg")}


@pytest.mark.parametrize("small_window", [True, False])
def test_images_after_and_before_large_ones_are_found_with_any_window(tmp_path, small_window, monkeypatch):
    monkeypatch.setattr(tar_images, "_LOCAL_WINDOW", 512 if small_window else 1 << 20)
    files = {f"{number}.jpg": bytes([number]) * (number * 7919 % 40_000) for number in range(40)}
    (tmp_path / "x.tar").write_bytes(tar_of(files))
    assert contents(str(tmp_path / "x.tar")) == {f"x.tar/{name}": content for name, content in files.items()}


WHOLE = tar_of({"a.jpg": b"a" * 700, "b.jpg": b"b" * 700})  # two blocks each, after a header: 1,536 bytes


@pytest.mark.parametrize(("data", "complaint"), [
    (gzip.compress(WHOLE), "is no tar file, or it is compressed"),
    (b"", "is no tar file.*empty"),
    (b"\xff\xd8\xff" * 1000, "is no tar file"),
    (WHOLE[:1000], r"cut off.*unexpected end of data"),
    (WHOLE[:3000], r"cut off.*unexpected end of data"),
    (WHOLE[:1536], "is cut off at byte 1536"),
    (WHOLE[:1800], "is damaged at byte 1536"),
    (WHOLE[:1536] + b"\xff" * 512 + WHOLE[2048:], "is damaged at byte 1536"),
    (tar_of({"\udcff.jpg": b"1"}, format=tarfile.GNU_FORMAT), r"the name '\\udcff.jpg' in it is not UTF-8"),
])  # fmt: skip
def test_an_archive_that_would_lose_images_is_refused_by_name(tmp_path: Path, data: bytes, complaint: str):
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(ManifestError, match=rf"(?s)x\.tar.*{complaint}"):
        build_manifest(str(tmp_path / "x.tar"), None)


def test_a_compressed_archive_is_refused_by_its_ending(tmp_path: Path):
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(WHOLE))
    with pytest.raises(ManifestError, match=r"nor a tar file \(\.tar, not compressed\); unpack it"):
        build_manifest(str(tmp_path / "x.tar.gz"), None)


def test_an_archive_that_was_cut_since_is_an_error_of_the_image(tmp_path: Path):
    (tmp_path / "x.tar").write_bytes(WHOLE)
    first, second = build_manifest(str(tmp_path / "x.tar"), None)["uri"].to_pylist()
    (tmp_path / "x.tar").write_bytes(WHOLE[:2500])
    assert reading.read_image(first) == b"a" * 700
    with pytest.raises(OSError, match=r"x\.tar ends within the image at 2048"):
        reading.read_image(second)


def test_a_folder_called_tar_is_a_folder(tmp_path: Path):
    (tmp_path / "photos.tar").mkdir()
    (tmp_path / "photos.tar" / "a.jpg").write_bytes(b"a")
    assert contents(str(tmp_path / "photos.tar")) == {"a.jpg": b"a"}


def test_a_runs_own_manifest_lists_the_same_images(tmp_path: Path):
    (tmp_path / "x.tar").write_bytes(tar_of(FILES))
    table = build_manifest(str(tmp_path / "x.tar"), None)
    storage.write_parquet(str(tmp_path / "run" / "manifest.parquet"), table)
    assert build_manifest(str(tmp_path / "run" / "manifest.parquet"), None).equals(table)


def test_sparse_members_are_left_aside(tmp_path: Path):
    """Their bytes are not one after the other in the archive."""
    with (tmp_path / "holes.jpg").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    subprocess.run(["tar", "-S", "-C", str(tmp_path), "-cf", str(tmp_path / "x.tar"), "holes.jpg"], check=True)
    left_aside: Counter[str] = Counter()
    assert tar_images.members(str(tmp_path / "x.tar"), left_aside) == []
    assert left_aside == {SPECIAL: 1}


def test_pax_records_do_not_hide_an_image(tmp_path: Path):
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("a.jpg")
        member.size, member.pax_headers = 3, {"comment": "x" * 2000, "mtime": "1.5"}
        tar.addfile(member, io.BytesIO(b"abc"))
    assert contents(str(tmp_path / "x.tar")) == {"x.tar/a.jpg": b"abc"}
