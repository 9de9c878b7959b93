"""Which Ray a job joins, and what it says where there is none."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from conftest import free_port

from pipeline.cluster import connect
from pipeline.errors import ClusterError

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def silent() -> str:
    """The address of a server that takes connections and says nothing: no Ray."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def other() -> Iterator[str]:
    """The address of a server that speaks gRPC and is no Ray."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:{free}", "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:"),
        ("{silent}", "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:"),
        ("{other}", "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:"),
        ("no-such-host.invalid:6379", "no Ray cluster answers at RAY_ADDRESS=no-such-host.invalid:6379"),
        ("nonsense", "HOST:PORT"),
        ("http://127.0.0.1:8265", "ray job submit"),
        ("ray://127.0.0.1:10001", "ray job submit"),
    ],
)
def test_an_address_where_no_ray_is_ends_in_one_line(monkeypatch, silent, other, address, said):
    monkeypatch.setenv("RAY_ADDRESS", address.format(free=free_port(), silent=silent, other=other))
    monkeypatch.setattr(connect, "ANSWER_SECONDS", 0.5)
    with pytest.raises(ClusterError) as error:
        connect.start_ray()
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_ray_that_cannot_start_leaves_no_process(monkeypatch):
    left = []

    def starts_too_slowly(*_: object, **__: object) -> None:
        left.append(subprocess.Popen(["sleep", "600"]))
        raise RuntimeError("the node did not come up in 30 s")

    other = subprocess.Popen(["sleep", "600"])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(connect.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(connect.ray, "init", starts_too_slowly)
    try:
        with pytest.raises(ClusterError, match="the node did not come up"):
            connect.start_ray()
        assert other.poll() is None
    finally:
        other.kill()
    assert len(left) == connect.ATTEMPTS
    assert all(process.poll() is not None for process in left)


def test_a_cluster_that_answers_is_joined_and_named(head):
    program = "from pipeline.cluster import connect, ray_private\nconnect.start_ray()\nprint(ray_private.log_folder())"
    process = subprocess.run(
        [sys.executable, "-c", program],
        env=head.environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    joined, logs = process.stdout.splitlines()
    port = head.address.rpartition(":")[2]
    assert re.fullmatch(rf"joined the Ray cluster at [\d.]+:{port}: 1 machine\(s\), 2 CPUs", joined)
    assert Path(logs).is_dir()
    assert process.stderr == ""


def test_a_temporary_folder_with_a_long_path_is_replaced_and_workers_lines_are_chosen(tmp_path):
    """Ray's sockets have no room in it. Workers print, one of them what people shall see."""
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    program = (
        "import ray\nfrom pipeline.cluster import connect\nfrom pipeline.run.worker_lines import say\n"
        "connect.start_ray()\n"
        "@ray.remote\ndef work():\n    print('noise', flush=True)\n    say('heard')\n    return 7\n"
        "print(ray.get(work.remote()))\nray.shutdown()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_TMPDIR")}
    process = subprocess.run(
        [sys.executable, "-c", program], env={**environment, "TMPDIR": str(folder)}, cwd=REPOSITORY,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    said = process.stdout.splitlines()
    assert said[0] == f"TMPDIR={folder} is too long a path for Ray's sockets: its files go to /tmp/ray"
    assert said[1] == "starting Ray on this machine"
    assert sorted(said[2:]) == ["7", "heard"]
    assert process.stderr == ""


def test_no_folder_for_sockets_at_all_is_told(monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/x" * 60)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ClusterError, match=r"RAY_TMPDIR=.* may have 3\d bytes"):
        connect._shorten_temporary()


def test_the_longest_folder_that_is_let_pass_has_room_for_every_socket(tmp_path_factory):
    """The paths that Ray makes in it, bound for real."""
    name = "session_2026-01-01_00-00-00_000000_4194304"
    root = Path("/tmp") / f"{os.getpid()}".ljust(connect.LONGEST_TEMPORARY - len("/tmp/"), "x")
    folder = root / "ray" / name / "sockets"
    folder.mkdir(parents=True)
    try:
        for socket_name in ("plasma_store", "raylet", "dash_TaskEventsHead"):
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(str(folder / socket_name))
            (folder / socket_name).unlink()
        assert len(str(root)) == connect.LONGEST_TEMPORARY
    finally:
        for path in (folder, folder.parent, folder.parent.parent, root):
            with suppress(OSError):
                path.rmdir()
