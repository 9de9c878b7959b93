"""Results flow: the first are in place long before the last image is decoded, whatever the cluster's shape.

The tasks that decode stop behind the first third of the images and hold their CPUs there. So whatever still needs a CPU
after the last stage waits for ever.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import ray
from conftest import connected
from empty_stages import IMAGES, MANIFEST, driver_of, wait_for_rows
from ray.cluster_utils import Cluster

from pipeline.cluster import connect
from pipeline.cluster.plan import plan
from pipeline.config import SegmentConfig
from pipeline.outputs.audit import audit

pytestmark = pytest.mark.ray
ALL_SIZES = (1, 2, 3, 4, 6, 8, 16)
SIZES = ALL_SIZES if "DECONVNET_EVERY_SIZE" in os.environ else (1, 2)  # a process a CPU: minutes on a small machine
WITH_CRF = {"decode": 0.01, "propose": 0.05, "predict": 0.3, "refine": 0.5}
WITHOUT = WITH_CRF | {"refine": 0.005}


def first_results_then_the_rest(folder: Path, seconds: dict[str, float]) -> None:
    """Run the graph on the cluster that this process is connected to; open the gate when there are results."""
    driver, ahead = driver_of(folder / "out", folder / "gate", seconds), []

    def open_the_gate() -> None:
        ahead.append(wait_for_rows(folder / "out"))
        (folder / "gate").touch()

    threading.Thread(target=open_the_gate, daemon=True).start()
    driver.run_graphs(MANIFEST)
    found = audit(driver.config.output, MANIFEST)
    assert (found.ok, found.complete) == (IMAGES, True)
    assert 0 < ahead[0] <= IMAGES // 3


@contextmanager
def a_machine_of(cpus: int) -> Iterator[None]:
    """A Ray of its own that was told of so many CPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        init: Callable[..., object] = ray.init
        patch.setattr(ray, "init", partial(init, num_cpus=cpus, include_dashboard=False))
        connect.start_ray()
        try:
            yield
        finally:
            ray.shutdown()


def test_on_one_machine(tmp_path):
    with a_machine_of(2):
        first_results_then_the_rest(tmp_path, WITH_CRF)


@pytest.mark.slow
@pytest.mark.parametrize("cpus", SIZES)
def test_on_one_machine_with_and_without_a_crf(cpus, tmp_path):
    with a_machine_of(cpus):
        for name, seconds in (("crf", WITH_CRF), ("none", WITHOUT)):
            (tmp_path / name).mkdir()
            first_results_then_the_rest(tmp_path / name, seconds)


@pytest.mark.slow
def test_on_machines_of_the_kinds_of_cluster_yaml(tmp_path):
    """A head without CPUs, on which the driver runs, a machine with CPUs, and one with a CPU and a (made up) GPU."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=2)
    cluster.add_node(num_cpus=1, num_gpus=1)
    try:
        for _ in connected(cluster.address):
            pools = plan(SegmentConfig(input="none", output="none"), WITH_CRF)
            assert (pools.predict_gpus, pools.predict_workers) == (1.0, 1)
            first_results_then_the_rest(tmp_path, WITH_CRF)
    finally:
        cluster.shutdown()
