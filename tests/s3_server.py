"""A real S3 server over a folder, and a proxy before it that breaks some of the requests. Needs no pytest.

    with s3_server(folder) as server, faulty_proxy(server, rate=0.1, seed=0) as proxy:
        os.environ.update(proxy.environment)

Each folder below `folder` is a bucket. Both end with the process that started them, however it ends.
"""

from __future__ import annotations

import http.client
import os
import random
import re
import secrets
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FAULTS = ("slow_down", "reset", "truncate", "delay")
"""What the proxy can do: answer 503 SlowDown; reset the connection, in half of the cases after the store did what was
asked; send only half of the answer's body; answer late."""
XML_FAULTS = ("empty", "bare", "cut_xml")
"""What it can do to answers in XML, with a length that agrees: send nothing, an element without content, or half."""

REFUSALS = {
    "batch_md5": (400, "MissingContentMD5", "Missing required header for this request: Content-Md5."),
    "batch_501": (
        501,
        "NotImplemented",
        "A header or query you provided implies functionality that is not implemented.",
    ),
    "copy_501": (
        501,
        "NotImplemented",
        "A header or query you provided implies functionality that is not implemented.",
    ),
}
"""What a proxy can always refuse, with the store's answer: the deletion of many objects by one request, as stores that
want Content-MD5 do or stores that have no such request; copies inside the store."""

_SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
_START_SECONDS = 30
# The system closes the pipe of a process that ends, however it ends.
_UNTIL_STDIN_CLOSES = '"$@" & read -r _; kill -9 $!'


@dataclass(frozen=True)
class S3Server:
    """A running server: where it listens and how to get in."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """The variables under which any S3 client finds the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
        }


@contextmanager
def s3_server(folder: Path | str, *, anonymous: bool = False) -> Iterator[S3Server]:
    """Serve `folder` by S3 on a free port of the loopback interface, with made-up keys.

    Args:
        folder: what to serve; its subfolders are the buckets.
        anonymous: let in everybody, as a public bucket does.

    Raises:
        RuntimeError: the server did not start; the message holds what it said.
    """
    access_key, secret_key = f"test{secrets.token_hex(8)}", secrets.token_hex(20)
    rclone = Path(sys.executable).with_name("rclone")
    options = ["--config", os.devnull, "--addr", "127.0.0.1:0", "--vfs-cache-mode", "off"]
    environment = os.environ | ({} if anonymous else {"RCLONE_AUTH_KEY": f'"{access_key},{secret_key}"'})
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            ["sh", "-c", _UNTIL_STDIN_CLOSES, "sh", rclone, "serve", "s3", *options, folder],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
        )
        try:
            yield S3Server(_endpoint(log.fileno()), access_key, secret_key)
        finally:
            process.communicate()  # closes its input


def _endpoint(log: int) -> str:
    text = ""
    for _ in range(_START_SECONDS * 20):
        text = os.pread(log, 1 << 16, 0).decode()
        if found := re.search(r"http://127\.0\.0\.1:\d+", text):
            return found[0]
        if "Failed" in text:
            break
        time.sleep(0.05)
    raise RuntimeError(f"rclone did not start: {text}")


@dataclass(frozen=True)
class FaultyProxy(S3Server):
    """A running proxy, and what it has done so far."""

    requests: Counter[str] = field(default_factory=Counter)
    """Requests by HTTP method."""
    faults: Counter[str] = field(default_factory=Counter)
    """Faults by kind."""


@contextmanager
def faulty_proxy(
    server: S3Server,
    rate: float,
    seed: int,
    kinds: Sequence[str] = FAULTS,
    delay: float = 0.2,
    only: str = "",
    refuse: Sequence[str] = (),
) -> Iterator[FaultyProxy]:
    """Put a proxy before a server that answers a part of the requests with a fault, drawn from a seeded generator.

    Args:
        server: where requests go.
        rate: probability of a fault for each request.
        seed: of the generator.
        kinds: what may happen, of `FAULTS` and `XML_FAULTS`.
        delay: seconds that a late answer takes.
        only: spare requests whose path does not end so.
        refuse: what is refused every time, of `REFUSALS`.
    """
    listener = _Proxy(server, rate, seed, kinds, delay, only, refuse)
    threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield listener.proxy
    finally:
        listener.shutdown()
        listener.server_close()


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(
        self,
        server: S3Server,
        rate: float,
        seed: int,
        kinds: Sequence[str],
        delay: float,
        only: str,
        refuse: Sequence[str],
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = server.endpoint.removeprefix("http://")
        self.proxy = FaultyProxy(f"http://127.0.0.1:{self.server_port}", server.access_key, server.secret_key)
        self.delay, self.refuse = delay, refuse
        self._rate, self._kinds, self._only = rate, kinds, only
        self._random, self._lock = random.Random(seed), threading.Lock()

    def draw(self, method: str, path: str) -> tuple[str, bool]:
        """Return the fault of the next request ("" for none) and whether the store gets the request before it."""
        with self._lock:
            self.proxy.requests[method] += 1
            if self._random.random() >= self._rate or not path.endswith(self._only):
                return "", True
            fault, reaches_store = self._random.choice(self._kinds), self._random.random() < 0.5
            self.proxy.faults[fault] += 1
            return fault, reaches_store or fault in ("truncate", "delay", *XML_FAULTS)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up; that is what a proxy with faults brings about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Proxy

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if refusal := self._refusal():
            status, code, message = REFUSALS[refusal]
            self.server.proxy.faults[refusal] += 1
            answer = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
            self._answer(status, [("Content-Type", "application/xml")], answer.encode())
            return
        fault, reaches_store = self.server.draw(self.command, self.path)
        if fault == "slow_down":
            self._answer(503, [("Content-Type", "application/xml")], _SLOW_DOWN)
            return
        status, headers, content = self._ask_store(body) if reaches_store else (0, [], b"")
        if fault == "delay":
            time.sleep(self.server.delay)
        if fault == "reset" or (fault == "truncate" and not content):
            self._reset()
            return
        if fault in XML_FAULTS and content.startswith(b"<?xml"):
            content = {"empty": b"", "bare": b"<?xml version='1.0'?><ListBucketResult/>"}.get(fault, content[:-40])
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
        self._answer(status, headers, content, cut=fault == "truncate")

    def _refusal(self) -> str | None:
        many = self.command == "POST" and "delete" in self.path.partition("?")[2]
        copy = self.command == "PUT" and "x-amz-copy-source" in self.headers
        refused = [kind for kind in self.server.refuse if (many if kind.startswith("batch") else copy)]
        return refused[0] if refused else None

    def _ask_store(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.server.upstream)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():  # Host included: it is part of what is signed
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.putheader("Connection", "close")
            connection.endheaders(body or None)
            response = connection.getresponse()
            headers = [(n, v) for n, v in response.getheaders() if n.lower() not in ("connection", "transfer-encoding")]
            return response.status, headers, response.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, *, cut: bool = False) -> None:
        names = {name.lower() for name, _ in headers}
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if "content-length" not in names and status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.wfile.flush()
        self.close_connection = self.close_connection or cut

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
