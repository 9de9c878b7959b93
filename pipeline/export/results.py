"""A run's results, image by image, for whoever writes them in another format."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ImageError, ResultsError
from pipeline.export.names import Names, names_of
from pipeline.export.regions import without_specks
from pipeline.imaging.images import decode_mask
from pipeline.outputs import layout
from pipeline.outputs.results import ids_in, read_class_names, scan_results

COLUMNS = [
    "image_id", "uri", "manifest", "mask", "pixel_counts", "mean_probability", "mean_confidence", "model_fingerprint",
]  # fmt: skip

Watch = Callable[[Iterable[dict[str, Any]], int], Iterable[dict[str, Any]]]
"""Passes rows on and shows how far they are; the number is how many there are."""


@dataclass(frozen=True)
class Segmented:
    """An image and what was found in it."""

    number: int
    """From 1, in the order of the results."""
    row: dict[str, Any]
    """Of the results, `COLUMNS`."""
    labels_HW: NDArray[np.uint8]
    """At the size of the upright image."""
    name: str
    """The path of its label in the export, without an ending."""
    picture: str
    """The path of the image in the export, below its folder of images."""

    @property
    def image_id(self) -> str:
        """The id in the results."""
        return str(self.row["image_id"])

    @property
    def carried(self) -> dict[str, Any]:
        """The other columns of the user's manifest, under the key `manifest`; nothing if there are none."""
        text = self.row["manifest"]
        return {"manifest": json.loads(text)} if text else {}


@dataclass(frozen=True)
class Results:
    """The segmented images of an output, read anew each time they are iterated, some files at a time."""

    output_uri: str
    class_names: tuple[str, ...]
    """Background first."""
    names: Names
    count: int
    watch: Watch
    min_area: int = 0
    """Connected parts of a class of fewer pixels are background."""

    def __iter__(self) -> Iterator[Segmented]:
        rows = self.watch(scan_results(self.output_uri, COLUMNS), self.count)
        for number, row in enumerate(rows, start=1):
            image_id = row["image_id"]
            try:
                labels_HW = decode_mask(row["mask"] or b"")
            except ImageError as error:
                raise ResultsError(f"the mask of {image_id} in {self.output_uri} cannot be read: {error}") from error
            if self.min_area > 1:
                labels_HW = without_specks(labels_HW, self.min_area)
            yield Segmented(
                number, row, labels_HW, self.names.label(image_id), self.names.picture(image_id, row["uri"])
            )


def open_results(output_uri: str, watch: Watch | None = None, min_area: int = 0) -> Results:
    """The results of a run.

    Args:
        output_uri: its output folder.
        watch: is passed the rows as they are read.
        min_area: as in `Results`.

    Raises:
        ResultsError: there are none, or a file is damaged or foreign.
    """
    class_names = read_class_names(output_uri)
    ids = ids_in(output_uri, layout.RESULTS)
    if not len(ids):
        raise ResultsError(f"{output_uri} holds no segmented image; there is nothing to export")
    return Results(output_uri, class_names, names_of(ids), len(ids), watch or (lambda rows, _: rows), min_area)
