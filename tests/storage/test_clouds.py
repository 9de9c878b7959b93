"""What Google's and Azure's stores alone do: names, settings, and one clear line for what is wrong with them."""

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Served, use_server
from hypothesis import given
from hypothesis import strategies as st
from object_servers import GcsServer, object_of_any_name

from pipeline import storage
from pipeline.errors import StorageError
from pipeline.storage import listing, retrying, stores
from pipeline.storage.clouds_environment import CLOUDS

ENDPOINT = {"gs": "GOOGLE_BASE_URL", "az": "AZURE_STORAGE_ENDPOINT"}
KEY = {"gs": "GOOGLE_BEARER_TOKEN", "az": "AZURE_STORAGE_ACCOUNT_KEY"}


@pytest.fixture(params=["gs", "az"])
def served(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Served:
    """Either, with a home folder without credentials."""
    server = request.getfixturevalue(request.param)
    use_server(server, monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    return Served(request.param, server, f"{request.param}://bucket/{tmp_path.name}")


def test_no_credentials_says_what_to_set(served: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(KEY[served.scheme])
    with pytest.raises(PermissionError, match=r"no credentials; set .*_SKIP_SIGNATURE=true") as caught:
        storage.read_bytes(f"{served.folder}/x.bin")
    assert isinstance(caught.value, storage.StoreAwayError)


def test_credentials_that_are_not_accepted_are_said(served: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(KEY[served.scheme], "aHVzaC1odXNoLWh1c2gtaHVzaA==")
    for call in (storage.exists, storage.read_bytes, storage.is_folder):
        with pytest.raises(PermissionError, match="credentials are not accepted"):
            call(f"{served.folder}/x.bin")


@pytest.mark.parametrize(("answer", "kind"), [
    ("Server returned non-2xx status code: 403 Forbidden: not here", storage.StoreAwayError),
    ("Server returned non-2xx status code: 503 Service Unavailable: ", retrying.TransientError),
    ("HTTP error: error sending request", retrying.TransientError),
])  # fmt: skip
def test_a_machine_without_a_role_is_told_what_to_set(answer: str, kind: type[OSError]):
    """As obstore says it; the service that knows a machine's role answers on such machines only."""
    pytest.importorskip("obstore")
    from obstore.exceptions import GenericError

    from pipeline.storage.clouds_client import _translated

    said = "Generic GCS error: Error performing token request: Error performing GET http://metadata/token in 2ms - "
    error = _translated(GenericError(said + answer), "gs://bucket/x")
    assert isinstance(error, kind)
    assert "no usable credentials: set GOOGLE_APPLICATION_CREDENTIALS" in str(error)


def test_azure_needs_its_account(az: object, monkeypatch: pytest.MonkeyPatch):
    use_server(az, monkeypatch)  # type: ignore[arg-type]
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    with pytest.raises(PermissionError, match="Account must be specified; set AZURE_STORAGE_ACCOUNT_NAME"):
        storage.exists("az://bucket/x.bin")


@pytest.mark.parametrize("address", ["nonsense", "http://127.0.0.1:99999", "ftp://host", "http://"])
def test_an_endpoint_that_is_no_address_is_named(served: Served, address: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(ENDPOINT[served.scheme], address)
    with pytest.raises(StorageError, match=f"{ENDPOINT[served.scheme]} must be an address"):
        storage.exists(f"{served.folder}/x.bin")


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://no-such-host.invalid:81"])
def test_a_server_that_is_not_there_is_named_in_one_line(served: Served, address: str, monkeypatch: pytest.MonkeyPatch):
    use_server(replace(served.server, endpoint=address), monkeypatch)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with storage.first_contact(), pytest.raises(OSError, match=rf"no answer from {address} .*attempt 2, the last") as e:
        storage.exists(served.folder)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["a//b", "../x", "./x", "a\x01b"])
def test_names_that_cannot_be_used_are_said(served: Served, name: str):
    with pytest.raises(StorageError, match="cannot be used here"):
        storage.write_atomic(f"{served.folder}/{name}", b"1")


def test_a_folder_with_a_name_that_cannot_be_used_is_said_at_once(gs: GcsServer, monkeypatch: pytest.MonkeyPatch):
    use_server(gs, monkeypatch)
    storage.retries(reset=True)
    said = r'gs://bucket/odd: .*"odd/a//b\.jpg" contained empty path segment'
    with object_of_any_name(gs, "odd/a//b.jpg"), pytest.raises(OSError, match=said):
        listing.list_files("gs://bucket/odd", (".jpg",))
    assert storage.retries() == 0


def test_a_pattern_chooses_among_the_folder_above_it(served: Served):
    for year in (2006, 2007, 2008):
        storage.write_atomic(f"{served.folder}/{year}_01/x.jpg", b"1")
    files = listing.list_files(f"{served.folder}/2007*/x.jpg", (".jpg",))
    assert [file.uri for file in files] == [f"{served.folder}/2007_01/x.jpg"]


def test_workers_get_the_variables_of_the_stores_and_no_others(served: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GOOGLE_API_KEY", "of another service")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "of another service")
    environment = storage.worker_environment()
    assert environment.items() >= served.server.environment.items()
    assert not {"GOOGLE_API_KEY", "AZURE_OPENAI_API_KEY"} & set(environment)


def test_obstore_knows_every_variable_that_workers_get():
    obstore = pytest.importorskip("obstore")
    for scheme, make in {"gs": obstore.store.GCSStore, "az": obstore.store.AzureStore}.items():
        assert not _knows(make, f"{scheme}_no_such_variable")
        for name in CLOUDS[scheme].variables:
            assert _knows(make, name.lower()), name


def _knows(make: type, name: str) -> bool:
    from obstore.exceptions import BaseError, UnknownConfigurationKeyError

    try:
        make("bucket", config={name: "true" if name.endswith(("signature", "cli")) else "aHVzaA=="})
    except UnknownConfigurationKeyError:
        return False
    except BaseError:  # its value is not of use, or another setting is missing
        pass
    return True


def test_without_obstore_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stores, "find_spec", lambda name: None)
    with pytest.raises(StorageError, match=r"gs:// needs the package obstore: pip install 'deconvnet-ray\[clouds\]'"):
        stores._cloud("gs")


@pytest.mark.parametrize("text", [
    "https://x.blob.core.windows.net/c/k?sv=2025&sig=hush%2Bhush%3D&se=x failed",
    "https://storage.googleapis.com/b/k?X-Goog-Signature=hush failed",
])  # fmt: skip
def test_signatures_in_addresses_are_redacted(text: str):
    assert "hush" not in storage.redact(text)
    assert storage.redact(text).endswith("failed")


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.data())
def test_a_listing_that_broke_off_goes_on_behind_the_last_key(pages: list[int], data: st.DataObject):
    pytest.importorskip("obstore")
    from pipeline.storage.clouds import _after

    names = data.draw(st.permutations(range(sum(pages))))  # the store's order need not be the alphabet's
    listed, start = [], 0
    for size in pages:
        listed.append([{"path": str(name), "size": name} for name in names[start : start + size]])
        start += size
    place = data.draw(st.integers(0, len(names) - 1))
    rest = [entry["size"] for page in _after(str(names[place]), "gs://bucket", iter(listed)) for entry in page]
    assert rest == list(names[place + 1 :])
    assert [entry["size"] for page in _after(None, "gs://bucket", iter(listed)) for entry in page] == list(names)
    with pytest.raises(OSError, match="gone since"):
        list(_after("gone", "gs://bucket", iter(listed)))
