"""Connecting to a Ray cluster or starting one, and its machines."""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress

import psutil
import ray
import ray._private.worker
from tenacity import RetryCallState, Retrying, stop_after_attempt

from pipeline import storage
from pipeline.cluster.ray_private import answers, autoscaler_limits, full_address, log_folder
from pipeline.cluster.terminal import log, quieten, send_stderr_to
from pipeline.errors import ClusterError
from pipeline.run.error_line import in_short

WORKER_SETTINGS = {
    # Otherwise glibc returns a network's maps to the system whenever they are freed; requesting zeroed pages again took
    # a fifth of the time of the network and of the CRF.
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    # Otherwise each pass of a training prints Ray Data's plan among the training's progress lines.
    "RAY_DATA_LOG_LEVEL": "WARNING",
}
"""Environment of every process that works for a job, unless the variables are set already."""
LOCAL = "local"  # Ray's name for starting a separate cluster
ATTEMPTS = 3  # at starting Ray, and at joining one that answers
LOCAL_SETTINGS = {
    "RAY_AUTH_MODE": "disabled",  # otherwise a local start turns token authentication on for all
    # Ray ends a worker that was idle for a second, and a new one takes three seconds of a core to start: where the
    # network is the bottleneck, that would happen to every worker that decodes, between any two blocks.
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
    # Otherwise Ray Data collects usage statistics in an extra process: two seconds of a core at every start.
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Environment of a Ray that is started here; on a cluster they belong to `ray start` (see `cluster.yaml`)."""
ANSWER_SECONDS = 8.0
"""Seconds within which a cluster must answer."""
LONGEST_TEMPORARY = 107 - len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/dash_TaskEventsHead")
"""Most bytes in the path of Ray's temporary folder; Linux allows 107 for a socket's path."""
SHORT_TEMPORARY = "/tmp"  # noqa: S108  (Ray's own default)


def start_ray() -> None:
    """Connect to the cluster, or start one on this machine; workers get the settings of the stores.

    A line says which of the two was done. Output of Ray and its workers goes to Ray's log files, see `terminal`.

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
    # Ray allows 30 seconds for a cluster on this machine to start, and a few for joining one: a busy machine may need
    # longer for both.
    ours = set(psutil.Process().children())

    def clear_away(attempt: RetryCallState) -> None:
        _clear_away(ours)
        if attempt.attempt_number < ATTEMPTS:
            log("Ray did not start in time, as happens on a busy machine; trying again")

    attempts = Retrying(stop=stop_after_attempt(ATTEMPTS), after=clear_away, reraise=True)
    try:
        attempts(ray.init, address or LOCAL, logging_level=logging.WARNING, runtime_env={"env_vars": environment})
    except Exception as error:  # Ray raises many types here, also plain Exception
        where = f"the Ray cluster at {address} cannot be joined" if address else "Ray cannot start here"
        raise ClusterError(f"{where}: {in_short(error)}") from error
    send_stderr_to(str(log_folder()))
    if address is not None:
        log(f"joined the Ray cluster at {address}: {len(machines())} machine(s), {total('CPU'):.0f} CPUs")


def _clear_away(ours: set[psutil.Process]) -> None:
    """End the processes of a Ray that did not start in time: it ends only the one that was late.

    Args:
        ours: children of this process before Ray's start.
    """
    ray.shutdown()
    left = set(psutil.Process().children()) - ours
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=ANSWER_SECONDS)


def _cluster() -> str | None:
    """The address of the cluster to join, which answers; None: a cluster must be started.

    Without RAY_ADDRESS, a job starts its own: Ray would join a cluster that it finds on this machine, such as the Ray
    of another job, which ends with that job.

    Raises:
        ClusterError: the cluster at RAY_ADDRESS does not answer, or cannot be joined in this way.
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
    """Choose a temporary folder for Ray and its processes in which the paths of sockets are short enough.

    Raises:
        ClusterError: there is no such folder.
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
    """Resources of each machine of the cluster that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def lost_machines() -> int:
    """How many machines the cluster has lost since it started."""
    return sum(not node["Alive"] for node in ray.nodes())


def total(resource: str) -> float:
    """How much of a resource the cluster has, or may grow to."""
    limits = autoscaler_limits() or {}
    return float(max(sum(machine.get(resource, 0) for machine in machines()), limits.get(resource, 0)))
