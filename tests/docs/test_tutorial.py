"""docs/tutorial.md: its lines make a training folder of COCO's annotations, with the masks that a loop gives."""

import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.config import TrainingSetConfig
from pipeline.datasets.layouts import list_images
from pipeline.training.fcn.photographs import labels_of, load

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
HEIGHT, WIDTH = 40, 60


def rectangle(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    region_HW = np.zeros((HEIGHT, WIDTH), bool)
    region_HW[top:bottom, left:right] = True
    return region_HW


def runs_of(region_HW: np.ndarray) -> dict[str, object]:
    """COCO's uncompressed run lengths, by a loop over the pixels, column after column."""
    counts, value = [0], False
    for pixel in region_HW.T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": [HEIGHT, WIDTH], "counts": counts}


def test_coco_annotations_become_a_folder_to_train_on(tmp_path, monkeypatch):
    """With gaps between the categories, a background among them, and a small object on a large one."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    large, small, unsure = rectangle(5, 5, 50, 35), rectangle(20, 10, 30, 25), rectangle(52, 0, 60, 8)
    regions = [(9, small), (4, large), (7, unsure)]
    annotations = [
        {"id": number, "image_id": 3, "category_id": category, "iscrowd": 0, "area": int(region_HW.sum()),
         "segmentation": runs_of(region_HW)}
        for number, (category, region_HW) in enumerate(regions, start=1)
    ]  # fmt: skip
    polygon = [10, 10, 40, 10, 40, 30, 10, 30]
    annotations += [{"id": 8, "image_id": 5, "category_id": 9, "iscrowd": 0, "area": 600, "segmentation": [polygon]}]
    names = {9: "dog", 7: "__ignore__", 4: "cat", 1: "_background_"}
    content = {
        "images": [
            {"id": 3, "file_name": "IMG 1.jpg", "height": HEIGHT, "width": WIDTH},
            {"id": 5, "file_name": "some/IMG 2.jpg", "height": HEIGHT, "width": WIDTH},
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in names.items()],
    }
    (tmp_path / "instances_default.json").write_text(json.dumps(content))
    (tmp_path / "mine" / "images").mkdir(parents=True)
    for name in ("IMG 1.jpg", "IMG 2.jpg"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "mine" / "images" / name)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, PAGE.name, "exec"), {})

    found = list_images(TrainingSetConfig((str(tmp_path / "mine"),), str(tmp_path / "out"), val_share=0.0))
    assert found.class_names == ("background", "cat", "dog")
    first_HW, second_HW = (load(pair)[1] for pair in found.train)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            expected = 2 if small[y, x] else 1 if large[y, x] else 255 if unsure[y, x] else 0
            assert first_HW[y, x] == expected
    assert labels_of(found.train[1], 3) == [0, 2]
    inside = rectangle(12, 12, 38, 28)  # where the rim of a polygon lies is COCO's business
    assert (second_HW[inside] == 2).all()
    assert (second_HW[~rectangle(8, 8, 42, 32)] == 0).all()
