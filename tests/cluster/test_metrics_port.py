"""What a run and a training export arrives at the port where Prometheus reads it."""

import threading
import time
import urllib.request
from collections.abc import Callable

import pytest
import ray
from empty_stages import IMAGES, MANIFEST, driver_of
from prometheus_client.parser import text_string_to_metric_families

from pipeline.run.metrics import METRICS
from pipeline.training.ray.metrics import TrainingMetrics

Exported = dict[tuple[str, ...], float]


def exported(output: str) -> Exported:
    """Values by name and further label of what this machine exports for an output, as Prometheus reads them."""
    port = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    by = {f"ray_{metric.name}": metric.by for metric in METRICS}
    samples = [one for family in families for one in family.samples if one.name in by]
    return {
        (one.name.removeprefix("ray_"), *([one.labels[by[one.name]]] if by[one.name] else [])): one.value
        for one in samples
        if one.labels["output"] == output
    }


def wait_for(arrived: Callable[[Exported], bool], output: str) -> Exported:
    """What is exported as soon as it is so; Ray hands metrics on every ten seconds."""
    while not arrived(found := exported(output)):
        time.sleep(0.5)
    return found


def test_a_run_can_be_followed_at_the_port_of_its_machine(in_ray, tmp_path):
    output, gate, meanwhile = tmp_path / "followed", tmp_path / "gate", []

    def look() -> None:
        try:
            meanwhile.append(wait_for(lambda found: ("deconvnet_remaining_images",) in found, output.name))
        finally:
            gate.touch()

    watching = threading.Thread(target=look, daemon=True)
    watching.start()
    call = driver_of(output, gate)
    call.run_graphs(MANIFEST)
    watching.join()
    (found,) = meanwhile
    assert IMAGES - IMAGES // 3 <= found["deconvnet_remaining_images",] <= IMAGES  # the gate lets a third through
    assert found["deconvnet_images_per_second",] >= 0
    assert found.get(("deconvnet_stage_images_total", "refine"), 0) <= IMAGES // 3
    last = wait_for(lambda found: found.get(("deconvnet_images_total", "done")) == IMAGES, output.name)
    for stage in (
        "decode",
        "propose",
        "predict",
    ):  # of the last stage, the log may not have heard of the last images yet
        assert last["deconvnet_stage_images_total", stage] == IMAGES


@pytest.mark.slow
def test_a_training_can_be_followed_from_the_process_of_a_worker(in_ray):
    @ray.remote(num_cpus=0)
    class Worker:
        def __init__(self) -> None:
            self.metrics = TrainingMetrics("s3://bucket/training-followed", "stage1")

        def step(self) -> None:
            self.metrics.see(12, 8, 0.5, epoch=3, mean_iou=0.25)

    worker = Worker.remote()

    def arrived(found: Exported) -> bool:
        ray.get(worker.step.remote())
        return len(found) == 5

    found = wait_for(arrived, "training-followed")
    ray.kill(worker)
    assert found.pop(("deconvnet_training_examples_per_second", "stage1")) >= 0
    assert found == {
        ("deconvnet_training_steps", "stage1"): 12,
        ("deconvnet_training_epoch", "stage1"): 3,
        ("deconvnet_training_loss", "stage1"): 0.5,
        ("deconvnet_training_mean_iou", "stage1"): 0.25,
    }
