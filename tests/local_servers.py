"""What the servers of the tests share: processes that end with this one, and proxies before them. Needs no pytest."""

from __future__ import annotations

import http.client
import os
import re
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

Headers = list[tuple[str, str]]

_START_SECONDS = 30
# The system closes the pipe of a process that ends, however it ends.
_UNTIL_STDIN_CLOSES = '"$@" & read -r _; kill -9 $!'


@contextmanager
def until_this_process_ends(command: Sequence[str | os.PathLike[str]], environment: Mapping[str, str]) -> Iterator[int]:
    """Run a command; yields the descriptor of a file with what it says."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            ["sh", "-c", _UNTIL_STDIN_CLOSES, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
        )
        try:
            yield log.fileno()
        finally:
            process.communicate()  # closes its input


def listening(log: int, pattern: str = r"http://127\.0\.0\.1:\d+") -> str:
    """Return the address that a server says it listens at.

    Raises:
        RuntimeError: it did not start; the message holds what it said.
    """
    text = ""
    for _ in range(_START_SECONDS * 20):
        text = os.pread(log, 1 << 16, 0).decode()
        if found := re.search(pattern, text):
            return found[0]
        if "Failed" in text:
            break
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start: {text}")


class Forwarder(BaseHTTPRequestHandler):
    """A proxy's handler: `answer` gets each request's body, may `ask` the server behind, and must `send`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self, body: bytes) -> None:
        raise NotImplementedError

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def ask(self, upstream: str, body: bytes) -> tuple[int, Headers, bytes]:
        connection = http.client.HTTPConnection(upstream)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():  # Host included: it may be part of what is signed
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.putheader("Connection", "close")
            connection.endheaders(body or None)
            response = connection.getresponse()
            headers = [(n, v) for n, v in response.getheaders() if n.lower() not in ("connection", "transfer-encoding")]
            return response.status, headers, response.read()
        finally:
            connection.close()

    def send(self, status: int, headers: Headers, content: bytes, *, cut: bool = False) -> None:
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

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
