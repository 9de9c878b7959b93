"""Settings of the export to other tools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.config.checks import require, require_kinds, require_local

ExportFormat = Literal["coco", "coco-panoptic", "cvat", "hf", "labelstudio", "masks-grey", "yolo"]
"""What results can be exported to; each is a file in `pipeline/export/formats/`, its hyphens underscores there."""


@dataclass(frozen=True)
class ExportConfig:
    """Write a run's results as another tool reads them, to a new folder on this machine.

    The connected parts of a class in an image are its objects: semantic segmentation tells classes apart, and not two
    things of one class that touch. docs/using_results.md has a table of the formats.
    """

    results: str
    """Output folder of a run."""
    to: ExportFormat
    """The format: `coco`: instance annotations with run lengths; `coco-panoptic`: panoptic PNGs and segments; `cvat`:
    "CVAT for images 1.1" with masks; `hf`: Parquet for Hugging Face's `datasets`; `labelstudio`: tasks with brush
    predictions; `masks-grey`: 8-bit grey PNGs and classes.txt, which `build-training-set` reads; `yolo`: polygons and
    data.yaml."""
    output: str
    """Folder for the export, on this machine. Must be new or empty."""
    min_area: int = 0
    """Connected parts of a class with fewer pixels become background, in every format. 0: every pixel is exported, the
    specks that a CRF leaves along outlines among them, each an object of its own."""
    copy_images: bool = False
    """Copy the images into the export. Default: link to those on this machine; `hf` holds their addresses."""

    def __post_init__(self) -> None:
        require_kinds(self)
        require(self.min_area >= 0, "min_area", self.min_area, "must be 0 or more")
        require_local("output", self.output)
