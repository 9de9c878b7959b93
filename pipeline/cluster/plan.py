"""How many processes each stage gets on the cluster that Ray is connected to."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pyarrow as pa
import ray
import ray.data

from pipeline.cluster.connect import machines, total
from pipeline.cluster.pools import REFINE_GPUS, Estimate, Pools, check_placement, estimate, plan_pools
from pipeline.cluster.profile import PROBED, probe, sample
from pipeline.cluster.ray_private import autoscaler_limits
from pipeline.config import SegmentConfig
from pipeline.config.stages import GPU_CRFS
from pipeline.run.error_line import in_short
from pipeline.stages.load import Loads


def profile_stages(
    manifest: pa.Table, loads: Loads, pools: Pools, patience: float, log: Callable[[str], None]
) -> dict[str, float] | None:
    """Time each stage on a few images, in one process with the CPUs of a predict actor.

    Args:
        manifest: what the images are taken from.
        loads: the stages.
        pools: what the process gets.
        patience: seconds after which it is given up: machines may be slow to come, processes may hang.
        log: prints a line.

    Returns:
        See `profile.probe`; None if it could not be done, which is told and no reason not to try the run.
    """
    gpus = max(pools.predict_gpus, pools.refine_gpus)
    timing = ray.remote(probe).options(num_cpus=pools.predict_cpus, num_gpus=gpus, max_retries=0)
    task = timing.remote(sample(manifest), loads)
    try:
        seconds: dict[str, float] = ray.get(task, timeout=patience)
    except ray.exceptions.RayError as error:
        ray.cancel(task, force=True)  # else it keeps what the run needs
        log(f"the stages could not be timed, so the plan is a guess: {in_short(error)}")
        return None
    return seconds


def timed_plan(
    config: SegmentConfig, loads: Loads, pools: Pools, images: pa.Table, log: Callable[[str], None]
) -> tuple[Pools, dict[str, float]]:
    """The pools for stages that were timed on a few images, and what the run will take with them, in a line.

    Args:
        config: the job's settings.
        loads: the stages.
        pools: a guess; what the process that times them gets.
        images: of the run, those that are left.
        log: prints a line.

    Returns:
        The pools, and the seconds of an image in each stage; `pools` and no seconds where they could not be timed.
    """
    log(f"timing the stages on {PROBED} images")
    seconds = profile_stages(images, loads, pools, config.stall_timeout, log)
    if seconds is None:
        return pools, {}
    timed = plan(config, seconds)
    gpus = total("GPU") if timed.predict_gpus else 0.0
    log(_in_words(estimate(timed, total("CPU"), seconds), len(images), gpus, config.price))
    return timed, seconds


def _in_words(expected: Estimate, images: int, gpus: float, price: float | None) -> str:
    """How long a run of so many images will take on so many GPUs, and what it will cost."""
    hours = images / expected.images_per_second / 3600
    on_gpus = f", {hours * gpus:.2f} GPU-hours" if gpus else ""
    cost = f", cost {price * hours:.2f}" if price is not None else ""
    return (
        f"bound by {expected.bound}: about {expected.images_per_second:.2f} images/s, "
        f"{timedelta(seconds=round(hours * 3600))} for {images} images{on_gpus}{cost}"
    )


def plan(config: SegmentConfig, seconds: dict[str, float] | None = None) -> Pools:
    """Size the pools for the cluster that Ray is connected to, or for the largest it may grow to.

    Args:
        config: the job's settings.
        seconds: an image takes in each stage (`profile_stages`); None: a guess.

    Raises:
        PoolError: they do not fit.
    """
    limits = autoscaler_limits()
    cpus, gpus = total("CPU"), total("GPU")
    each = config.predict_gpus
    if each is None and config.predict.device != "auto":
        each = float(config.predict.device == "cuda")
    refine_each = config.refine_gpus
    if refine_each is None:
        refine_each = REFINE_GPUS if config.refine.crf in GPU_CRFS and gpus and each != 0 else 0.0
    pools = plan_pools(cpus, gpus, config.predict_workers, config.refine_workers, each, seconds, refine_each)
    if limits is None:  # machines that are not there yet cannot be looked at
        return check_placement(pools, machines())
    return pools
