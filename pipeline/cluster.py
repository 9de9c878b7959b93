"""The cluster that a job runs on: connecting to it, its machines, and what fits on them."""

from __future__ import annotations

import logging
import os

import ray
from ray._private.state import state
from tenacity import Retrying, stop_after_attempt

from pipeline import storage
from pipeline.config import SegmentConfig
from pipeline.pools import ClusterError, Pools, check_placement, plan_pools

LOCAL_ATTEMPTS = 3


def start_ray() -> None:
    """Connect to the cluster, or start one on this machine; workers get the settings of the stores.

    Raises:
        ClusterError: neither is possible.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # else a local start turns token authentication on for all
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    # Ray gives a cluster on this machine 30 seconds to start, which a busy machine may not keep.
    attempts = Retrying(
        stop=stop_after_attempt(1 if address else LOCAL_ATTEMPTS), after=lambda _: ray.shutdown(), reraise=True
    )
    try:
        attempts(ray.init, logging_level=logging.WARNING, runtime_env={"env_vars": storage.worker_environment()})
    except Exception as error:  # Ray raises many types here, plain Exception among them
        where = f"the cluster at RAY_ADDRESS={address} cannot be reached" if address else "Ray cannot start here"
        raise ClusterError(f"{where}: {error}") from error


def machines() -> list[dict[str, float]]:
    """Resources of each machine of the cluster that is up."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def lost_machines() -> int:
    """How many machines the cluster has lost since it began."""
    return sum(not node["Alive"] for node in ray.nodes())


def plan(config: SegmentConfig) -> Pools:
    """Size the pools for the cluster that Ray is connected to, or for the largest it may grow to.

    Raises:
        PoolError: they do not fit.
    """
    limits = state.get_max_resources_from_cluster_config()  # as Ray Data asks for an autoscaler's limits
    cpus, gpus = (
        max(sum(machine.get(name, 0) for machine in machines()), (limits or {}).get(name, 0)) for name in ("CPU", "GPU")
    )
    each = config.predict_gpus
    if each is None and config.predict.device != "auto":
        each = float(config.predict.device == "cuda")
    pools = plan_pools(cpus, gpus, config.predict_workers, config.refine_workers, each)
    if limits is None:  # machines that are not there yet cannot be looked at
        check_placement(pools, machines())
    return pools
