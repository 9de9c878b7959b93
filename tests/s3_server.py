"""A real S3 server over a folder, and a proxy before it that breaks some of the requests. Needs no pytest.

    with s3_server(folder) as server, faulty_proxy(server, rate=0.1, seed=0) as proxy:
        os.environ.update(proxy.environment)

Each folder below `folder` is a bucket. Both end with the process that started them, however it ends.
"""

from __future__ import annotations

import os
import random
import secrets
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

from local_servers import Forwarder, listening, until_this_process_ends

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
    with until_this_process_ends([rclone, "serve", "s3", *options, folder], environment) as log:
        yield S3Server(listening(log), access_key, secret_key)


class Server(Protocol):
    """A running server of any store: where it listens, and the variables under which clients find it."""

    @property
    def endpoint(self) -> str: ...
    @property
    def environment(self) -> dict[str, str]: ...


@dataclass(frozen=True)
class FaultyProxy:
    """A running proxy, and what it has done so far."""

    server: Any
    """The `Server` behind it, at the proxy's address."""
    requests: Counter[str] = field(default_factory=Counter)
    """Requests by HTTP method."""
    faults: Counter[str] = field(default_factory=Counter)
    """Faults by kind."""

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return str(self.server.endpoint)

    @property
    def environment(self) -> dict[str, str]:
        """The variables under which clients of the store find the proxy."""
        return dict(self.server.environment)


@contextmanager
def faulty_proxy(
    server: Server,
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
        server: Server,
        rate: float,
        seed: int,
        kinds: Sequence[str],
        delay: float,
        only: str,
        refuse: Sequence[str],
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = server.endpoint.removeprefix("http://")
        self.proxy = FaultyProxy(replace(server, endpoint=f"http://127.0.0.1:{self.server_port}"))  # type: ignore[type-var]
        self.delay, self.refuse = delay, refuse
        self._rate, self._kinds, self._only = rate, kinds, only
        self._random, self._lock = random.Random(seed), threading.Lock()

    def draw(self, method: str, path: str) -> tuple[str, bool]:
        """Return the fault of the next request ("" for none) and whether the store gets the request before it."""
        with self._lock:
            self.proxy.requests[method] += 1
            if self._random.random() >= self._rate or not unquote(path).endswith(self._only):
                return "", True
            fault, reaches_store = self._random.choice(self._kinds), self._random.random() < 0.5
            self.proxy.faults[fault] += 1
            return fault, reaches_store or fault in ("truncate", "delay", *XML_FAULTS)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up; that is what a proxy with faults brings about."""


class _Handler(Forwarder):
    server: _Proxy

    def answer(self, body: bytes) -> None:
        if refusal := self._refusal():
            status, code, message = REFUSALS[refusal]
            self.server.proxy.faults[refusal] += 1
            answer = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
            self.send(status, [("Content-Type", "application/xml")], answer.encode())
            return
        fault, reaches_store = self.server.draw(self.command, self.path)
        if fault == "slow_down":
            self.send(503, [("Content-Type", "application/xml")], _SLOW_DOWN)
            return
        status, headers, content = self.ask(self.server.upstream, body) if reaches_store else (0, [], b"")
        if fault == "delay":
            time.sleep(self.server.delay)
        if fault == "reset" or (fault == "truncate" and not content):
            self.reset()
            return
        if fault in XML_FAULTS and content.startswith(b"<?xml"):
            content = {"empty": b"", "bare": b"<?xml version='1.0'?><ListBucketResult/>"}.get(fault, content[:-40])
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
        self.send(status, headers, content, cut=fault == "truncate")

    def _refusal(self) -> str | None:
        many = self.command == "POST" and "delete" in self.path.partition("?")[2]
        copy = self.command == "PUT" and "x-amz-copy-source" in self.headers
        refused = [kind for kind in self.server.refuse if (many if kind.startswith("batch") else copy)]
        return refused[0] if refused else None
