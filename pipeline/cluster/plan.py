"""How many processes each stage gets on the cluster that Ray is connected to."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pyarrow as pa
import ray
import ray.data

from pipeline.cluster.connect import machines, total
from pipeline.cluster.pools import REFINE_GPUS, Estimate, Pools, check_placement, estimate, plan_pools
from pipeline.cluster.profile import PROBED, Probed, probe, sample
from pipeline.cluster.ray_private import autoscaler_limits
from pipeline.config import SegmentConfig
from pipeline.config.stages import GPU_CRFS
from pipeline.run.error_line import in_short
from pipeline.stages.load import Loads


def profile_stages(
    manifest: pa.Table, loads: Loads, pools: Pools, patience: float, log: Callable[[str], None]
) -> Probed | None:
    """Time each stage on a few images, in one process with the CPUs of a predict actor.

    Args:
        manifest: the images are chosen from it.
        loads: the stages.
        pools: resources of the process.
        patience: seconds after which to give up, since machines may be slow to start, and processes may hang.
        log: prints a line.

    Returns:
        See `profile.probe`; None if it could not be done, which is logged and does not prevent the run.
    """
    gpus = max(pools.predict_gpus, pools.refine_gpus)
    timing = ray.remote(probe).options(num_cpus=pools.predict_cpus, num_gpus=gpus, max_retries=0)
    task = timing.remote(sample(manifest), loads)
    try:
        probed: Probed = ray.get(task, timeout=patience)
    except ray.exceptions.RayError as error:
        ray.cancel(task, force=True)  # otherwise it keeps resources that the run needs
        log(f"the stages could not be timed, so the plan is a guess: {in_short(error)}")
        return None
    return probed


def timed_plan(
    config: SegmentConfig, loads: Loads, pools: Pools, images: pa.Table, log: Callable[[str], None]
) -> tuple[Pools, Probed]:
    """The pools for stages that were timed on a few images; a line says how long the run will take with them.

    Args:
        config: the job's settings.
        loads: the stages.
        pools: a guess, which also sets the resources of the process that times them.
        images: the run's images that are left.
        log: prints a line.

    Returns:
        The pools, and what the stages did; `pools` and nothing else if they could not be timed.
    """
    log(f"timing the stages on {min(PROBED, len(images))} images")
    probed = profile_stages(images, loads, pools, config.stall_timeout, log)
    if probed is None:
        return pools, Probed()
    timed = plan(config, probed.seconds)
    gpus = total("GPU") if timed.predict_gpus else 0.0
    log(_in_words(estimate(timed, total("CPU"), probed.seconds), len(images), gpus, config.price))
    return timed, probed


def _in_words(expected: Estimate, images: int, gpus: float, price: float | None) -> str:
    """How long a run will take, and what it will cost, as text; without GPUs these are limits.

    One process is timed alone, and cores that all compute are slower than one that does: they share caches and memory.
    """
    about, least = ("at most", "at least ") if expected.bound == "cpu" else ("about", "")
    hours = images / expected.images_per_second / 3600
    on_gpus = f", {hours * gpus:.2f} GPU-hours" if gpus else ""
    cost = f", cost {price * hours:.2f}" if price is not None else ""
    return (
        f"bound by {expected.bound}: {about} {expected.images_per_second:.2f} images/s, {least}"
        f"{timedelta(seconds=round(hours * 3600))} for {images} images{on_gpus}{cost}"
    )


def plan(config: SegmentConfig, seconds: dict[str, float] | None = None) -> Pools:
    """Size the pools for the cluster that Ray is connected to, or for the largest it may grow to.

    Args:
        config: the job's settings.
        seconds: seconds per image in each stage (`profile_stages`); None: a guess.

    Raises:
        PoolError: the processes do not fit the cluster.
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
    if limits is None:  # machines that have not started yet cannot be checked
        return check_placement(pools, machines())
    return pools
