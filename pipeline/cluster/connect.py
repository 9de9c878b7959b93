"""Connecting to a Ray cluster or starting one, and its machines."""

from __future__ import annotations

import logging
import os

import ray
import ray.data
from ray._private.state import state
from tenacity import Retrying, stop_after_attempt

from pipeline import storage
from pipeline.errors import ClusterError

WORKER_SETTINGS = {
    # Else glibc gives a network's maps back to the system whenever they are freed; asking for zeroed pages again took a
    # fifth of the time of the network and of the CRF.
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    # Else each pass of a training prints Ray Data's plan for it among the lines that say how the training goes.
    "RAY_DATA_LOG_LEVEL": "WARNING",
}
"""Of every process that works for a job, unless the environment says otherwise."""
LOCAL = "local"  # Ray's word for a cluster of its own
LOCAL_ATTEMPTS = 3
LOCAL_SETTINGS = {
    "RAY_AUTH_MODE": "disabled",  # else a local start turns token authentication on for all
    # Ray ends a worker that had nothing to do for a second, and a new one takes three seconds of a core to start: where
    # the network is the bound, that would be each worker that decodes, between any two blocks.
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
    # Ray Data gathers what Ray's makers may count in a process of its own: two seconds of a core at every start.
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Of a Ray that is started here; on a cluster they belong to `ray start` (see `cluster.yaml`)."""


def start_ray() -> None:
    """Connect to the cluster, or start one on this machine; workers get the settings of the stores.

    Raises:
        ClusterError: neither is possible.
    """
    for name, value in LOCAL_SETTINGS.items():
        os.environ.setdefault(name, value)
    _quieten()
    if ray.is_initialized():
        return
    # Without an address Ray would join whatever Ray it finds on this machine: that of another job, which ends with it.
    address = os.environ.get("RAY_ADDRESS", LOCAL)
    environment = {name: os.environ.get(name, value) for name, value in WORKER_SETTINGS.items()}
    environment |= storage.worker_environment()
    # Ray gives a cluster on this machine 30 seconds to start, which a busy machine may not keep.
    attempts = Retrying(
        stop=stop_after_attempt(LOCAL_ATTEMPTS if address == LOCAL else 1), after=lambda _: ray.shutdown(), reraise=True
    )
    try:
        attempts(ray.init, address, logging_level=logging.WARNING, runtime_env={"env_vars": environment})
    except Exception as error:  # Ray raises many types here, plain Exception among them
        where = (
            f"the cluster at RAY_ADDRESS={address} cannot be reached" if address != LOCAL else "Ray cannot start here"
        )
        raise ClusterError(f"{where}: {error}") from error


def _quieten() -> None:
    """Leave Ray Data's routine to its log files: what a run does, the jobs say themselves, in a line now and then."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Else it tells users to set an argument of a call that is not theirs.
    context.issue_detectors_config.high_memory_detector_config.detection_time_interval_s = -1
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # warns that bars were switched off


def machines() -> list[dict[str, float]]:
    """Resources of each machine of the cluster that is up."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def lost_machines() -> int:
    """How many machines the cluster has lost since it began."""
    return sum(not node["Alive"] for node in ray.nodes())


def total(resource: str) -> float:
    """How much of a resource the cluster has, or may grow to."""
    limits = state.get_max_resources_from_cluster_config()  # as Ray Data asks for an autoscaler's limits
    return float(max(sum(machine.get(resource, 0) for machine in machines()), (limits or {}).get(resource, 0)))
