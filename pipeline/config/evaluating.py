"""Settings of evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config.checks import require


@dataclass(frozen=True)
class EvaluateConfig:
    """A run's results against ground truth, or for the server that has it."""

    results: str
    """Output folder of a run."""
    ground_truth: str | None = None
    """Folder in VOC's layout: SegmentationClass/<name>.png, and ImageSets/Segmentation/<split>.txt for `split`;
    or in COCO's: annotations/instances_<split>.json, joined by `file_name`."""
    split: str | None = None
    """Compare only the images of this list. Default: all that have a mask."""
    json: str | None = None
    """File for the figures. Default: RESULTS/run/evaluation.json."""
    trimap: int = 0
    """Also score only the pixels within 1, 2, ... so many pixels of a boundary of the ground truth.
    Adds a table, and a figure beside the JSON, trimap.png. 0: not."""
    panels: int = 0
    """Draw photograph, ground truth (if there is one) and result side by side, for so many images, the first by name:
    RESULTS/panels/<image id>.png."""
    require_all: bool = False
    """Exit with code 2 when an image of the ground truth has no result or could not be compared."""
    submission: str | None = None
    """Folder for the masks in the layout of the VOC server. Must not hold any yet."""

    def __post_init__(self) -> None:
        require(self.panels >= 0, "panels", self.panels, "must be 0 or more")
        require(0 <= self.trimap <= 100, "trimap", self.trimap, "must lie in 0..100")
        if self.ground_truth is not None:
            return
        require(
            self.submission is not None or self.panels > 0,
            "ground_truth",
            None,
            "give it, or `panels` or `submission`, which can do without",
        )
        for name in ("split", "json", "trimap", "require_all"):
            require(not getattr(self, name), name, getattr(self, name), "it needs `ground-truth`")
