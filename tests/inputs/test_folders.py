"""Folders as input: every file in them is a row or counted as left aside, whatever links and rights there are."""

import os
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from privileges import file_modes_hold

from pipeline import storage
from pipeline.errors import ManifestError
from pipeline.inputs.manifest import build_manifest, describe
from pipeline.storage import listing, local


def make(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def listed(uri: object) -> tuple[list[str], Counter[str]]:
    left_aside: Counter[str] = Counter()
    return build_manifest(str(uri), None, left_aside)["image_id"].to_pylist(), left_aside


def test_a_folder_that_may_not_be_read_is_refused_by_name(tmp_path: Path):
    make(tmp_path, "open/a.bmp", "closed/b.bmp")
    (tmp_path / "closed").chmod(0)
    try:
        with file_modes_hold(), pytest.raises(ManifestError, match=r"Permission denied: '.*/closed'; make it readable"):
            build_manifest(str(tmp_path), None)
        with file_modes_hold():  # what the pattern leaves out is not looked at
            assert listed(tmp_path / "op*/*")[0] == ["open/a.bmp"]
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert listed(tmp_path)[0] == ["closed/b.bmp", "open/a.bmp"]


def test_a_hidden_folder_that_may_not_be_read_harms_nobody(tmp_path: Path):
    make(tmp_path, "a.bmp", ".Trash-0/b.bmp")
    (tmp_path / ".Trash-0").chmod(0)
    try:
        with file_modes_hold():
            assert listed(tmp_path) == (["a.bmp"], Counter({"hidden": 1}))
    finally:
        (tmp_path / ".Trash-0").chmod(0o700)


def test_a_link_into_a_folder_that_may_not_be_read(tmp_path: Path):
    make(tmp_path, "in/a.bmp", "closed/b.bmp", "closed/more/c.bmp")
    (tmp_path / "in/b.bmp").symlink_to(tmp_path / "closed/b.bmp")
    (tmp_path / "closed").chmod(0)
    try:
        with file_modes_hold():
            assert listed(tmp_path / "in")[0] == ["a.bmp", "b.bmp"]
            (tmp_path / "in/more").symlink_to(tmp_path / "closed/more")
            with pytest.raises(ManifestError, match=r"Permission denied: '.*/in/more'"):
                build_manifest(str(tmp_path / "in"), None)
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_a_folder_that_goes_away_in_the_middle_of_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local, "_BATCH", 1)
    make(tmp_path, "a.jpg", "b/c/d.jpg")
    batches = listing.list_batches(str(tmp_path), (".jpg",))
    assert next(batches)["uri"].to_pylist() == [f"{tmp_path}/a.jpg"]
    (tmp_path / "b").rename(tmp_path.parent / f"{tmp_path.name}-moved")
    with pytest.raises(FileNotFoundError, match="/b"):
        list(batches)


def test_links_to_nowhere_are_rows_that_cannot_be_read(tmp_path: Path):
    make(tmp_path, "ok.bmp")
    (tmp_path / "dangling.jpg").symlink_to("/gone/x.jpg")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "drive").symlink_to("/gone/drive")
    ids, left_aside = listed(tmp_path)
    assert ids == ["dangling.jpg", "ok.bmp", "self.jpg"]
    assert left_aside == {"links to nowhere": 1}
    for name in ("dangling.jpg", "self.jpg"):
        with pytest.raises(OSError, match=name) as caught:
            storage.read_image(f"{tmp_path}/{name}")
        assert not isinstance(caught.value, storage.StoreAwayError)


def test_a_pipe_is_left_aside_and_reading_it_does_not_wait(tmp_path: Path):
    make(tmp_path, "ok.bmp")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert listed(tmp_path) == (["ok.bmp"], Counter({"pipes, sockets or devices": 1}))
    with pytest.raises(OSError, match=r"pipe\.jpg"):
        storage.read_image(f"{tmp_path}/pipe.jpg")


def test_folders_that_link_to_each_other_are_listed_once(tmp_path: Path):
    make(tmp_path, "L/a/one.bmp", "L/b/two.bmp", "L3/a/a.bmp", "L3/b/b.bmp", "L3/c/c.bmp", "L2/real/sub/one.bmp")
    (tmp_path / "L2/view").mkdir()
    links = {"L/a/tob": "../b", "L/b/toa": "../a", "L2/view/r": "../real", "L2/real/sub/back": "../../view"}
    links |= {f"L3/{x}/to_{y}": f"../{y}" for x in "abc" for y in "abc" if x != y}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    again = "links to a folder that is listed already or lies above"
    assert listed(tmp_path / "L") == (["a/one.bmp", "b/two.bmp"], Counter({again: 2}))
    assert listed(tmp_path / "L3") == (["a/a.bmp", "b/b.bmp", "c/c.bmp"], Counter({again: 6}))
    assert listed(tmp_path / "L2") == (["real/sub/one.bmp"], Counter({again: 2}))
    assert listed(tmp_path / "L2/view") == (["r/sub/one.bmp"], Counter({again: 1}))
    assert len(listed(tmp_path)[0]) == 6


def test_a_folder_outside_is_listed_under_the_first_of_its_links(tmp_path: Path):
    make(tmp_path, "in/x.jpg", "far/deep/y.jpg")
    for name, target in {"z": "far", "m": "far/deep", "up": ""}.items():
        (tmp_path / "in" / name).symlink_to(tmp_path / target)
    ids, left_aside = listed(tmp_path / "in")
    assert ids == ["m/y.jpg", "x.jpg"]
    assert left_aside.total() == 2  # far/deep, met again below z, and up


def test_what_a_run_wrote_is_no_input(store: str):
    for name in ("a.bmp", "masks/truth.png", "out/b.png", "out/masks/a.bmp.png", "out/panels/a.bmp.png",
                 "out/results/part-0.parquet", "out/run/config.json", "out/run/evaluation.png", "deep/er/masks/x.png",
                 "deep/er/run/config.json"):  # fmt: skip
        storage.write_atomic(f"{store}/{name}", b"1")
    ids, left_aside = listed(store)
    assert ids == ["a.bmp", "masks/truth.png", "out/b.png"]
    assert set(left_aside) == {"of a run's output"}
    assert listed(f"{store}/**/*.png")[0] == ["masks/truth.png", "out/b.png"]
    assert listed(f"{store}/out/masks")[0] == ["a.bmp.png"]  # asked for by name


def test_other_endings_are_counted_and_named(store: str):
    names = ["a.jpg", "c.jfif", "f.jpe", "g.heic", "h.HEIC", "e.jp2", "d", "x.y z", "._a.jpg", ".DS_Store", "s/_h.png"]
    for name in names:
        storage.write_atomic(f"{store}/{name}", b"1")
    ids, left_aside = listed(store)
    assert ids == ["a.jpg", "c.jfif", "f.jpe"]
    assert left_aside == {".heic": 2, ".jp2": 1, "no ending": 2, "hidden": 3}
    assert describe(left_aside) == (
        "5 files of other endings were left aside (.heic 2, no ending 2, .jp2 1); left aside, too: 3 hidden"
    )
    assert listed(f"{store}/*.jpg")[1] == {"hidden": 2}
    with pytest.raises(ManifestError, match=r"holds no image.*1 file of another ending was left aside \(\.jp2 1\)"):
        build_manifest(f"{store}/e*", None)
    with pytest.raises(ManifestError, match=r"holds no image.*no name fits the pattern"):
        build_manifest(f"{store}/none*", None)


NAMES = st.sampled_from(
    ["a.jpg", "B.JPG", "c.heic", "none", ".h.png", "_x.png", "._a.jpg", "\N{LATIN SMALL LETTER E WITH ACUTE}.png",
     "e\N{COMBINING ACUTE ACCENT}.png", "x.jfif", "d.tar.gz", "w w.webp", "q?*.png", "new\nline.png", "sub", "masks",
     "\udcff.txt", "\udcff", "x.jpg.", "Thumbs.db"]
)  # fmt: skip
ENTRY = st.tuples(
    st.lists(NAMES, min_size=1, max_size=3),
    st.sampled_from(["file", "file", "folder", "closed", "nowhere", "link", "link", "far", "pipe"]),
)
HIDDEN_FIND = ["(", "-name", ".*", "-o", "-name", "_*", ")", "-prune"]


def find(folder: Path, *what: str) -> list[str]:
    command = ["find", folder, "-mindepth", "1", *what]
    return [os.fsdecode(name) for name in subprocess.run(command, check=True, capture_output=True).stdout.split(b"\0")][
        :-1
    ]


def count_by_find(folder: Path) -> int:
    """Entries that are no folders, and hidden ones, with nothing below them counted."""
    return len(find(folder, *HIDDEN_FIND, "-print0", "-o", "!", "-type", "d", "-print0"))


def visible_links(folder: Path) -> set[str]:
    """Where the links lead that are not hidden."""
    return {os.path.realpath(name) for name in find(folder, *HIDDEN_FIND, "-o", "-type", "l", "-print0")}


def plant(root: Path, entries: list[tuple[list[str], str]]) -> list[Path]:
    """Make a tree of what can be made; returns the folders that may not be read and whose names do not hide them."""
    closed, places = [], [root]
    for number, (names, kind) in enumerate(entries):
        path = root.joinpath(*names)
        no_utf8 = any("\udcff" in name for name in names)  # refused where an image has it
        if os.path.lexists(path) or (no_utf8 and (kind != "file" or len(names) > 1)):
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "file":
                path.write_bytes(b"1")
            elif kind in ("folder", "closed"):
                path.mkdir()
                if not any(name.startswith((".", "_")) for name in names):
                    places.append(path)
                    closed += [path] * (kind == "closed")
            elif kind == "pipe":
                os.mkfifo(path)
            else:
                target = {"nowhere": "/gone/x", "far": root.with_name("far")}.get(kind, places[number % len(places)])
                path.symlink_to(target)
        except OSError:  # one of the names is taken by something else
            continue
    return closed


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ENTRY, max_size=14))
def test_rows_errors_and_what_is_left_aside_are_all_that_find_counts(entries: list[tuple[list[str], str]]):
    with tempfile.TemporaryDirectory() as temporary:
        root, far, farther = (Path(temporary).resolve() / name for name in ("in", "far", "farther"))
        make(root, "first.jpg")
        make(far, "y.jpg", "y.txt", "deep/z.png")
        make(farther, "w.png")
        for name, target in {"back": root, "on": farther, "self": far}.items():
            (far / name).symlink_to(target)
        closed = [path for path in plant(root, entries) if os.path.realpath(path) == str(path)]
        if closed:
            for path in closed:
                path.chmod(0)
            try:
                with file_modes_hold(), pytest.raises(ManifestError, match="Permission denied") as caught:
                    build_manifest(str(root), None)
                assert isinstance(caught.value.__cause__, PermissionError)
                assert Path(caught.value.__cause__.filename) in closed
            finally:
                for path in closed:
                    path.chmod(0o700)
        left_aside: Counter[str] = Counter()
        uris = build_manifest(str(root), None, left_aside)["uri"].to_pylist()
        expected = count_by_find(root)
        if str(far) in visible_links(root):  # followed: what lies there counts, and not the link itself, nor that on
            expected += count_by_find(far) - 1 + count_by_find(farther) - 1
        assert len(uris) + left_aside.total() == expected
        assert len(set(uris)) == len(uris)
        for uri in uris:
            assert storage.read_bytes(uri) if Path(uri).exists() else Path(uri).is_symlink()
