"""What is exported of a run and of a training: the values, their way into Prometheus' own client, and errors there."""

import re
from dataclasses import replace
from typing import Any

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.run.live import View
from pipeline.run.metrics import (
    METRICS,
    OF_ALL,
    Exporter,
    Trained,
    samples_of_run,
    samples_of_training,
)

VIEW = View(
    {"decode": 1_200, "propose": 1_100, "predict": 300, "refine": 290}, 5_000, 280, 7, 3, 2, {}, {}, "", [], 4,
    {"decode": 12.0, "propose": 140.5, "predict": 150.0, "refine": 60.0},
)  # fmt: skip
SPEEDS = {"decode": 3.0, "propose": 3.0, "predict": 1.5, "refine": 2.0}


class Prometheus:
    """Prometheus' own client behind the calls that `ray.util.metrics` has."""

    def __init__(self) -> None:
        self._registry = prometheus_client.CollectorRegistry()
        self._made: dict[str, Any] = {}
        self._into: Any = None

    def counter(self, name: str, description: str, labels: tuple[str, ...]) -> "Prometheus":
        return self._metric(prometheus_client.Counter, name, description, labels)

    def gauge(self, name: str, description: str, labels: tuple[str, ...]) -> "Prometheus":
        return self._metric(prometheus_client.Gauge, name, description, labels)

    def _metric(self, kind: Any, name: str, description: str, labels: tuple[str, ...]) -> "Prometheus":
        if name not in self._made:
            self._made[name] = kind(name, description, labels, registry=self._registry)
        one = Prometheus()
        one._into = self._made[name]
        return one

    def inc(self, value: float, tags: dict[str, str]) -> None:
        self._into.labels(**tags).inc(value)

    def set(self, value: float, tags: dict[str, str]) -> None:
        self._into.labels(**tags).set(value)

    def exported(self) -> dict[tuple[str, ...], float]:
        """Values by name and labels other than output and run, as Prometheus reads them."""
        text = prometheus_client.generate_latest(self._registry).decode()
        found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {
            (one.name, *(value for label, value in one.labels.items() if label not in OF_ALL)): one.value
            for one in found
            if not one.name.endswith("_created")
        }


def exporter_to(prometheus: Prometheus, output: str = "runs/photos") -> Exporter:
    return Exporter(output, "02000000", prometheus.counter, prometheus.gauge)


def test_a_run_is_exported_as_it_is():
    prometheus = Prometheus()
    exporter_to(prometheus).tell(lambda: samples_of_run(VIEW, SPEEDS))
    assert prometheus.exported() == {
        ("deconvnet_images_total", "done"): 270,
        ("deconvnet_images_total", "failed"): 7,
        ("deconvnet_images_total", "skipped"): 3,
        ("deconvnet_stage_images_total", "decode"): 1_200,
        ("deconvnet_stage_images_total", "propose"): 1_100,
        ("deconvnet_stage_images_total", "predict"): 300,
        ("deconvnet_stage_images_total", "refine"): 290,
        ("deconvnet_stage_seconds_total", "decode"): 12.0,
        ("deconvnet_stage_seconds_total", "propose"): 140.5,
        ("deconvnet_stage_seconds_total", "predict"): 150.0,
        ("deconvnet_stage_seconds_total", "refine"): 60.0,
        ("deconvnet_attempts_lost_total",): 2,
        ("deconvnet_requests_repeated_total",): 4,
        ("deconvnet_remaining_images",): 4_720,
        ("deconvnet_images_per_second",): 2.0,
        ("deconvnet_remaining_seconds",): 2_355.0,  # 4,710 images that have not left the last stage
    }


def test_counters_go_on_where_another_graph_begins():
    prometheus = Prometheus()
    first, second = exporter_to(prometheus), exporter_to(prometheus)
    first.tell(lambda: samples_of_run(VIEW, SPEEDS))
    later = replace(VIEW, done=VIEW.done | {"refine": 400}, saved=390, lost=3)
    first.tell(lambda: samples_of_run(later, SPEEDS))
    first.tell(lambda: samples_of_run(later, SPEEDS))
    assert prometheus.exported()["deconvnet_stage_images_total", "refine"] == 400
    assert prometheus.exported()["deconvnet_images_total", "done"] == 380
    second.tell(lambda: samples_of_run(VIEW, SPEEDS))
    assert prometheus.exported()["deconvnet_stage_images_total", "refine"] == 690
    assert prometheus.exported()["deconvnet_attempts_lost_total",] == 5
    assert prometheus.exported()["deconvnet_remaining_images",] == 4_720


def test_the_time_left_is_not_known_while_nothing_moves():
    prometheus = Prometheus()
    exporter_to(prometheus).tell(lambda: samples_of_run(VIEW, {}))
    assert ("deconvnet_remaining_seconds",) not in prometheus.exported()
    assert prometheus.exported()["deconvnet_images_per_second",] == 0


def test_a_training_is_exported_as_it_is():
    prometheus = Prometheus()
    exporter = exporter_to(prometheus)
    exporter.tell(lambda: samples_of_training("stage1", Trained(1, 3.0, 0.0, 0, None)))
    assert ("deconvnet_training_mean_iou", "stage1") not in prometheus.exported()
    exporter.tell(lambda: samples_of_training("stage1", Trained(120, 0.5, 31.5, 2, 0.25)))
    exporter.tell(lambda: samples_of_training("network", Trained(7, 1.5, 4.0, None, None)))
    assert prometheus.exported() == {
        ("deconvnet_training_steps", "stage1"): 120,
        ("deconvnet_training_epoch", "stage1"): 2,
        ("deconvnet_training_loss", "stage1"): 0.5,
        ("deconvnet_training_examples_per_second", "stage1"): 31.5,
        ("deconvnet_training_mean_iou", "stage1"): 0.25,
        ("deconvnet_training_steps", "network"): 7,
        ("deconvnet_training_loss", "network"): 1.5,
        ("deconvnet_training_examples_per_second", "network"): 4.0,
    }


def test_the_list_has_all_that_is_exported_and_nothing_else():
    exported = {*samples_of_run(VIEW, SPEEDS), *samples_of_training("stage1", Trained(1, 1.0, 1.0, 0, 0.5))}
    assert {metric for metric, _ in exported} == set(METRICS)
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert all(re.fullmatch(r"deconvnet_[a-z_]+", metric.name) and metric.description for metric in METRICS)


@pytest.mark.parametrize(
    ("output", "label"),
    [
        ("/data/runs/photos", "photos"),
        ("s3://bucket/runs/photos/", "photos"),
        ("s3://key:a-secret@bucket", "bucket"),
    ],
)
def test_the_label_of_an_output_is_its_name_and_no_credential(output, label):
    told: list[dict[str, str]] = []

    class Told(Prometheus):
        def set(self, value: float, tags: dict[str, str]) -> None:
            told.append(tags)

    exporter = Exporter(output, "02000000", lambda *_: Told(), lambda *_: Told())
    exporter.tell(lambda: samples_of_training("stage1", Trained(1, 1.0, 1.0, None, None)))
    assert {tags["output"] for tags in told} == {label}
    assert {tags["run"] for tags in told} == {"02000000"}


def test_an_error_is_a_line_in_the_log_and_no_more(caplog):
    asked = []

    def refuse(*_: Any) -> Any:
        asked.append(1)
        raise RuntimeError("no agent here")

    exporter = Exporter("runs/photos", "02000000", refuse, refuse)
    for _ in range(3):
        exporter.tell(lambda: samples_of_run(VIEW, SPEEDS))
    assert asked == [1]
    assert [record.getMessage() for record in caplog.records] == ["no metrics are exported from here on: no agent here"]
    damaged = Exporter("runs/photos", "02000000", Prometheus().counter, Prometheus().gauge)
    damaged.tell(lambda: samples_of_run(replace(VIEW, done={}), SPEEDS))  # wrong before it comes here
    assert len(caplog.records) == 2
