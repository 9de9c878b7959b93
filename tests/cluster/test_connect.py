"""Which Ray a job works on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

NODE = """
import ray
from pipeline.cluster import connect
connect.start_ray()
print(ray.get_runtime_context().gcs_address, flush=True)
input()
"""


@pytest.mark.slow
def test_two_jobs_on_one_machine_have_a_ray_each():
    """The second would end with the first, if it joined the Ray that the first started for itself."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    jobs = []
    try:
        addresses = []
        for _ in range(2):
            job = subprocess.Popen(
                [sys.executable, "-c", NODE], cwd=Path(__file__).parents[2], env=environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            jobs.append(job)
            addresses.append(next(line for line in job.stdout if ":" in line).strip())
        assert addresses[0] != addresses[1]
    finally:
        for job in jobs:
            job.communicate("\n", timeout=120)
