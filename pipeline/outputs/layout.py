"""What an output folder looks like from outside: the names of all that the jobs write below it."""

from __future__ import annotations

import re

from pipeline import storage

RESULTS, ERRORS, SKIPPED, MASKS, PROBABILITIES = "results", "errors", "skipped", "masks", "probabilities"
PANELS, RUN = "panels", "run"

OF_IMAGES = (RESULTS, ERRORS, SKIPPED, MASKS, PROBABILITIES)
"""What the main job writes of images; `--overwrite` removes it."""
FOLDERS = (*OF_IMAGES, PANELS, RUN)
"""What the jobs write."""
RECORD = f"{RUN}/config.json"
"""Says whose output it is, and by which a folder is told to be one."""
SUMMARY = f"{RUN}/summary.json"
"""What came of it, in figures."""
MANIFEST = f"{RUN}/manifest.parquet"
"""All images of the run."""
REPORT = f"{RUN}/report.html"
"""The page that shows it to people."""


def is_output(folder: str) -> bool:
    """Say of a folder's address whether it is one of `FOLDERS` of a run, told by the run's own record beside it.

    Raises:
        OSError: the store does not say.
    """
    above, _, name = folder.rpartition("/")
    return name in FOLDERS and storage.exists(f"{above}/{RECORD}")


def place(folder: str, image_id: str, ending: str) -> str:
    """The path below an output of what one image gives, `<folder>/<image_id>.<ending>`.

    In a folder's name that ends in `.<ending>` the point becomes `%2E`, which no id has there: the mask of `x.bmp` is a
    file `x.bmp.png`, and there may be images in a folder of that name.

    Args:
        folder: below the output, such as `masks`.
        image_id: a manifest's, so the path stays below the folder.
        ending: of the file, in lower case and without its point.
    """
    name = re.sub(rf"\.({ending})/", r"%2E\1/", image_id, flags=re.IGNORECASE)  # some file systems know no case
    return f"{folder}/{name}.{ending}"
