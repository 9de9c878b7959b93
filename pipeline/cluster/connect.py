"""Connecting to a Ray cluster or starting one, and its machines."""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress

import psutil
import ray
import ray._private.worker
from tenacity import Retrying, stop_after_attempt

from pipeline import storage
from pipeline.cluster.ray_private import answers, autoscaler_limits, full_address, log_folder
from pipeline.cluster.terminal import log, quieten, send_stderr_to
from pipeline.errors import ClusterError
from pipeline.run.error_line import in_short

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
ATTEMPTS = 3  # at starting Ray, and at joining one that answers
LOCAL_SETTINGS = {
    "RAY_AUTH_MODE": "disabled",  # else a local start turns token authentication on for all
    # Ray ends a worker that had nothing to do for a second, and a new one takes three seconds of a core to start: where
    # the network is the bound, that would be each worker that decodes, between any two blocks.
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
    # Ray Data gathers what Ray's makers may count in a process of its own: two seconds of a core at every start.
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Of a Ray that is started here; on a cluster they belong to `ray start` (see `cluster.yaml`)."""
ANSWER_SECONDS = 10.0
"""In which a cluster must answer."""
LONGEST_TEMPORARY = 107 - len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/dash_TaskEventsHead")
"""Bytes of the path of Ray's temporary folder: of a socket's path Linux allows 107."""
SHORT_TEMPORARY = "/tmp"  # noqa: S108  (Ray's own default)


def start_ray() -> None:
    """Connect to the cluster, or start one on this machine; workers get the settings of the stores.

    A line says which of the two. What Ray and its workers write goes to Ray's log files, see `terminal`.

    Raises:
        ClusterError: neither is possible.
    """
    for name, value in LOCAL_SETTINGS.items():
        os.environ.setdefault(name, value)
    quieten()
    if ray.is_initialized():
        return
    address = _cluster()
    if address is None:
        _shorten_temporary()
        log("starting Ray on this machine")
    environment = {name: os.environ.get(name, value) for name, value in WORKER_SETTINGS.items()}
    environment |= storage.worker_environment()
    # Ray gives a cluster on this machine 30 seconds to start, and itself a few to join one: a busy machine may not keep
    # either.
    ours = set(psutil.Process().children())
    attempts = Retrying(stop=stop_after_attempt(ATTEMPTS), after=lambda _: _clear_away(ours), reraise=True)
    try:
        attempts(ray.init, address or LOCAL, logging_level=logging.WARNING, runtime_env={"env_vars": environment})
    except Exception as error:  # Ray raises many types here, plain Exception among them
        where = f"the Ray cluster at {address} cannot be joined" if address else "Ray cannot start here"
        raise ClusterError(f"{where}: {in_short(error)}") from error
    send_stderr_to(str(log_folder()))
    if address is not None:
        log(f"joined the Ray cluster at {address}: {len(machines())} machine(s), {total('CPU'):.0f} CPUs")


def _clear_away(ours: set[psutil.Process]) -> None:
    """End what a Ray that did not start in time has left: it keeps all its processes but the one that was late.

    Args:
        ours: children of this process from before Ray's start.
    """
    ray.shutdown()
    left = set(psutil.Process().children()) - ours
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=ANSWER_SECONDS)


def _cluster() -> str | None:
    """The address of the cluster to join, which answers; None where one is to be started.

    Without RAY_ADDRESS it is one of its own: Ray would join what it finds on this machine, such as the Ray of another
    job, which ends with that.

    Raises:
        ClusterError: the one that is asked for does not answer, or cannot be joined in this way.
    """
    asked = os.environ.get("RAY_ADDRESS") or LOCAL
    if asked == LOCAL:
        return None
    if re.match(r"https?://|ray://", asked):
        raise ClusterError(
            f"RAY_ADDRESS={storage.redact(asked)} is no address that a job can join. To run on that cluster, send the "
            "command there: `ray job submit --address http://HOST:8265 --working-dir . -- COMMAND`. To run here, set "
            f"RAY_ADDRESS={LOCAL}"
        )
    address = full_address(asked)
    if address is None or not answers(address, ANSWER_SECONDS):
        raise ClusterError(
            f"no Ray cluster answers at RAY_ADDRESS={asked}: see that it is up and can be reached from here (HOST:PORT "
            f"as `ray start` names it), or set RAY_ADDRESS={LOCAL} to start one on this machine"
        )
    return address


def _shorten_temporary() -> None:
    """Let Ray's files, and those of the processes that it starts, go where the paths of sockets are short enough.

    Raises:
        ClusterError: there is no such place.
    """
    for name in ("RAY_TMPDIR", "TMPDIR"):
        folder = os.environ.get(name, "")
        if len(os.fsencode(folder)) <= LONGEST_TEMPORARY:
            continue
        if not os.access(SHORT_TEMPORARY, os.W_OK):
            raise ClusterError(
                f"{name}={folder} is too long for Ray's sockets: its path may have {LONGEST_TEMPORARY} bytes"
            )
        os.environ[name] = SHORT_TEMPORARY
        log(f"{name}={folder} is too long a path for Ray's sockets: its files go to {SHORT_TEMPORARY}/ray")


def machines() -> list[dict[str, float]]:
    """Resources of each machine of the cluster that is up."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def lost_machines() -> int:
    """How many machines the cluster has lost since it began."""
    return sum(not node["Alive"] for node in ray.nodes())


def total(resource: str) -> float:
    """How much of a resource the cluster has, or may grow to."""
    limits = autoscaler_limits() or {}
    return float(max(sum(machine.get(resource, 0) for machine in machines()), limits.get(resource, 0)))
