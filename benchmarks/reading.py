"""Decoding images of a store that takes a while to answer: read one after the other, and as the decode stage reads.

The store is an HTTP server of its own process that answers S3's GET after the given time; the client is the job's.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from unittest.mock import patch

import cv2
import pyarrow as pa

from benchmarks.config import Reading
from pipeline import storage
from pipeline.config import DecodeConfig
from pipeline.imaging.images import decode_at_working_size
from pipeline.inputs.manifest import build_manifest
from pipeline.stages.decode import decode_stage, image_columns
from pipeline.stages.rows import Row, run_rows, start_rows

ROUNDS = 5
IMAGES_IN_A_TABLE = 16  # the least in runs of some hundred images and more

BUCKET = "s3://bucket"


def run(config: Reading) -> list[dict[str, str | float]]:
    """Seconds in which all images are read and decoded, the least of some rounds in turns: other work only adds."""
    cv2.setNumThreads(1)
    files = build_manifest(config.input, config.limit)["uri"].to_pylist()
    names = [f"{number:06}" for number in range(len(files))]
    table = pa.table({"image_id": names, "uri": [f"{BUCKET}/{name}" for name in names]})
    ways: dict[str, Callable[[], list[Row]]] = {
        "one after the other": lambda: _one_by_one(table).to_pylist(),
        f"the job's, {IMAGES_IN_A_TABLE} images in a table": lambda: _in_tables(table, IMAGES_IN_A_TABLE),
        f"the job's, {len(files)} images in a table": lambda: _in_tables(table, len(files)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, list[Row]] = {}
    with _slow_store(dict(zip(names, files, strict=True)), config.milliseconds / 1e3):
        for _ in range(ROUNDS):
            for name, way in ways.items():
                started = time.perf_counter()
                found[name] = way()
                seconds[name].append(time.perf_counter() - started)
    first, *_ = (min(values) for values in seconds.values())
    images = [row | {"seconds_decode": None} for row in found["one after the other"]]
    return [
        {
            "what": name,
            "seconds": min(values),
            "of the first": min(values) / first,
            "equal rows": sum(a == b | {"seconds_decode": None} for a, b in zip(images, found[name], strict=True)),
        }
        for name, values in seconds.items()
    ]


def _one_by_one(table: pa.Table) -> pa.Table:
    settings = DecodeConfig()

    def work(row: Row) -> None:
        data = storage.read_image(row["uri"])
        row.update(image_columns(*decode_at_working_size(data, settings.max_megapixels, settings.max_side)))

    return run_rows(start_rows(table), "decode", work)


def _in_tables(table: pa.Table, rows: int) -> list[Row]:
    parts = [
        decode_stage(start_rows(table[first : first + rows]), DecodeConfig()) for first in range(0, len(table), rows)
    ]
    return [row for part in parts for row in part.to_pylist()]


@contextmanager
def _slow_store(files: dict[str, str], seconds: float) -> Iterator[None]:
    """The bucket holds `files`, local ones by their keys, and the environment leads to it."""
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    server = processes.Process(target=_serve, args=(files, seconds, theirs), daemon=True)
    server.start()
    try:
        environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ours.recv()}", "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "anybody", "AWS_SECRET_ACCESS_KEY": "anything",
        }  # fmt: skip
        others = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        with patch.dict(os.environ, others | environment, clear=True):
            yield
    finally:
        server.kill()
        server.join()


def _serve(files: dict[str, str], seconds: float, port: Connection) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            time.sleep(seconds)
            data = Path(files[self.path.rpartition("/")[2]]).read_bytes()
            self.send_response_only(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.send(server.server_port)
    server.serve_forever()
