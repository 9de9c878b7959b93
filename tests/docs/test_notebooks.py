"""docs/notebooks: each runs from top to bottom; what is stored in them is from such a run, small, and of no machine.

With DECONVNET_WRITE_NOTEBOOKS=1 the tests also store the outputs of the run.
"""

import base64
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from result_files import row_of

from pipeline import segment
from pipeline.imaging.classes import VOC_CLASSES
from pipeline.inputs.manifest import safe_id
from pipeline.outputs.writing import write_rows

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
PICTURE = ROOT / "docs" / "images" / "photographs.jpg"
CAT = "cat, <b>Chelsea.jpg"


def executed(name: str, folder: Path, patch: pytest.MonkeyPatch) -> Any:
    """The notebook after a run in a folder; the kernel is this interpreter, with the checkout's package."""
    patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        patch.setenv(variable, str(folder / variable))
    path = ROOT / "docs" / "notebooks" / name
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=900, resources=resources, record_timing=False).execute()
    if os.environ.get("DECONVNET_WRITE_NOTEBOOKS"):
        notebook.metadata["language_info"] = {"name": "python"}
        for cell in notebook.cells:
            if cell.cell_type == "code":  # what packages say on stderr names paths of this machine
                cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        nbformat.write(notebook, path)
    return notebook


def outputs_of(notebook: Any, kind: str) -> list[str]:
    """All that the cells showed of a kind, such as text/html."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    if kind == "stream":
        return [output.text for output in outputs if output.output_type == "stream"]
    return [output.data[kind] for output in outputs if kind in output.get("data", ())]


@pytest.fixture
def segmented(tmp_path: Path) -> Path:
    """A folder in which the notebook's run of the job is there already, made by the same code without Ray."""
    picture = Image.open(PICTURE)
    photos = tmp_path / "photos"
    photos.mkdir()
    rows = []
    for name, box in (("astronaut.jpg", (0, 0, 446, 446)), (CAT, (0, 470, 446, 763))):
        picture.crop(box).save(photos / name, quality=95)
        (found,) = segment([photos / name], weights="voc-fcn")
        counts = np.bincount(found.mask_HW.ravel(), minlength=len(VOC_CLASSES)).tolist()
        confidence = float(found.probabilities_KHW.max(axis=0).mean())
        lists = {"pixel_counts": counts, "mean_probability": [confidence if count else None for count in counts]}
        rows.append(row_of(safe_id(name), str(photos / name), found.mask_HW) | lists | {"mean_confidence": confidence})
    write_rows(str(tmp_path / "runs" / "photos"), rows, VOC_CLASSES)
    return tmp_path


def check_segment_and_look(notebook: Any) -> None:
    (lines,) = outputs_of(notebook, "stream")
    found = re.findall(r"\['background'.*\]", lines)
    assert len(found) == 4
    assert "'cat'" in found[0]
    assert all("'person'" in classes for classes in found[1:])
    assert len(outputs_of(notebook, "image/jpeg")) == 4
    areas, results = outputs_of(notebook, "text/html")
    assert "<b>Chelsea" not in areas + results
    assert "cat, &lt;b&gt;Chelsea" in areas
    assert "astronaut.jpg" in results


@pytest.mark.slow
def test_segment_and_look_runs_from_top_to_bottom(segmented: Path, monkeypatch: pytest.MonkeyPatch):
    check_segment_and_look(executed("segment_and_look.ipynb", segmented, monkeypatch))


@pytest.mark.ray
@pytest.mark.slow
def test_segment_and_look_runs_the_job_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    check_segment_and_look(executed("segment_and_look.ipynb", tmp_path, monkeypatch))


@pytest.mark.ray
@pytest.mark.slow
def test_own_classes_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    notebook = executed("own_classes.ipynb", tmp_path, monkeypatch)
    lines = "".join(outputs_of(notebook, "stream"))
    assert "step 120: loss" in lines
    (score,) = re.findall(r"^mean IoU (0\.\d+), pixel accuracy", lines, re.MULTILINE)
    assert float(score) > 0.35  # background everywhere has less than a quarter; 0.6 is usual
    assert len(outputs_of(notebook, "image/jpeg")) == 5
    assert (tmp_path / "runs" / "mine" / "fcn.safetensors").is_file()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_what_is_stored_is_small_and_of_no_machine(path: Path):
    text = path.read_text()
    assert len(text) < 200_000
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in code]
    assert counts in ([None] * len(code), [*range(1, len(code) + 1)])  # no run, or one from top to bottom
    assert all(output.output_type != "error" for cell in code for output in cell.outputs)
    assert not outputs_of(notebook, "image/png")


def test_both_notebooks_are_there_and_their_pictures_are_small():
    assert [path.stem for path in NOTEBOOKS] == ["own_classes", "segment_and_look"]
    notebooks = [nbformat.read(path, as_version=4) for path in NOTEBOOKS]
    pictures = [base64.b64decode(text) for one in notebooks for text in outputs_of(one, "image/jpeg")]
    assert pictures
    assert all(picture.startswith(b"\xff\xd8") for picture in pictures)
    assert sum(map(len, pictures)) < 200_000
