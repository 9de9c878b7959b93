"""Recipes: named starting points of a job's settings. An option that is given wins over its recipe.

A recipe is a function from settings to settings and a line in its job's table; the setting `recipe` holds its name.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pipeline.config.segmenting import SegmentConfig
from pipeline.config.training import TrainConfig

Recipe = Callable[[Any], Any]


def first_look(arguments: Sequence[str] | None, option: str, default: str) -> str:
    """The value of one option in a job's command line, whatever else is in it: the recipe is needed to read the rest.

    Args:
        arguments: those of the command line; None: the process's own.
        option: its name without dashes, such as `recipe`.
        default: the value if the option is not given.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{option}", default=default)
    return str(getattr(parser.parse_known_args(arguments)[0], option))


def deconvnet(config: SegmentConfig) -> SegmentConfig:
    """DeconvNet: no CRF, no ensemble (paper: mean IoU 69.6 on VOC 2012 test)."""
    return replace(config, recipe="deconvnet", refine=replace(config.refine, crf="none"))


def deconvnet_crf(config: SegmentConfig) -> SegmentConfig:
    """DeconvNet+CRF (70.5): the defaults."""
    return replace(config, recipe="deconvnet+crf")


def fcn(config: SegmentConfig) -> SegmentConfig:
    """An FCN alone: whole images, no proposals, no CRF."""
    with_crf = fcn_crf(config)
    return replace(with_crf, recipe="fcn", refine=replace(with_crf.refine, crf="none"))


def fcn_crf(config: SegmentConfig) -> SegmentConfig:
    """An FCN and the CRF: whole images, no proposals.

    The kernels were chosen with `voc-fcn` and `voc` on every second of the val photographs at hand (docs/results.md).
    Five iterations are half as many as the default; ten gave the same and took half again as long.
    """
    return replace(
        config,
        recipe="fcn+crf",
        weights="voc-fcn",
        propose=replace(config.propose, proposals=0),
        refine=replace(
            config.refine,
            crf_iterations=5,
            gaussian_weight=1.0,
            bilateral_sxy=60.0,
            bilateral_srgb=5.0,
            bilateral_weight=2.0,
        ),
    )


def edeconvnet(config: SegmentConfig) -> SegmentConfig:
    """EDeconvNet (71.7): mean of the probabilities of DeconvNet and an FCN, no CRF."""
    return replace(deconvnet(edeconvnet_crf(config)), recipe="edeconvnet")


def edeconvnet_crf(config: SegmentConfig) -> SegmentConfig:
    """EDeconvNet+CRF (72.5): mean of the probabilities, then the CRF."""
    return replace(config, recipe="edeconvnet+crf", ensemble=replace(config.ensemble, ensemble="mean"))


def voc(config: SegmentConfig) -> SegmentConfig:
    """The bundled networks for photographs, a light DeconvNet and a light FCN, as an ensemble with the CRF.

    The weight was chosen on every second one of the val photographs at hand, and so was the paper's maximum over the
    average (docs/models/voc.md).
    """
    with_crf = fcn_crf(config)
    return replace(
        with_crf,
        recipe="voc",
        weights="voc",
        propose=replace(config.propose, proposals=10),
        predict=replace(config.predict, aggregation="max"),
        ensemble=replace(config.ensemble, fcn="voc-fcn", ensemble="mean", ensemble_weight=0.4),
    )


def release(config: SegmentConfig) -> SegmentConfig:
    """The rules of the released code, `generate_EDeconvNet_CRF_results`, as far as it shows them.

    The release reads its boxes from a file. Its code shows only that they are ordered, that those whose shorter side
    is below 112 pixels are skipped, and that 50 are used. Here they are squares around this project's EdgeBoxes, with
    a side of 1.2 times the longer one, like the windows in the release's training lists. The release ends with an
    error for images larger than 500 pixels; `max_side` stays as it is.
    """
    return replace(
        config,
        recipe="release",
        propose=replace(
            config.propose,
            proposals=50,
            min_side=112.0,
            small_image_share=0.0,
            extend=1.2,
            window_shape="square",
        ),
        predict=replace(config.predict, window="direct", aggregation="max"),
        ensemble=replace(config.ensemble, ensemble="product"),
        refine=replace(
            config.refine,
            crf_normalization="none",
            crf_iterations=10,
            gaussian_sxy=3.0,
            gaussian_weight=3.0,
            bilateral_sxy=20.0,
            bilateral_srgb=3.0,
            bilateral_weight=5.0,
            label_threshold=0.0,
        ),
    )


def train_as_in_paper(config: TrainConfig) -> TrainConfig:
    """Training as the paper describes it: the defaults."""
    return replace(config, recipe="paper")


def train_as_released(config: TrainConfig) -> TrainConfig:
    """Training as in the authors' solvers and network definitions, where they differ from the paper."""
    return replace(
        config,
        recipe="release",
        epochs=(1000, 1000),  # so `iterations` ends a stage
        iterations=(20_000, 40_000),
        schedule="steps",
        lr_steps=(9_000, 10_000),
        # The solver sums the gradients of 8 micro-batches of 8, adds the decay of 0.0005 once and divides by 8.
        micro_batch=8,
        weight_decay=0.0005 / 8,
        bias_lr_factor=2.0,
        decay_biases=False,
        # Its batch normalisation keeps the gradient of the last micro-batch only, and the solver divides that too.
        norm_lr_factor=1 / 8,
        norm_eps=1e-9,
        validate_every=500,
        val_windows=8000,
        bn_statistics=501 * 28,  # the batches of their third step, times their size
    )


SEGMENT_RECIPES: dict[str, Recipe] = {
    "deconvnet": deconvnet,
    "deconvnet+crf": deconvnet_crf,
    "fcn": fcn,
    "fcn+crf": fcn_crf,
    "voc": voc,
    "edeconvnet": edeconvnet,
    "edeconvnet+crf": edeconvnet_crf,
    "release": release,
}
ENSEMBLES = ("edeconvnet", "edeconvnet+crf")
"""Recipes that need a second network; `release` uses one if it is given."""
TRAIN_RECIPES: dict[str, Recipe] = {"paper": train_as_in_paper, "release": train_as_released}
