"""A run that is told to stop keeps what it has finished: real signals to a real job, always at the same moment.

The job stands still when it has refined the first `REFINED` images: opening any other waits for a file. None of them is
saved by then, since a file of results would take more rows, and no minute has passed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import write_tiles

from pipeline.outputs.results import read_results

pytestmark = pytest.mark.ray
REPOSITORY = Path(__file__).parents[2]
IMAGES, REFINED, LATER = 800, 48, 56
FAST = ("--weights", "demo", "--proposals", "2", "--crf", "none", "--max-side", "64", "--predict-workers", "1",
        "--refine-workers", "1", "--plan", "guess")  # fmt: skip
WAIT_FOR_THE_GATE = """
import os, time, PIL.Image as image
open_image = image.open
def open_or_wait(file, *a, **k):
    while file.getvalue().endswith(b"GATED") and not os.path.exists(os.environ["GATE"]):
        time.sleep(0.05)
    return open_image(file, *a, **k)
image.open = open_or_wait
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    first = write_tiles(folder, 1) / "00.jpg"
    for number in range(IMAGES):
        copy = shutil.copy(first, folder / f"{number:04}.jpg")
        if number >= REFINED:
            with Path(copy).open("ab") as file:
                file.write(b"GATED")
    first.unlink()
    return folder


def start(photos: Path, folder: Path, address: str, *arguments: str) -> subprocess.Popen[str]:
    """The job as the leader of a group of processes, as a shell starts it; `local`: with a Ray of its own."""
    (folder / "hook").mkdir(exist_ok=True)
    (folder / "hook" / "sitecustomize.py").write_text(WAIT_FOR_THE_GATE)
    command = [sys.executable, "jobs/segment_dataset.py", "--input", str(photos), "--output", str(folder / "out"),
               *FAST, *arguments]  # fmt: skip
    environment = {"PYTHONPATH": f"{folder / 'hook'}:{REPOSITORY}", "GATE": str(folder / "gate")}
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=os.environ | environment | {"RAY_ADDRESS": address}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def masks(folder: Path) -> int:
    return len(list((folder / "out" / "masks").glob("*.png")))


@pytest.mark.parametrize("told", [pytest.param("Ctrl-C", marks=pytest.mark.slow), "SIGTERM"])
def test_what_is_refined_is_saved_and_not_done_again(photos, tmp_path, told, head):
    address = "local" if told == "Ctrl-C" else head.address
    process = start(photos, tmp_path, address)
    while masks(tmp_path) < REFINED and process.poll() is None:
        time.sleep(0.05)
    assert not (tmp_path / "out" / "results").exists()
    if told == "Ctrl-C":  # a terminal sends it to all that runs there
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()
    said, _ = process.communicate()
    assert process.returncode == 3, said
    assert "the same command goes on from here" in said
    assert "Traceback" not in said
    saved = len(read_results(str(tmp_path / "out")))
    assert saved >= 0.9 * REFINED  # the row of an image follows its mask
    if told == "Ctrl-C":
        return
    (tmp_path / "gate").touch()
    process = start(photos, tmp_path, address, "--limit", str(LATER))
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert f"{saved} done before" in said
    assert len(read_results(str(tmp_path / "out"))) == LATER
    summary = json.loads((tmp_path / "out" / "run" / "summary.json").read_text())
    assert summary["stages"]["refine"]["rows"] == LATER  # of both calls: none twice
