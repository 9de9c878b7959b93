"""YOLO's segmentation (docs.ultralytics.com, "Instance Segmentation Datasets"): labels/*.txt, images/, data.yaml.

A line is a class and a polygon; classes count from 0 without the background. Coordinates are those of the pixels'
centres, divided by width and height. A line holds one ring of points, so holes are joined with it (`export.polygons`).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.export.pictures import FOLDER, Pictures, write
from pipeline.export.polygons import rings_of
from pipeline.export.results import Results


def export(results: Results, pictures: Pictures, folder: Path) -> None:
    """Write labels/, images/ and data.yaml, whose `train` and `val` are all images."""
    names = "".join(
        f"  {number}: {json.dumps(name, ensure_ascii=False)}\n"  # a string of JSON is one of YAML
        for number, name in enumerate(results.class_names[1:])
    )
    write(folder / "data.yaml", f"train: {FOLDER}\nval: {FOLDER}\nnames:\n{names}".encode())
    (folder / FOLDER).mkdir()
    for image in results:
        pictures.place(image)
        write(folder / label_path(image.name), lines(image.labels_HW, len(results.class_names)).encode())


def label_path(name: str) -> str:
    """Where the tools look for an image's label: in the last folder `images` above it, called `labels` instead."""
    above, _, below = f"/{FOLDER}/{name}".rpartition(f"/{FOLDER}/")
    return f"{above}/labels/{below}.txt".removeprefix("/")


def lines(labels_HW: NDArray[np.uint8], classes: int) -> str:
    """The polygons of a mask; labels beyond the classes are void and have none."""
    height, width = labels_HW.shape
    text = []
    for label in np.unique(labels_HW).tolist():
        if 0 < label < classes:
            for ring in rings_of(labels_HW == label):
                shares_N2 = (ring + 0.5) / (width, height)
                text.append(f"{label - 1} {' '.join(f'{share:.6f}' for share in shares_N2.ravel())}\n")
    return "".join(text)
