"""Exports how a training goes, through Ray's metrics; the list of them is in `pipeline.run.metrics`."""

from __future__ import annotations

import time

import ray
from ray.util.metrics import Counter, Gauge

from pipeline.run.live import Speeds
from pipeline.run.metrics import Exporter, Trained, samples_of_training


class TrainingMetrics:
    """The metrics of a stage of training, exported by one of its workers.

    Args:
        output: address of the training's output.
        stage: name of the stage.
    """

    def __init__(self, output: str, stage: str) -> None:
        self._exporter = Exporter(output, ray.get_runtime_context().get_job_id(), Counter, Gauge)
        self._stage, self._speeds, self._examples = stage, Speeds(), 0

    def see(self, steps: int, examples: int, loss: float, *, epoch: int | None, mean_iou: float | None) -> None:
        """Export what is known after a step.

        Args:
            steps: since the stage began.
            examples: of this step, over all workers.
            loss: of this step.
            epoch: number of the epoch; None for a training that has none.
            mean_iou: of the last validation; None before the first.
        """
        self._examples += examples
        speed = self._speeds.see(time.monotonic(), {"examples": self._examples})["examples"]
        trained = Trained(steps, loss, speed, epoch, mean_iou)
        self._exporter.tell(lambda: samples_of_training(self._stage, trained))
