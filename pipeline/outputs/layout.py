"""The layout of an output folder: the names of all files and folders that the jobs write below it."""

from __future__ import annotations

import re

from pipeline import storage

RESULTS, ERRORS, SKIPPED, MASKS, PROBABILITIES = "results", "errors", "skipped", "masks", "probabilities"
PANELS, RUN = "panels", "run"

OF_IMAGES = (RESULTS, ERRORS, SKIPPED, MASKS, PROBABILITIES)
"""Folders that the main job writes images' results to; `--overwrite` removes them."""
FOLDERS = (*OF_IMAGES, PANELS, RUN)
"""All folders that the jobs write."""
RECORD = f"{RUN}/config.json"
"""The settings that the output was started with; a folder that has this file is an output."""
SUMMARY = f"{RUN}/summary.json"
"""The run's figures."""
SHARDS = f"{RUN}/shards"
"""The figures of each shard, `<shard>.json`, of an output that several calls fill."""
MANIFEST = f"{RUN}/manifest.parquet"
"""All images of the run."""
REPORT = f"{RUN}/report.html"
"""The run as a page for people."""

TRAINING_RECORD, TRAINING_REPORT, CURVES = "train.json", "report.html", "curves.csv"
"""Of a training: its settings and figures, the same as a page for people, and the figures of every validation."""
DECONVNET, FCN = "deconvnet.safetensors", "fcn.safetensors"
"""The network that a training exports."""


def is_output(folder: str) -> bool:
    """Say whether a folder is one of `FOLDERS` of a run, which has its record beside them.

    Raises:
        OSError: the store gives no answer.
    """
    above, _, name = folder.rpartition("/")
    return name in FOLDERS and storage.exists(f"{above}/{RECORD}")


def place(folder: str, image_id: str, ending: str) -> str:
    """The path of an image's file below an output, `<folder>/<image_id>.<ending>`.

    If the name of a folder in the id ends in `.<ending>`, its dot becomes `%2E`, which no id has there. Otherwise the
    mask of `x.bmp`, a file `x.bmp.png`, could clash with a folder of images that has this name.

    Args:
        folder: below the output, such as `masks`.
        image_id: from a manifest, so that the path stays below the folder.
        ending: the file's extension, in lower case, without its dot.
    """
    name = re.sub(rf"\.({ending})/", r"%2E\1/", image_id, flags=re.IGNORECASE)  # some file systems ignore case
    return f"{folder}/{name}.{ending}"


def mask_path(image_id: str) -> str:
    """The mask's path below the output folder, `masks/<image_id>.png`, see `place`."""
    return place(MASKS, image_id, "png")
