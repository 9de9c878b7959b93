"""What tests share: where real photographs may lie, an S3 server, and one Ray for the whole run."""

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import hypothesis
import pytest
from s3_server import S3Server, s3_server

# A local Ray would otherwise turn token authentication on for every later `ray start` of this user.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# On a busy machine any single example may take seconds.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

SHARED_DATA = Path(os.environ.get("DECONVNET_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def voc() -> Path:
    """PASCAL VOC 2012 in its own layout; it is no part of the project."""
    root = SHARED_DATA / "VOC2012"
    if not root.is_dir():
        pytest.skip(f"{root} is not there; set DECONVNET_SHARED_DATA to a folder that holds VOC2012")
    return root


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


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty folder: once a local one, once one in S3."""
    return str(tmp_path) if request.param == "local" else str(request.getfixturevalue("s3_folder"))


def use_s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the environment lead to a server or a proxy until the end of a test."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
