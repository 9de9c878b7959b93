"""A disk that runs full under a run, which says so at once and goes on when there is room. No Ray."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ON_A_SMALL_DISK = ("unshare", "--map-root-user", "--mount", "sh", "-c",
                   'mount -t tmpfs -o size=400k none "$0" && exec "$@"')  # fmt: skip
RUN = """
import sys
from pathlib import Path
from stageless import images, run_to_the_end
from pipeline.config import SegmentConfig
from pipeline.run import driver

driver.PAUSES = (0.1, 60.0, 120.0)
filler = Path("filler")

def log(line):
    print(line)
    if "the disk is full" in line:
        filler.unlink()

filler.write_bytes(bytes(300_000))
sys.exit(run_to_the_end(SegmentConfig("photos", "out", masks=False), images(60), 0.05, log))
"""


def on_a_small_disk(folder: Path, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder on a disk of 400 KiB, which nobody else sees and which ends with it."""
    return subprocess.run(
        [*ON_A_SMALL_DISK, str(folder), "env", "--chdir", str(folder), f"PYTHONPATH={ROOT}:{ROOT / 'tests'}", *command],
        check=False, capture_output=True, text=True,
    )  # fmt: skip


def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_room(tmp_path):
    if on_a_small_disk(tmp_path, ["true"]).returncode != 0:
        pytest.skip("this user may mount no disk")
    ran = on_a_small_disk(tmp_path, [sys.executable, "-c", RUN])
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (told,) = (line for line in ran.stdout.splitlines() if line.startswith("the work broke off: "))
    assert "the disk is full, make room there: " in told
    assert f"{tmp_path}/out/" in told
    assert "starts again in 0 s; if nothing can be saved then, it is tried again for 3 min more\n" in ran.stdout
