"""What tests share: where real photographs may lie, and one Ray for the whole run."""

import os
from pathlib import Path

import pytest

# A local Ray would otherwise turn token authentication on for every later `ray start` of this user.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED_DATA = Path(os.environ.get("DECONVNET_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def voc() -> Path:
    """PASCAL VOC 2012 in its own layout; it is no part of the project."""
    root = SHARED_DATA / "VOC2012"
    if not root.is_dir():
        pytest.skip(f"{root} is not there; set DECONVNET_SHARED_DATA to a folder that holds VOC2012")
    return root
