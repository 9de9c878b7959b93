"""S3 when it misbehaves: faults of the moment are tried again and counted, others are said clearly and at once."""

import io
import logging
import os
import pickle
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError
from conftest import free_port, use_s3
from s3_server import FAULTS, XML_FAULTS, S3Server, faulty_proxy, s3_server

from pipeline import storage
from pipeline.config import DecodeConfig
from pipeline.outputs.results import finished_ids
from pipeline.stages.decode import decode_stage
from pipeline.stages.rows import start_rows
from pipeline.storage import listing, retrying, s3_client, s3_environment


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of milliseconds, and a short patience."""
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(retrying, "LONGEST_WAIT", 0.05)
    monkeypatch.setattr(s3_client, "READ_SECONDS", 0.3)
    s3_client._client_for.cache_clear()


@pytest.fixture
def stranger(s3: S3Server, s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder with one file, and credentials that do not fit."""
    storage.write_atomic(f"{s3_folder}/x.bin", b"1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush-hush-hush")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token-hush-token")
    return s3_folder


@pytest.mark.parametrize("kind", FAULTS)
def test_every_kind_of_fault_is_survived_by_every_operation(
    kind: str, s3: S3Server, s3_folder: str, quick: None, monkeypatch: pytest.MonkeyPatch
):
    with faulty_proxy(s3, rate=0.5, seed=1, kinds=[kind], delay=0.5 if kind == "delay" else 0) as proxy:
        use_s3(proxy, monkeypatch)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "30")
        storage.retries(reset=True)
        for i in range(3):
            uri = f"{s3_folder}/in/{i}.bin"
            storage.write_atomic(uri, bytes([i]) * 100_000)
            assert storage.read_bytes(uri) == bytes([i]) * 100_000
            assert storage.exists(uri)
            storage.move(uri, f"{s3_folder}/out/{i}.bin")
            assert not storage.exists(uri)
        assert [file.size for file in listing.list_files(s3_folder, (".bin",))] == [100_000] * 3
        storage.remove(f"{s3_folder}/out/0.bin")
        storage.remove_folder(s3_folder)
        assert not storage.exists(s3_folder)
        assert storage.retries() > 0


@pytest.mark.parametrize("refusal", [pytest.param("batch_md5", marks=pytest.mark.slow), "batch_501", "copy_501"])
def test_a_store_that_knows_single_objects_only_can_do_everything(
    refusal: str, s3: S3Server, s3_folder: str, monkeypatch: pytest.MonkeyPatch
):
    names = [
        f"{s3_folder}/run/{i % 3}/{i}.bin" for i in range(12 if refusal == "copy_501" else 1005)
    ]  # more than a batch
    with faulty_proxy(s3, rate=0, seed=0, refuse=[refusal]) as proxy, ThreadPoolExecutor(16) as pool:
        use_s3(proxy, monkeypatch)
        storage.retries(reset=True)
        list(pool.map(lambda uri: storage.write_atomic(uri, uri.encode()), names))
        storage.write_atomic(f"{s3_folder}/run-2/x.bin", b"1")
        storage.move(names[0], f"{s3_folder}/run-2/moved.bin")
        assert not storage.exists(names[0])
        assert storage.read_bytes(f"{s3_folder}/run-2/moved.bin") == names[0].encode()
        with pytest.raises(FileNotFoundError):
            storage.move(f"{s3_folder}/absent", f"{s3_folder}/run-2/target")
        storage.remove_folder(f"{s3_folder}/run")
        left = [file.uri for file in listing.list_files(s3_folder, (".bin",))]
        assert proxy.faults[refusal] <= 2  # asked once for each folder, not for each page
    assert left == [f"{s3_folder}/run-2/moved.bin", f"{s3_folder}/run-2/x.bin"]
    assert storage.retries(reset=True) == 0


@pytest.mark.parametrize("kind", XML_FAULTS)
def test_a_listing_that_says_nothing_is_asked_for_again(
    kind: str, s3: S3Server, s3_folder: str, quick: None, monkeypatch: pytest.MonkeyPatch
):
    for name in ("a/1.jpg", "b/2.jpg"):
        storage.write_atomic(f"{s3_folder}/{name}", b"1")
    with faulty_proxy(s3, rate=0.5, seed=1, kinds=[kind]) as proxy:
        use_s3(proxy, monkeypatch)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "30")
        storage.retries(reset=True)
        for _ in range(5):
            assert [file.uri for file in listing.list_files(s3_folder, (".jpg",))] == [
                f"{s3_folder}/a/1.jpg", f"{s3_folder}/b/2.jpg"]  # fmt: skip
        assert storage.is_folder(f"{s3_folder}/a")
        assert storage.retries() >= proxy.faults[kind] > 0
    with faulty_proxy(s3, rate=1, seed=1, kinds=[kind]) as proxy:
        use_s3(proxy, monkeypatch)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
        with pytest.raises(retrying.TransientError, match="attempt 3, the last"):
            listing.list_files(s3_folder, (".jpg",))


@pytest.mark.parametrize(("code", "status", "kind", "away", "said"), [
    ("AccessDenied", 403, PermissionError, False, "no right to it"),
    ("InvalidObjectState", 403, PermissionError, False, "archived: restore it first"),
    ("RequestTimeTooSkewed", 403, PermissionError, True, "this machine's clock is wrong"),
    ("ExpiredToken", 400, PermissionError, True, "ExpiredToken"),
    ("PermanentRedirect", 301, OSError, False, "another region; set AWS_REGION"),
    ("AuthorizationHeaderMalformed", 400, OSError, False, "another region; set AWS_REGION"),
    ("SlowDown", 503, retrying.TransientError, False, "SlowDown"),
    ("NoSuchKey", 404, FileNotFoundError, False, "NoSuchKey"),
])  # fmt: skip
def test_refusals_name_their_cause_and_what_is_no_objects_fault_ends_the_work(
    monkeypatch: pytest.MonkeyPatch, code: str, status: int, kind: type[OSError], away: bool, said: str
):
    monkeypatch.delenv("AWS_REQUEST_PAYER", raising=False)
    refusal = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = s3_client._translated(ClientError(refusal, "GetObject"), "s3://bucket/x.jpg")
    assert isinstance(error, kind)
    assert isinstance(error, retrying.StoreAwayError) is away
    assert said in str(error)
    assert ("readers pay" in str(error)) is (code == "AccessDenied")


def test_the_payer_of_requests_is_said_if_the_user_says_it(
    s3: S3Server, s3_folder: str, monkeypatch: pytest.MonkeyPatch
):
    said = []
    s3_client._client_for.cache_clear()
    for payer in ("", "requester"):
        monkeypatch.setenv("AWS_REQUEST_PAYER", payer)
        events = s3_client._client().meta.events
        events.register("before-send.s3", lambda request, **_: said.append(request.headers.get("x-amz-request-payer")))
        storage.write_atomic(f"{s3_folder}/x.bin", b"1")
        assert storage.read_bytes(f"{s3_folder}/x.bin") == b"1"
        assert len(listing.list_files(s3_folder, (".bin",))) == 1
        said.append("next")
    first, second = said[: said.index("next")], said[said.index("next") + 1 : -1]
    assert set(first) == {None}
    assert set(second) == {b"requester"}
    refusal = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
    monkeypatch.delenv("AWS_REQUEST_PAYER")
    error = s3_client._translated(ClientError(refusal, "GetObject"), "s3://bucket/x")
    assert isinstance(error, PermissionError)
    assert "AWS_REQUEST_PAYER=requester" in str(error)


def test_an_error_of_arrow_is_not_its_own_cause():
    def fail() -> None:
        raise OSError("no such device")

    with pytest.raises(OSError, match="no such device") as caught:
        retrying.retrying_arrow(fail)
    assert caught.value.__cause__ is None


def test_a_store_that_is_not_there_is_reported_soon_at_first_contact(monkeypatch: pytest.MonkeyPatch):
    """A wrong address; later in a run the same store would be waited for."""
    for name, value in {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a",
                        "AWS_SECRET_ACCESS_KEY": "b"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(retrying, "FIRST_CONTACT", 0.3)
    storage.retries(reset=True)
    with storage.first_contact(), pytest.raises(OSError, match="connect"):
        storage.exists("s3://bucket/x")
    assert storage.retries(reset=True) < retrying.MAX_ATTEMPTS - 1
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.001)
    with pytest.raises(OSError, match="attempt 10, the last"):
        storage.exists("s3://bucket/x")


@pytest.mark.slow
def test_thousands_of_requests_with_one_in_ten_faulty_lose_nothing(
    s3: S3Server, s3_folder: str, quick: None, monkeypatch: pytest.MonkeyPatch
):
    names = sorted(f"{s3_folder}/{i % 20:02}/{i:04}.jpg" for i in range(1000))
    with faulty_proxy(s3, rate=0.1, seed=0, delay=0.05) as proxy, ThreadPoolExecutor(16) as pool:
        use_s3(proxy, monkeypatch)
        storage.retries(reset=True)
        list(pool.map(lambda uri: storage.write_atomic(uri, uri.encode() * 20), names))
        for uri, data in zip(names, pool.map(storage.read_bytes, names), strict=True):
            assert data == uri.encode() * 20
        for _ in range(10):
            assert [file.uri for file in listing.list_files(s3_folder, (".jpg",))] == names
    assert sum(proxy.requests.values()) > 2000
    assert all(proxy.faults[kind] > 20 for kind in FAULTS)
    assert storage.retries() >= proxy.faults["slow_down"] + proxy.faults["reset"]


def test_a_body_that_breaks_off_is_never_returned(s3: S3Server, s3_folder: str, quick: None, monkeypatch):
    storage.write_atomic(f"{s3_folder}/x.bin", b"x" * 1_000_000)
    with faulty_proxy(s3, rate=1, seed=0, kinds=["truncate"]) as proxy:
        use_s3(proxy, monkeypatch)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
        with pytest.raises(OSError, match=r"x\.bin.*attempt 3, the last"):
            storage.read_bytes(f"{s3_folder}/x.bin")
        assert proxy.requests["GET"] == 3


@pytest.mark.parametrize("kind", ["slow_down", "reset"])
def test_retries_end(kind: str, s3: S3Server, s3_folder: str, quick: None, monkeypatch: pytest.MonkeyPatch):
    with faulty_proxy(s3, rate=1, seed=0, kinds=[kind]) as proxy:
        use_s3(proxy, monkeypatch)
        storage.retries(reset=True)
        with pytest.raises(OSError, match="attempt 10, the last"):
            storage.exists(f"{s3_folder}/x.bin")
        assert proxy.requests["HEAD"] == 10
        assert storage.retries(reset=True) == 9
        assert storage.retries() == 0


def test_a_store_that_nobody_answers_for_is_asked_again(s3_folder: str, quick: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(retrying.TransientError, match=r"Could not connect.*attempt 10, the last"):
        storage.read_bytes(f"{s3_folder}/x.bin")


def test_an_image_is_to_blame_only_where_the_store_answers_otherwise(
    s3: S3Server, s3_folder: str, quick: None, monkeypatch: pytest.MonkeyPatch
):
    storage.write_atomic(f"{s3_folder}/x.jpg", b"x")
    images = start_rows(pa.table({"image_id": ["x.jpg"], "uri": [f"{s3_folder}/x.jpg"]}))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with faulty_proxy(s3, rate=1, seed=0, kinds=["slow_down"], only="x.jpg") as proxy:
        use_s3(proxy, monkeypatch)
        (row,) = decode_stage(images, DecodeConfig()).to_pylist()
    assert (row["status"], row["error_type"]) == ("failed", "TransientError")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(storage.StoreAwayError, match="Could not connect"):
        decode_stage(images, DecodeConfig())


def test_results_that_the_store_does_not_give_are_not_called_damaged(
    s3: S3Server, s3_folder: str, monkeypatch: pytest.MonkeyPatch
):
    storage.write_parquet(f"{s3_folder}/results/part-0.parquet", pa.table({"image_id": ["a"]}))
    with faulty_proxy(s3, rate=1, seed=0, kinds=["slow_down"], only=".parquet") as proxy:
        use_s3(proxy, monkeypatch)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
        with pytest.raises(retrying.TransientError, match="part-0"):
            finished_ids(s3_folder)


def test_what_is_not_there_is_asked_for_once(s3: S3Server, s3_folder: str, monkeypatch: pytest.MonkeyPatch):
    with faulty_proxy(s3, rate=0, seed=0) as proxy:
        use_s3(proxy, monkeypatch)
        storage.retries(reset=True)
        for missing in (f"{s3_folder}/absent.bin", "s3://no-such-bucket/absent.bin"):
            with pytest.raises(FileNotFoundError, match="absent"):
                storage.read_bytes(missing)
            assert not storage.exists(missing)
        with pytest.raises(FileNotFoundError, match="no-such-bucket"):
            listing.list_files("s3://no-such-bucket", (".jpg",))
        with pytest.raises(FileNotFoundError):
            storage.write_atomic("s3://no-such-bucket/x.bin", b"1")
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
        with pytest.raises(PermissionError, match="s3://bucket"):
            call()
    images = start_rows(pa.table({"image_id": ["x.bin"], "uri": [f"{stranger}/x.bin"]}))
    with pytest.raises(storage.StoreAwayError):  # credentials that expire must not fail every later image
        decode_stage(images, DecodeConfig())
    assert storage.retries() == 0


def test_no_credentials_says_what_to_set(s3_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(PermissionError, match="AWS_NO_SIGN_REQUEST=YES"):
        storage.read_bytes(f"{s3_folder}/x.bin")
    monkeypatch.setenv("AWS_PROFILE", "absent")
    with pytest.raises(PermissionError, match="absent"):
        storage.read_bytes(f"{s3_folder}/x.bin")


def test_a_profile_gives_credentials(s3: S3Server, s3_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    storage.write_atomic(f"{s3_folder}/x.bin", b"1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    keys = f"aws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}\n"
    (tmp_path / "credentials").write_text(f"[photos]\n{keys}")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "photos")
    assert storage.read_bytes(f"{s3_folder}/x.bin") == b"1"
    filesystem, path = storage.resolve(f"{s3_folder}/x.bin")
    assert filesystem.get_file_info(path).size == 1


def test_a_public_bucket_needs_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "x.bin").write_bytes(b"1")
    with s3_server(tmp_path, anonymous=True) as server:
        use_s3(server, monkeypatch)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
        assert storage.read_bytes("s3://bucket/x.bin") == b"1"
        assert [file.uri for file in listing.list_files("s3://bucket", (".bin",))] == ["s3://bucket/x.bin"]
        filesystem, path = storage.resolve("s3://bucket/x.bin")
        assert filesystem.get_file_info(path).size == 1


def test_errors_and_logs_hold_no_secret(
    stranger: str, s3: S3Server, quick: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    secrets = [os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")]
    caplog.set_level(logging.INFO)
    said = []
    with faulty_proxy(s3, rate=0.5, seed=0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint.replace("://", "://me:hush-endpoint@"))
        for call in (storage.read_bytes, storage.exists, storage.remove, lambda uri: storage.write_atomic(uri, b"1")):
            with pytest.raises(OSError, match="s3://bucket") as caught:
                call(f"{stranger}/x.bin")
            said.append("".join(traceback.format_exception(caught.value)))
            assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:hush-endpoint@127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with pytest.raises(OSError, match=r"127\.0\.0\.1:9") as caught:
        storage.read_bytes(f"{stranger}/x.bin")
    said += ["".join(traceback.format_exception(caught.value)), caplog.text]
    for secret in [*secrets, "hush-endpoint"]:
        assert not any(secret in text for text in said), secret


def test_more_than_a_page_of_keys_is_listed(s3_folder: str):
    names = [f"{s3_folder}/{'flat' if i < 1001 else f'deep/{i % 3}'}/{i:04}.jpg" for i in range(1005)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda uri: storage.write_atomic(uri, b"1"), names))
    assert [file.uri for file in listing.list_files(s3_folder, (".jpg",))] == sorted(names)
    assert len(listing.list_files(f"{s3_folder}/flat/00*.jpg", (".jpg",))) == 100
    storage.remove_folder(s3_folder)
    assert not storage.exists(s3_folder)


def test_a_pattern_lists_no_more_than_it_must(s3: S3Server, s3_folder: str, monkeypatch: pytest.MonkeyPatch):
    for year in (2006, 2007, 2008):
        storage.write_atomic(f"{s3_folder}/{year}_01/x.jpg", b"1")
    with faulty_proxy(s3, rate=0, seed=0) as proxy:
        use_s3(proxy, monkeypatch)
        files = listing.list_files(f"{s3_folder}/2007*/x.jpg", (".jpg",))
    assert [file.uri for file in files] == [f"{s3_folder}/2007_01/x.jpg"]
    assert proxy.requests["GET"] <= 4


def test_what_goes_with_an_endpoint_is_set_unless_the_user_did():
    other = s3_environment.defaults({"AWS_ENDPOINT_URL": "https://minio.example:9000"})
    assert other == {
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    mine = {"AWS_ENDPOINT_URL_S3": "https://minio.example", "AWS_REQUEST_CHECKSUM_CALCULATION": "when_supported"}
    assert "AWS_REQUEST_CHECKSUM_CALCULATION" not in s3_environment.defaults(mine)
    aws = s3_environment.defaults({"AWS_ENDPOINT_URL": "https://s3.eu-central-1.amazonaws.com"})
    assert aws == {"AWS_EC2_METADATA_DISABLED": "true"}
    assert s3_environment.defaults({}) == {}


def test_workers_get_the_users_variables_and_none_of_the_machines(s3: S3Server, monkeypatch: pytest.MonkeyPatch):
    use_s3(s3, monkeypatch)
    monkeypatch.setenv("AWS_PROFILE", "photos")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/here/only")
    environment = storage.worker_environment()
    assert environment.items() > s3.environment.items()
    assert environment["AWS_PROFILE"] == "photos"
    assert environment["AWS_REQUEST_CHECKSUM_CALCULATION"] == "when_required"
    assert "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI" not in environment


def test_server_and_proxy_end_with_their_process(tmp_path: Path):
    program = (
        "import os, sys\nfrom s3_server import faulty_proxy, s3_server\n"
        "with s3_server(sys.argv[1]) as server, faulty_proxy(server, rate=0.1, seed=0) as proxy:\n"
        "    print(server.endpoint, proxy.endpoint, flush=True)\n    os._exit(1)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert run.returncode == 1, run.stderr
    for endpoint in run.stdout.split():
        deadline = time.monotonic() + 600  # only one that stays needs them
        while _answers(int(endpoint.rpartition(":")[2])):
            assert time.monotonic() < deadline, f"{endpoint} still answers"
            time.sleep(0.05)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_parquet_is_read_in_parts_through_faults(s3: S3Server, s3_folder: str, monkeypatch: pytest.MonkeyPatch):
    pq.write_table(table := pa.table({"x": list(range(50_000))}), buffer := io.BytesIO(), row_group_size=5_000)
    storage.write_atomic(f"{s3_folder}/x.parquet", buffer.getvalue())
    with faulty_proxy(s3, rate=0.2, seed=0, delay=0.05) as proxy:
        use_s3(proxy, monkeypatch)
        filesystem, path = storage.resolve(f"{s3_folder}/x.parquet")
        for _ in range(10):
            with filesystem.open_input_file(path) as stream:
                assert pq.ParquetFile(stream).read() == table
    assert proxy.faults.total() > 0
