"""Settings of the ablation."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from pipeline.config.checks import ConfigError, require

VARIANTS = {
    "base": "",
    "proposals-1": "--proposals 1",
    "proposals-5": "--proposals 5",
    "proposals-10": "--proposals 10",
    "proposals-20": "--proposals 20",
    "no-crf": "--crf none",
    "average": "--aggregation average",
    "direct": "--window direct",
}
"""Rows of the ablation: what each changes in the main job's options."""


@dataclass(frozen=True)
class AblateConfig:
    """The main job and its evaluation, with one thing changed at a time."""

    data: str
    """Data set in VOC's layout: JPEGImages, SegmentationClass, ImageSets/Segmentation for `split`."""
    output: str
    """Folder for the table, the figure and a run of the main job for each variant. The same command again finishes
    what is left."""
    weights: str = "demo"
    """As the main job's."""
    split: str | None = None
    """Take only the images of this list. Default: all that have a mask."""
    limit: int | None = None
    """Take only the first so many of them."""
    base: str = ""
    """Options of the main job that all variants share, written --base='--precision bfloat16'."""
    also: tuple[str, ...] = ()
    """More variants, each as NAME='OPTIONS OF THE MAIN JOB', such as structured='--edges structured --edge-model
    model.yml.gz'. A name that is there already gets these options."""
    only: tuple[str, ...] = ()
    """Names of the variants to run. Default: all."""
    trimap: int = 5
    """The column of results near boundaries counts the pixels at most so far from one."""

    def __post_init__(self) -> None:
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


def read_variants(variants: tuple[str, ...]) -> dict[str, str]:
    """Options by name, of NAME=OPTIONS.

    Raises:
        ConfigError: there is no such pair, or the name cannot be a folder's.
    """
    pairs = {}
    for variant in variants:
        name, equals, options = variant.partition("=")
        if not equals or not name.replace("-", "").replace("_", "").isalnum():
            raise ConfigError(f"variant is {variant!r}; write NAME='OPTIONS', the name of letters, digits, - and _")
        pairs[name] = options
    return pairs
