"""Everything of Ray that is used but not part of its public API; check it first with a new version of Ray.

`pyproject.toml` bounds Ray's version; tests/cluster runs each of these functions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import grpc
import pyarrow as pa
import ray._private.worker
import ray.data
from ray._private import services
from ray._private.grpc_utils import init_grpc_channel
from ray._private.state import state
from ray.core.generated.gcs_service_pb2 import CheckAliveRequest  # type: ignore[attr-defined]
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
from ray.data import Dataset


def log_folder() -> str | None:
    """Folder of Ray's logs of this machine's processes; None before Ray has started."""
    node = ray._private.worker._global_node
    return None if node is None else str(node.get_logs_dir_path())


def full_address(asked: str) -> str | None:
    """The address `HOST:PORT` that a value of RAY_ADDRESS means; None if it means none."""
    try:
        return services.canonicalize_bootstrap_address(asked)
    except (ValueError, OSError):
        return None


def answers(address: str, seconds: float) -> bool:
    """Whether a cluster answers at an address within `seconds`; Ray itself would wait a quarter of an hour."""
    with init_grpc_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(seconds)
            NodeInfoGcsServiceStub(channel).CheckAlive(CheckAliveRequest(), timeout=seconds)
        except grpc.FutureTimeoutError:
            return False
        except grpc.RpcError as error:  # another service, or a cluster that wants a token, which Ray says better
            return error.code() in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
    return True


def autoscaler_limits() -> dict[str, int] | None:
    """The resources that the cluster may grow to, as Ray Data reads them; None without an autoscaler."""
    limits: dict[str, int] | None = state.get_max_resources_from_cluster_config()
    return limits


def show_worker_lines_with(show: Callable[[dict[str, Any], bool], None]) -> None:
    """Let a function print workers' lines; there is no public way to choose among them."""
    ray._private.worker.print_to_stdstream = show  # type: ignore[assignment]


def quieten_progress() -> None:
    """Silence Ray Data's warning that its progress bars are off, which is intended."""
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


def from_blocks(tables: list[pa.Table]) -> Dataset:
    """A dataset with a block for each table; `ray.data.from_arrow` starts a task for each, only to learn its length."""
    dataset: Dataset = ray.data.from_blocks([*tables])
    return dataset


def run_to_the_end(graph: Dataset) -> None:
    """Run a graph to its end without fetching its output into this process."""
    for _ in graph.iter_internal_ref_bundles():
        pass
