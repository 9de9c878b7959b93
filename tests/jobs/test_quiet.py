"""Real jobs as people call them: relative paths, from a folder of their own. The terminal shows our lines only."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.scenes.config import ScenesConfig
from examples.scenes.dataset import write_dataset

pytestmark = pytest.mark.ray

REPOSITORY = Path(__file__).parents[2]
FOREIGN = re.compile(
    r"pid=|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d|WARNING|ERROR|INFO|Warning"
    r"|Traceback|core_worker|raylet|autoscaler|site-packages"
)
"""What lines of Ray and other libraries have and ours have not."""
SMALL = ["--epochs", "1", "1", "--width", "0.0625", "--batch-size", "4", "--micro-batch", "2", "--val-windows", "4"]


def call(folder: Path, environment: dict[str, str], job: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A job as a process; it must not show a line that is not ours."""
    command = [sys.executable, str(REPOSITORY / "jobs" / f"{job}.py"), *arguments]
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    shown = (process.stdout + process.stderr).splitlines()
    assert not [line for line in shown if FOREIGN.search(line)]
    return process


@pytest.mark.slow
def test_from_images_to_masks_with_relative_paths_and_nothing_foreign_on_the_terminal(tmp_path, head):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    list(write_dataset(ScenesConfig(output=str(folder / "voc"), train=4, val=2, seed=5)))
    joined = {"PYTHONPATH": str(REPOSITORY), **head.environment}
    alone = {"PYTHONPATH": str(REPOSITORY), **os.environ, "RAY_ADDRESS": "local"}

    built = call(folder, joined, "build_training_set", "--data", "voc", "--output", "sets/windows")
    trained = call(
        folder, joined, "train", "--training-set", "sets/windows", "--output", "runs/train", *SMALL
    )  # fmt: skip
    weights = "runs/train/deconvnet.safetensors"
    segmented = call(
        folder, alone, "segment_dataset", "--input", "voc/JPEGImages", "--output", "runs/masks", "--weights", weights,
        "--proposals", "2", "--crf", "none",
    )  # fmt: skip
    for process, ray in (
        (built, "joined the Ray cluster at"), (trained, "joined the Ray cluster at"), (segmented, "starting Ray"),
    ):  # fmt: skip
        assert process.returncode == 0, process.stdout + process.stderr
        assert process.stderr == ""
        assert process.stdout.count(ray) == 1
    for stage in (1, 2):  # said by the workers
        assert re.search(rf"^stage {stage} epoch 0, step \d+: lr 0.01, loss ", trained.stdout, re.MULTILINE)
    assert (folder / weights).exists()
    assert len(list((folder / "runs" / "masks" / "masks").iterdir())) == 6
