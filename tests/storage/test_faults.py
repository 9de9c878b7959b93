"""Stores of all schemes that misbehave: faults of the moment are tried again and counted, others are said at once."""

import io
import logging
import os
import pickle
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Served, free_port, use_server
from s3_server import FAULTS, XML_FAULTS, faulty_proxy

from pipeline import storage
from pipeline.config import DecodeConfig
from pipeline.outputs.results import finished_ids
from pipeline.stages.decode import decode_stage
from pipeline.stages.rows import start_rows
from pipeline.storage import listing, retrying, s3_client

ENDPOINT = {"s3": "AWS_ENDPOINT_URL", "gs": "GOOGLE_BASE_URL", "az": "AZURE_STORAGE_ENDPOINT"}
ANOTHER = {"AWS_SECRET_ACCESS_KEY": "hush-hush-hush-hush", "AWS_SESSION_TOKEN": "token-hush-token",
           "GOOGLE_BEARER_TOKEN": "hush-hush-hush-hush",
           "AZURE_STORAGE_ACCOUNT_KEY": "aHVzaC1odXNoLWh1c2gtaHVzaA=="}  # fmt: skip


NO_ANSWER = "(Could not connect|no answer from http)"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of milliseconds."""
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(retrying, "LONGEST_WAIT", 0.05)


def be_impatient(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that take longer than 0.3 seconds are not waited for."""
    if scheme == "s3":
        monkeypatch.setattr(s3_client, "READ_SECONDS", 0.3)
        s3_client._client_for.cache_clear()
    else:
        monkeypatch.setattr("pipeline.storage.clouds_client.READ_SECONDS", 0.3)
        monkeypatch.setattr("pipeline.storage.clouds_client.WRITE_SECONDS", 0.3)


@pytest.fixture
def stranger(served: Served, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with one file, and credentials that do not fit."""
    storage.write_atomic(f"{served.folder}/x.bin", b"1")
    for name, value in ANOTHER.items():
        monkeypatch.setenv(name, value)
    return served.folder


@pytest.mark.parametrize("kind", FAULTS)
def test_every_kind_of_fault_is_survived_by_every_operation(
    kind: str, served: Served, quick: None, monkeypatch: pytest.MonkeyPatch
):
    if kind == "delay":
        be_impatient(served.scheme, monkeypatch)
    with faulty_proxy(served.server, rate=0.5, seed=1, kinds=[kind], delay=0.5) as proxy:
        use_server(proxy, monkeypatch)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "30")
        storage.retries(reset=True)
        for i in range(3):
            uri = f"{served.folder}/in/{i}.bin"
            storage.write_atomic(uri, bytes([i]) * 100_000)
            assert storage.read_bytes(uri) == bytes([i]) * 100_000
            assert storage.exists(uri)
            storage.move(uri, f"{served.folder}/out/{i}.bin")
            assert not storage.exists(uri)
        assert [file.size for file in listing.list_files(served.folder, (".bin",))] == [100_000] * 3
        storage.remove(f"{served.folder}/out/0.bin")
        storage.remove_folder(served.folder)
        assert not storage.exists(served.folder)
        assert storage.retries() > 0


@pytest.mark.parametrize("kind", XML_FAULTS)
def test_a_listing_that_says_nothing_is_asked_for_again(
    kind: str, served: Served, quick: None, monkeypatch: pytest.MonkeyPatch
):
    if (served.scheme, kind) == ("gs", "bare"):
        pytest.skip("to obstore it is an empty folder")
    for name in ("a/1.jpg", "b/2.jpg"):
        storage.write_atomic(f"{served.folder}/{name}", b"1")
    with faulty_proxy(served.server, rate=0.5, seed=1, kinds=[kind]) as proxy:
        use_server(proxy, monkeypatch)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "30")
        storage.retries(reset=True)
        for _ in range(5):
            assert [file.uri for file in listing.list_files(served.folder, (".jpg",))] == [
                f"{served.folder}/a/1.jpg", f"{served.folder}/b/2.jpg"]  # fmt: skip
        assert storage.is_folder(f"{served.folder}/a")
        assert storage.retries() >= proxy.faults[kind] > 0
    with faulty_proxy(served.server, rate=1, seed=1, kinds=[kind]) as proxy:
        use_server(proxy, monkeypatch)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
        with pytest.raises(retrying.TransientError, match="attempt 3, the last"):
            listing.list_files(served.folder, (".jpg",))


@pytest.mark.slow
def test_thousands_of_requests_with_one_in_ten_faulty_lose_nothing(
    served: Served, quick: None, monkeypatch: pytest.MonkeyPatch
):
    names = sorted(f"{served.folder}/{i % 20:02}/{i:04}.jpg" for i in range(1000))
    with faulty_proxy(served.server, rate=0.1, seed=0, delay=0.05) as proxy, ThreadPoolExecutor(16) as pool:
        use_server(proxy, monkeypatch)
        storage.retries(reset=True)
        list(pool.map(lambda uri: storage.write_atomic(uri, uri.encode() * 20), names))
        for uri, data in zip(names, pool.map(storage.read_bytes, names), strict=True):
            assert data == uri.encode() * 20
        for _ in range(10):
            assert [file.uri for file in listing.list_files(served.folder, (".jpg",))] == names
    assert sum(proxy.requests.values()) > 2000
    assert all(proxy.faults[kind] > 20 for kind in FAULTS)
    assert storage.retries() >= proxy.faults["slow_down"] + proxy.faults["reset"]


def test_a_body_that_breaks_off_is_never_returned(served: Served, quick: None, monkeypatch):
    storage.write_atomic(f"{served.folder}/x.bin", b"x" * 1_000_000)
    with faulty_proxy(served.server, rate=1, seed=0, kinds=["truncate"]) as proxy:
        use_server(proxy, monkeypatch)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
        with pytest.raises(OSError, match=r"x\.bin.*attempt 3, the last"):
            storage.read_bytes(f"{served.folder}/x.bin")
        assert proxy.requests["GET"] == 3


@pytest.mark.parametrize("kind", ["slow_down", "reset"])
def test_retries_end(kind: str, served: Served, quick: None, monkeypatch: pytest.MonkeyPatch):
    with faulty_proxy(served.server, rate=1, seed=0, kinds=[kind]) as proxy:
        use_server(proxy, monkeypatch)
        storage.retries(reset=True)
        with pytest.raises(OSError, match="attempt 10, the last"):
            storage.exists(f"{served.folder}/x.bin")
        assert proxy.requests["HEAD"] == 10
        assert storage.retries(reset=True) == 9
        assert storage.retries() == 0


def test_a_store_that_nobody_answers_for_is_asked_again(served: Served, quick: None, monkeypatch: pytest.MonkeyPatch):
    use_server(replace(served.server, endpoint=f"http://127.0.0.1:{free_port()}"), monkeypatch)
    with pytest.raises(retrying.TransientError, match=rf"{NO_ANSWER}.*attempt 10, the last"):
        storage.read_bytes(f"{served.folder}/x.bin")


def test_an_image_is_to_blame_only_where_the_store_answers_otherwise(
    served: Served, quick: None, monkeypatch: pytest.MonkeyPatch
):
    storage.write_atomic(f"{served.folder}/x.jpg", b"x")
    images = start_rows(pa.table({"image_id": ["x.jpg"], "uri": [f"{served.folder}/x.jpg"]}))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with faulty_proxy(served.server, rate=1, seed=0, kinds=["slow_down"], only="x.jpg") as proxy:
        use_server(proxy, monkeypatch)
        (row,) = decode_stage(images, DecodeConfig()).to_pylist()
    assert (row["status"], row["error_type"]) == ("failed", "TransientError")
    use_server(replace(served.server, endpoint=f"http://127.0.0.1:{free_port()}"), monkeypatch)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with pytest.raises(storage.StoreAwayError, match=NO_ANSWER):
        decode_stage(images, DecodeConfig())


def test_results_that_the_store_does_not_give_are_not_called_damaged(served: Served, monkeypatch: pytest.MonkeyPatch):
    storage.write_parquet(f"{served.folder}/results/part-0.parquet", pa.table({"image_id": ["a"]}))
    with faulty_proxy(served.server, rate=1, seed=0, kinds=["slow_down"], only=".parquet") as proxy:
        use_server(proxy, monkeypatch)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
        with pytest.raises(retrying.TransientError, match="part-0"):
            finished_ids(served.folder)


def test_what_is_not_there_is_asked_for_once(served: Served, monkeypatch: pytest.MonkeyPatch):
    nowhere = f"{served.scheme}://no-such-bucket"
    with faulty_proxy(served.server, rate=0, seed=0) as proxy:
        use_server(proxy, monkeypatch)
        storage.retries(reset=True)
        for missing in (f"{served.folder}/absent.bin", f"{nowhere}/absent.bin"):
            with pytest.raises(FileNotFoundError, match="absent"):
                storage.read_bytes(missing)
            assert not storage.exists(missing)
        with pytest.raises(FileNotFoundError, match="no-such-bucket"):
            listing.list_files(nowhere, (".jpg",))
        with pytest.raises(FileNotFoundError):
            storage.write_atomic(f"{nowhere}/x.bin", b"1")
        assert proxy.requests["PUT"] == 1
    assert storage.retries() == 0


def test_wrong_credentials_are_a_permission_error_at_once(stranger: str):
    storage.retries(reset=True)
    calls = [
        lambda: storage.read_bytes(f"{stranger}/x.bin"),
        lambda: storage.write_atomic(f"{stranger}/y.bin", b"1"),
        lambda: listing.list_files(stranger, (".bin",)),
        lambda: storage.exists(f"{stranger}/x.bin"),
        lambda: storage.remove(f"{stranger}/x.bin"),
        lambda: storage.move(f"{stranger}/x.bin", f"{stranger}/y.bin"),
    ]
    for call in calls:
        with pytest.raises(PermissionError, match="://bucket"):
            call()
    images = start_rows(pa.table({"image_id": ["x.bin"], "uri": [f"{stranger}/x.bin"]}))
    with pytest.raises(storage.StoreAwayError):  # credentials that expire must not fail every later image
        decode_stage(images, DecodeConfig())
    assert storage.retries() == 0


def test_errors_and_logs_hold_no_secret(
    stranger: str, served: Served, quick: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    secrets = [*ANOTHER.values(), os.environ.get("AWS_ACCESS_KEY_ID", "none here")]

    def go_to(address: str) -> None:
        monkeypatch.setenv(
            ENDPOINT[served.scheme], replace(served.server, endpoint=address).environment[ENDPOINT[served.scheme]]
        )

    caplog.set_level(logging.INFO)
    said = []
    with faulty_proxy(served.server, rate=0.5, seed=0) as proxy:
        go_to(proxy.endpoint.replace("://", "://me:hush-endpoint@"))
        for call in (storage.read_bytes, storage.exists, storage.remove, lambda uri: storage.write_atomic(uri, b"1")):
            with pytest.raises(OSError, match="://bucket") as caught:
                call(f"{stranger}/x.bin")
            said.append("".join(traceback.format_exception(caught.value)))
            assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    go_to("http://me:hush-endpoint@127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with pytest.raises(OSError, match=r"127\.0\.0\.1:9") as caught:
        storage.read_bytes(f"{stranger}/x.bin")
    said += ["".join(traceback.format_exception(caught.value)), caplog.text]
    for secret in [*secrets, "hush-endpoint"]:
        assert not any(secret in text for text in said), secret


def test_more_than_a_page_of_keys_is_listed(served: Served, monkeypatch: pytest.MonkeyPatch):
    flat = 1001
    if served.scheme != "s3":  # their servers here have larger pages
        monkeypatch.setattr("pipeline.storage.clouds._KEYS", 50)
        flat = 101
    names = [f"{served.folder}/{'flat' if i < flat else f'deep/{i % 3}'}/{i:04}.jpg" for i in range(flat + 4)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda uri: storage.write_atomic(uri, b"1"), names))
    assert [file.uri for file in listing.list_files(served.folder, (".jpg",))] == sorted(names)
    assert len(listing.list_files(f"{served.folder}/flat/00*.jpg", (".jpg",))) == 100
    storage.remove_folder(served.folder)
    assert not storage.exists(served.folder)


def test_parquet_is_read_in_parts_through_faults(served: Served, quick: None, monkeypatch: pytest.MonkeyPatch):
    pq.write_table(table := pa.table({"x": list(range(50_000))}), buffer := io.BytesIO(), row_group_size=5_000)
    storage.write_atomic(f"{served.folder}/x.parquet", buffer.getvalue())
    with faulty_proxy(served.server, rate=0.2, seed=0, delay=0.05) as proxy:
        use_server(proxy, monkeypatch)
        filesystem, path = storage.resolve(f"{served.folder}/x.parquet")
        for _ in range(10):
            with filesystem.open_input_file(path) as stream:
                assert pq.ParquetFile(stream).read() == table
    assert proxy.faults.total() > 0
