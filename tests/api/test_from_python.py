"""The package as Python code outside of the project uses it."""

import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pipeline
from examples.scenes.dataset import scene_of
from pipeline import SegmentConfig, segment
from pipeline.config import DecodeConfig, FilterConfig, ProposeConfig, RefineConfig
from pipeline.errors import CheckpointError, ImageError, SegmentError

REPOSITORY = Path(__file__).parents[2]
FAST = SegmentConfig("", "", decode=DecodeConfig(max_side=160), propose=ProposeConfig(proposals=2))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("here") / "photos"
    folder.mkdir()
    for number, name in enumerate("ab"):
        image = Image.fromarray(scene_of(7, "val", number).image_HW3)
        image.crop((0, 0, 200, 150)).save(folder / f"{name}.jpg", quality=95)
    return folder


def test_importing_the_package_loads_neither_torch_nor_ray_nor_arrow():
    code = "import sys, pipeline; print(pipeline.__version__, {'torch', 'ray', 'pyarrow', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == f"{pipeline.__version__} set()\n"


def test_the_version_is_that_of_the_distribution():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["version"] == pipeline.__version__


def test_every_public_name_is_there_and_explained():
    for home, names in pipeline._HOMES.items():
        for name in names:
            found = getattr(pipeline, name)
            assert name in dir(pipeline)
            assert home in {"pipeline.config", getattr(found, "__module__", home)}
            assert isinstance(found, dict) or inspect.getdoc(found)
            assert f"{name} as {name}" in Path(pipeline.__file__).read_text()  # what type checkers see
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pipeline.nothing  # noqa: B018


@pytest.mark.slow
def test_the_page_does_what_it_says(photos, monkeypatch, capsys):
    monkeypatch.chdir(photos.parent)
    page = (REPOSITORY / "docs" / "from_python.md").read_text()
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(code, "docs/from_python.md", "exec"), names)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("['background'") for line in lines)
    assert lines[1] == lines[2]  # the same photograph as a path and as Pillow's image


def test_paths_pictures_and_arrays_of_the_same_pixels_are_segmented_alike(photos, tmp_path):
    array = np.asarray(Image.open(photos / "a.jpg").convert("RGB"))
    Image.fromarray(array).save(tmp_path / "a.png")
    found = [next(segment([image], config=FAST))
             for image in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(array), array)]  # fmt: skip
    for one in found:
        assert one.mask_HW.shape == array.shape[:2]
        assert np.array_equal(one.mask_HW, found[0].mask_HW)
        assert np.array_equal(one.probabilities_KHW, found[0].probabilities_KHW)
        np.testing.assert_allclose(one.probabilities_KHW.sum(axis=0), 1, atol=1e-5)
        assert one.probabilities_KHW.shape == (len(one.class_ids_K), 120, 160)


def test_images_are_taken_as_they_are_asked_for(photos):
    taken = []

    def images():
        for number in range(100):
            taken.append(number)
            yield photos / "a.jpg"

    next(segment(images(), config=FAST))
    assert len(taken) == 4


@pytest.mark.parametrize(
    ("image", "config", "error", "message"),
    [
        (np.zeros((4, 4), np.uint8), FAST, ImageError, r"an array is uint8 \(4, 4\); uint8 \(H, W, 3\)"),
        (np.zeros((4, 4, 3), np.float32), FAST, ImageError, "an array is float32"),
        ("gone.jpg", FAST, FileNotFoundError, "gone.jpg"),
        (
            np.zeros((4, 4, 3), np.uint8),
            SegmentConfig("", "", filter=FilterConfig(min_pixels=17)),
            SegmentError,
            "image 0 was left out by filter: 4 x 4 pixels",
        ),
    ],
)
def test_what_cannot_be_segmented_is_an_error(image, config, error, message):
    with pytest.raises(error, match=message):
        list(segment([image], config=config))


def test_one_path_is_no_list_of_images():
    with pytest.raises(ImageError, match=r"give a list: \['a.jpg'\]"):
        list(segment("a.jpg"))


def test_weights_that_fit_no_settings_are_refused():
    with pytest.raises(CheckpointError):
        list(segment([], weights="voc-fcn", config=SegmentConfig("", "", refine=RefineConfig(crf="none"))))
