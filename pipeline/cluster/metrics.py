"""Exports what a graph of the main job does, through Ray's metrics; the list of them is in `pipeline.run.metrics`."""

from __future__ import annotations

import time
from collections.abc import Callable

import ray
from ray.util.metrics import Counter, Gauge

from pipeline.run.live import Speeds, View
from pipeline.run.metrics import Exporter, Samples, samples_of_run


class RunMetrics:
    """The metrics of one graph, which counts from 0.

    Args:
        output: address of the run's output.
    """

    def __init__(self, output: str) -> None:
        self._exporter = Exporter(output, ray.get_runtime_context().get_job_id(), Counter, Gauge)
        self._speeds = Speeds()

    def see(self, view: Callable[[], View]) -> None:
        """Export what `view` returns of the graph; to be called every 10 seconds, since Ray forgets gauges after 20."""
        self._exporter.tell(lambda: self._samples(view()))

    def _samples(self, view: View) -> Samples:
        return samples_of_run(view, self._speeds.see(time.monotonic(), view.done))
