"""Images are read at once, some before they are asked for, and come as if they were read one after the other."""

from collections.abc import Callable
from pathlib import Path
from threading import Barrier

import numpy as np
import pyarrow as pa
import pytest
from container_files import hf_images, parquet_of, tar_of
from PIL import Image
from waiting_store import SCHEME, waiting_store

from pipeline import storage
from pipeline.config import DecodeConfig
from pipeline.imaging.images import decode_at_working_size
from pipeline.inputs import parquet_images, reading
from pipeline.inputs.manifest import build_manifest
from pipeline.run.attempts import AttemptLog, with_attempt_limit
from pipeline.stages import rows as r
from pipeline.stages.decode import decode_stage, image_columns
from pipeline.stages.rows import start_rows

IMAGES = 64
CONFIG = DecodeConfig(max_side=64)
FAULTS = {"7": 1, "13": 2, "05": 100}
"""One request in ten fails once, one image's twice, and one's always."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(IMAGES - 2):
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(folder / f"{number:02}.jpg")
    (folder / "62.jpg").write_bytes(b"no image")
    return folder  # 63.jpg is not there


def images_of(folder: Path) -> pa.Table:
    names = [f"{number:02}.jpg" for number in range(IMAGES)]
    return start_rows(pa.table({"image_id": names, "uri": [f"{SCHEME}{folder}/{name}" for name in names]}))


def one_by_one(table: pa.Table) -> pa.Table:
    """The reference: each image is read when its turn comes."""

    def work(row: r.Row) -> None:
        data = storage.read_image(row["uri"])
        row.update(image_columns(*decode_at_working_size(data, CONFIG.max_megapixels, CONFIG.max_side)))

    return r.run_rows(table, "decode", work)


def counted(work: Callable[[pa.Table], pa.Table], table: pa.Table) -> tuple[list[r.Row], float]:
    """Rows without their seconds, and the repeated requests that the attempt log counts."""
    log = AttemptLog()
    done = with_attempt_limit(table, "decode", work, log, max_attempts=3)
    assert all(seconds > 0 for seconds in done["seconds_decode"].to_pylist())
    return done.drop_columns(["seconds_decode"]).to_pylist(), log.progress().repeated


def test_rows_errors_and_repeated_requests_are_those_of_reading_one_after_the_other(photos: Path):
    found = []
    for work in (one_by_one, lambda table: decode_stage(table, CONFIG)):
        with waiting_store(faults=FAULTS) as store:
            storage.retries(reset=True)
            found.append((counted(work, images_of(photos)), store.asked))
    assert found[0] == found[1]
    (rows, repeated), asked = found[1]
    assert [row["image_id"] for row in rows] == [f"{number:02}.jpg" for number in range(IMAGES)]
    failed = {row["image_id"]: row["error_type"] for row in rows if row["status"] == "failed"}
    assert failed == {"05.jpg": "TransientError", "62.jpg": "not_an_image", "63.jpg": "FileNotFoundError"}
    assert repeated == sum(asked.values()) - IMAGES - 1  # of 05.jpg, whose folder answers, all is tried once more
    assert storage.retries() == 0


def test_requests_are_made_at_once(photos: Path):
    """Each waits until four are there: one after the other, the first would wait for ever."""
    four = Barrier(4, timeout=60)
    with waiting_store(wait=lambda _: four.wait()):
        rows = decode_stage(images_of(photos), CONFIG).to_pylist()
    assert sum(row["status"] == "ok" for row in rows) == IMAGES - 2


def test_no_more_images_wait_than_are_read_at_once(photos: Path):
    uris = images_of(photos)["uri"].to_pylist()
    with waiting_store() as store:
        reads = reading.read_ahead(uris)
        for number, read in enumerate(reads):
            assert len(store.asked) <= number + reading.AT_ONCE
            if number < 5:
                read()
            else:
                break
        reads.close()
        begun = store.asked.total()
    assert begun <= 5 + reading.AT_ONCE


def test_a_store_that_is_away_ends_the_stage_and_asks_for_no_more_images(photos: Path):
    with waiting_store(faults={"jpg": 1000, "folder": 1}) as store, pytest.raises(storage.StoreAwayError):
        decode_stage(images_of(photos), CONFIG)
    assert len(store.asked) <= reading.AT_ONCE


def test_rows_of_a_row_group_are_read_together_in_whatever_order(photos: Path, tmp_path: Path, monkeypatch):
    files = [path.read_bytes() for path in sorted(photos.glob("*.jpg"))][: IMAGES - 2]
    (tmp_path / "x.parquet").write_bytes(parquet_of({"image": hf_images(files)}, rows_in_a_group=16))
    manifest = build_manifest(f"{tmp_path}/x.parquet", None)
    shuffled = manifest.take(np.random.default_rng(1).permutation(len(manifest)))
    opened = []
    open_file = parquet_images.open_file
    monkeypatch.setattr(parquet_images, "open_file", lambda uri: opened.append(uri) or open_file(uri))
    rows = decode_stage(start_rows(shuffled), CONFIG).to_pylist()
    assert len(opened) == 4  # row groups
    alone = [decode_stage(start_rows(shuffled.slice(i, 1)), CONFIG).to_pylist()[0] for i in range(len(shuffled))]
    for row, one in zip(rows, alone, strict=True):
        assert row | {"seconds_decode": 0} == one | {"seconds_decode": 0}
        assert row["status"] == "ok"


@pytest.mark.parametrize("name", ["x.tar", "x.parquet"])
def test_faults_within_archives_are_borne_and_counted(photos: Path, tmp_path: Path, name: str):
    files = {path.name: path.read_bytes() for path in sorted(photos.glob("*.jpg"))[:8]}
    pack = tar_of(files) if name == "x.tar" else parquet_of({"image": list(files.values())}, 4)
    (tmp_path / name).write_bytes(pack)
    manifest = build_manifest(f"{tmp_path}/{name}", None)
    uris = [f"{SCHEME}{uri}" for uri in manifest["uri"].to_pylist()]
    images = start_rows(manifest.set_column(1, "uri", [uris]))
    with waiting_store(faults={name: 2}) as store:
        storage.retries(reset=True)
        rows, repeated = counted(lambda table: decode_stage(table, CONFIG), images)
    assert [row["status"] for row in rows] == ["ok"] * 8
    assert repeated == 2
    assert store.asked[name] >= 2


def test_a_damaged_row_group_fails_its_images_and_no_others(photos: Path, tmp_path: Path):
    files = [path.read_bytes() for path in sorted(photos.glob("*.jpg"))[:8]]
    path = tmp_path / "x.parquet"
    path.write_bytes(parquet_of({"image": files}, 4, compression="none", use_dictionary=False))
    images = start_rows(build_manifest(str(path), None))
    whole = bytearray(path.read_bytes())
    whole[:300] = b"PAR1" + b"\xff" * 296  # the header of the first page
    path.write_bytes(whole)
    rows = decode_stage(images, CONFIG).to_pylist()
    assert [row["status"] for row in rows] == ["failed"] * 4 + ["ok"] * 4
    assert {row["error_type"] for row in rows[:4]} == {"OSError"}
    assert all(str(path) in row["error_message"] for row in rows[:4])
