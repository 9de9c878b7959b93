"""S3 when it misbehaves: faults of the moment are tried again and counted, others are said clearly and at once."""

import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from conftest import use_s3
from s3_server import S3Server, faulty_proxy, s3_server

from pipeline import storage
from pipeline.storage import listing, retrying, s3_client, s3_environment


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
