"""Several nodes, simulated on this machine: GPUs that are only numbers, a node that goes away in the middle."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from conftest import connected, exit_code, write_tiles
from ray.cluster_utils import Cluster

from jobs.segment_dataset import main
from pipeline.inputs.manifest import build_manifest
from pipeline.outputs.audit import audit

REPOSITORY = Path(__file__).parents[2]
FAST = ("--weights", "demo", "--proposals", "2", "--crf", "none", "--max-side", "64")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("photos"), 40)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head with CPUs and a node with a CPU and a GPU that does not exist."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    made.add_node(num_cpus=1, num_gpus=1)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def in_cluster(cluster: Cluster) -> Iterator[None]:
    yield from connected(cluster.address)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = exit_code(main, *map(str, arguments))
    said = capsys.readouterr()
    return code, said.out + said.err


def test_a_gpu_of_the_cluster_gets_a_predict_actor(in_cluster, photos, tmp_path, capsys):
    code, said = run(capsys, "--input", photos, "--output", tmp_path / "out", "--dry-run", "--plan", "guess", *FAST)
    assert code == 0, said
    assert "predict: 1 actor(s) of 1 CPU and 1 GPU; " in said


def test_pools_that_no_machine_can_hold_are_refused_with_the_arithmetic(in_cluster, photos, tmp_path, capsys):
    code, said = run(capsys, "--input", photos, "--output", tmp_path / "out", "--predict-workers", "2", *FAST)
    assert code == 2
    assert "2 predict worker(s) x 1 GPU need 2 GPUs, the cluster has 1" in said
    assert not (tmp_path / "out" / "results").exists()


@pytest.mark.slow
def test_a_gpu_that_torch_cannot_see_is_an_error_and_not_a_slow_run(in_cluster, photos, tmp_path, capsys):
    code, said = run(capsys, "--input", photos, "--output", tmp_path / "out", *FAST)
    assert code == 3
    assert "torch sees none" in said


@pytest.mark.slow
def test_shared_gpus_and_a_device_that_is_told_to_be_the_cpu(in_cluster, photos, tmp_path, capsys):
    code, said = run(
        capsys, "--input", photos, "--output", tmp_path / "out", "--device", "cpu", "--predict-gpus", "0.5",
        "--predict-workers", "1", "--limit", "8", *FAST,
    )  # fmt: skip
    assert code == 0, said
    assert "1 process(es) for the network with 0.5 GPU each, " in said


def works_for_a_job(raylet: psutil.Process) -> bool:
    """Whether a process of the node does a stage's work."""
    with suppress(psutil.NoSuchProcess):
        return any(" ".join(process.cmdline()).startswith("ray::Map") for process in raylet.children())
    return False


@pytest.mark.slow
def test_a_node_that_is_lost_costs_no_image(cluster, photos, tmp_path):
    node = cluster.add_node(num_cpus=2)
    arguments = ("--input", photos, "--output", tmp_path / "out", "--device", "cpu", "--rows-per-file", 5, *FAST)
    process = subprocess.Popen(
        [sys.executable, "jobs/segment_dataset.py", *map(str, arguments)], cwd=REPOSITORY,
        env={**os.environ, "RAY_ADDRESS": cluster.address}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    while process.poll() is None and not works_for_a_job(raylet):
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    found = audit(str(tmp_path / "out"), build_manifest(str(photos), None))
    assert (found.ok, found.complete) == (40, True)
    summary = json.loads((tmp_path / "out" / "run" / "summary.json").read_text())
    assert summary["faults"]["nodes_lost"] == 1
