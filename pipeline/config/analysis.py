"""Settings of the ablation and of the pictures of what the network does."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from pipeline.config.checks import require, require_kinds
from pipeline.errors import ConfigError

VARIANTS = {
    "base": "",
    "proposals-1": "--proposals 1",
    "proposals-5": "--proposals 5",
    "proposals-10": "--proposals 10",
    "proposals-20": "--proposals 20",
    "no-crf": "--crf none",
    "average": "--aggregation average",
    "sum": "--aggregation sum",
    "direct": "--window direct",
    "gradient-edges": "--edges gradient",
}
"""Rows of the ablation: what each changes in the main job's options."""

COMPARED = {"without the CRF": "--crf none", "with the settings": ""}
"""Results that are always among those shown side by side."""


@dataclass(frozen=True)
class AblateConfig:
    """What each part of the method is worth: the main job with one thing changed at a time, scored, in one table.

    Each variant is its own run in OUTPUT/<variant>; the same command again finishes what is left. Writes
    OUTPUT/ablation.json, ablation.csv and, if variants differ only in the number of proposals, proposals.png.
    """

    data: str
    """Data set in VOC's layout: JPEGImages, SegmentationClass, ImageSets/Segmentation for `split`."""
    output: str
    """Folder for the table, the figure and a run of the main job for each variant.
    The same command again finishes what is left."""
    weights: str = "demo"
    """As in the main job."""
    split: str | None = None
    """Take only the images of this list. Default: all that have a mask."""
    limit: int | None = None
    """Take only the first N of them."""
    base: str = ""
    """Options of the main job that all variants share, written --base='--precision bfloat16'."""
    also: tuple[str, ...] = ()
    """More variants, each as NAME='OPTIONS OF THE MAIN JOB', such as
    structured='--edges structured --edge-model model.yml.gz'. A name that is there already gets these options."""
    only: tuple[str, ...] = ()
    """Names of the variants to run. Default: all."""
    trimap: int = 5
    """The column for boundaries counts only the pixels at most this far from one."""

    def __post_init__(self) -> None:
        require_kinds(self)
        require(self.limit is None or self.limit >= 1, "limit", self.limit, "must be at least 1")
        require(1 <= self.trimap <= 100, "trimap", self.trimap, "must lie in 1..100")
        self.variants()

    def variants(self) -> dict[str, list[str]]:
        """The main job's options by the variant's name.

        Raises:
            ConfigError: `also` is not NAME=OPTIONS, or `only` names no variant.
            ValueError: a quotation in options does not end.
        """
        known = VARIANTS | read_variants(self.also)
        for name in self.only:
            require(name in known, "only", name, f"the variants are {', '.join(known)}")
        return {name: shlex.split(f"{self.base} {known[name]}") for name in self.only or known}


@dataclass(frozen=True)
class InspectConfig:
    """Draw one image's way through the main job, step by step, without Ray.

    OUTPUT/<name>_steps.png has edges, proposals, single windows, and labels and confidence before and after the CRF,
    with seconds. With a truth or results to compare, OUTPUT/<name>_panels.png has them side by side; of the paper's
    network, OUTPUT/<name>_activations.png has the decoder's maps, coarse to fine, one channel a layer (its figure 4).
    """

    image: str
    """The image: a file, or with `results` an image id."""
    output: str
    """Folder for the pictures."""
    results: str | None = None
    """Output folder of a run: the image is one of its images, and settings and network are the run's."""
    weights: str | None = None
    """As in the main job. Default: the run's, or the main job's default."""
    box: tuple[float, float, float, float] | None = None
    """Part of the image, x0 y0 x1 y1 in pixels, that is resized to 224x224 for the activations. Default: all of it."""
    truth: str | None = None
    """The image's mask, a palette PNG, to be shown beside the results."""
    base: str = ""
    """Options of the main job for all pictures, written --base='--proposals 20'."""
    also: tuple[str, ...] = ()
    """More results to show, each as NAME='OPTIONS OF THE MAIN JOB'."""

    def __post_init__(self) -> None:
        require_kinds(self)
        box = self.box
        require(box is None or (box[0] < box[2] and box[1] < box[3]), "box", box, "x0 < x1 and y0 < y1 are needed")
        self.compared()

    def compared(self) -> dict[str, list[str]]:
        """The main job's options by the result's name; errors as `AblateConfig.variants`."""
        known = COMPARED | read_variants(self.also)
        return {name: shlex.split(f"{self.base} {options}") for name, options in known.items()}


def read_variants(variants: tuple[str, ...]) -> dict[str, str]:
    """Split entries NAME=OPTIONS into options by name.

    Raises:
        ConfigError: an entry is not NAME=OPTIONS, or a name cannot be a folder's.
    """
    pairs = {}
    for variant in variants:
        name, equals, options = variant.partition("=")
        if not equals or not re.fullmatch(r"[\w+-]+", name):
            raise ConfigError(f"variant is {variant!r}; write NAME='OPTIONS', the name of letters, digits, _, + and -")
        pairs[name] = options
    return pairs
