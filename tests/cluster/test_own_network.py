"""A class of the user's through the real command: killed in the middle, resumed, and refused once it has changed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_tiles
from PIL import Image

from pipeline import SEGMENT_RECIPES, SegmentConfig, segment
from pipeline.imaging.images import decode_mask
from pipeline.models.kinds import load_network
from pipeline.outputs.results import read_errors, read_results

REPOSITORY = Path(__file__).parents[2]
IMAGES, FREE, ROWS = 24, 16, 8
GATED = """
import os, time
from mynet import MyNet

class Gated(MyNet):
    def scores(self, image_3HW):
        while image_3HW[:, 0, 0].tolist() == [255, 0, 255] and not os.path.exists({gate!r}):
            time.sleep(0.05)
        return super().scores(image_3HW)
"""
"""The network of the page on extending, which waits at marked images until there is a file."""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with photographs, the user's modules and their weights; the last images are marked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    page = (REPOSITORY / "docs" / "extending.md").read_text()
    code = next(one for one in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class MyNet" in one)
    (tmp_path / "mynet.py").write_text(code)
    (tmp_path / "gated.py").write_text(GATED.format(gate=str(tmp_path / "gate")))
    names: dict[str, type[torch.nn.Module]] = {"__file__": "mynet.py"}
    exec(re.sub(r"^.*load_state_dict.*\n", "", code, flags=re.MULTILINE), names)
    torch.save(names["MyNet"]().state_dict(), tmp_path / "mynet.pth")
    (tmp_path / "photos").mkdir()
    for number, file in enumerate(sorted(write_tiles(tmp_path / "photos", IMAGES).glob("*.jpg"))):
        image = np.array(Image.open(file))
        image[0, 0] = (255, 0, 255) if number >= FREE else (0, 0, 0)
        Image.fromarray(image).save(file.with_suffix(".png"))
        file.unlink()
    return tmp_path


def start(work: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, str(REPOSITORY / "jobs" / "segment_dataset.py"), "--input", "photos", "--output", "out",
               "--weights", "gated:Gated", "--recipe", "fcn", "--rows-per-file", str(ROWS), "--plan", "guess",
               "--predict-workers", "1"]  # fmt: skip
    return subprocess.Popen(
        command, cwd=work, env={**environment, "PYTHONPATH": str(REPOSITORY)}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def done(work: Path) -> int:
    return len(read_results(str(work / "out"))) if (work / "out" / "results").exists() else 0


@pytest.fixture(params=["this machine's processes", pytest.param("ray", marks=pytest.mark.slow)])
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """Of the command: so few images are done without Ray where no cluster is named."""
    if request.param == "ray":
        return dict(request.getfixturevalue("head").environment)
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def test_a_users_class_is_killed_and_resumed_and_no_image_is_lost_or_done_twice(work, environment):
    process = start(work, environment)
    while done(work) < ROWS and process.poll() is None:
        time.sleep(0.2)
    if process.poll() is not None:
        pytest.fail(process.communicate()[0])
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = done(work)
    assert ROWS <= before <= FREE
    (work / "gate").touch()
    process = start(work, environment)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert f"{IMAGES} images, {before} done before; 4 classes (background, a, b, c)" in said
    rows = read_results(str(work / "out")).to_pylist()
    names = sorted(path.name for path in (work / "photos").iterdir())
    assert sorted(row["image_id"] for row in rows) == names
    assert len(read_errors(str(work / "out"))) == 0
    assert {row["model_fingerprint"] for row in rows} == {load_network("gated:Gated").fingerprint}
    here = segment(
        [work / "photos" / row["image_id"] for row in rows],
        "gated:Gated",
        SEGMENT_RECIPES["fcn"](SegmentConfig("in", "out")),
    )
    for row, found in zip(rows, here, strict=True):
        np.testing.assert_array_equal(decode_mask(row["mask"]), found.mask_HW)
    with (work / "gated.py").open("a") as file:
        file.write("# another network\n")
    process = start(work, environment)
    said, _ = process.communicate()
    assert process.returncode == 2
    assert "model_fingerprint" in said
