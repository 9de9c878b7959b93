"""All that is used of Ray without being promised by it. A new version of Ray is looked at here first.

`pyproject.toml` bounds Ray's version; tests/cluster runs each of these functions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import grpc
import ray._private.worker
from ray._private import services
from ray._private.grpc_utils import init_grpc_channel
from ray._private.state import state
from ray.data import Dataset


def log_folder() -> str | None:
    """Where Ray keeps the logs of this machine's processes; None before it has started."""
    node = ray._private.worker._global_node
    return None if node is None else str(node.get_logs_dir_path())


def full_address(asked: str) -> str | None:
    """The address `HOST:PORT` that RAY_ADDRESS means; None where it means none."""
    try:
        return services.canonicalize_bootstrap_address(asked)
    except (ValueError, OSError):
        return None


def answers(address: str, seconds: float) -> bool:
    """Whether a cluster answers at an address within so many seconds; Ray itself would wait a quarter of an hour."""
    with init_grpc_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(seconds)
        except grpc.FutureTimeoutError:
            return False
    return True


def autoscaler_limits() -> dict[str, int] | None:
    """What the cluster may grow to, as Ray Data asks for it; None where no autoscaler is at work."""
    limits: dict[str, int] | None = state.get_max_resources_from_cluster_config()
    return limits


def show_worker_lines_with(show: Callable[[dict[str, Any], bool], None]) -> None:
    """Let a function print what workers print; there is no official way to choose among their lines."""
    ray._private.worker.print_to_stdstream = show  # type: ignore[assignment]


def quieten_progress() -> None:
    """Ray Data warns that its progress bars were switched off, which was done on purpose."""
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


def run_to_the_end(graph: Dataset) -> None:
    """Work a graph through without bringing what it gives into this process."""
    for _ in graph.iter_internal_ref_bundles():
        pass
