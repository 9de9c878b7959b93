"""What runs and trainings tell Prometheus: the list of all metrics, and their values. No Ray here.

Ray exports them under `ray_<name>` at a port of each machine. A gauge that was not set for 20 seconds disappears there;
a counter stays as long as the machine's Ray. deploy/grafana has a board for them, and a test compares the two.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import storage
from pipeline.run.error_line import in_short
from pipeline.run.live import View, seconds_left

logger = logging.getLogger(__name__)

OF_ALL = ("output", "run")
"""Labels of all metrics: the last part of the output's address, and Ray's id of the job."""


@dataclass(frozen=True)
class Metric:
    """A counter if its name ends in `_total`, otherwise a gauge.

    Attributes:
        name: with its unit, as Prometheus recommends; Ray puts `ray_` before it.
        description: for people who look at the numbers.
        by: a label besides `OF_ALL`; empty: none.
    """

    name: str
    description: str
    by: str = ""

    @property
    def is_counter(self) -> bool:
        """Whether it only grows."""
        return self.name.endswith("_total")

    @property
    def labels(self) -> tuple[str, ...]:
        """All its labels."""
        return (*OF_ALL, self.by) if self.by else OF_ALL


IMAGES = Metric("deconvnet_images_total", "Images whose results are saved: done, failed or skipped", "outcome")
STAGE_IMAGES = Metric("deconvnet_stage_images_total", "Images that left a stage", "stage")
STAGE_SECONDS = Metric(
    "deconvnet_stage_seconds_total", "Seconds of all processes in a stage, for images whose results are saved", "stage"
)
ATTEMPTS_LOST = Metric("deconvnet_attempts_lost_total", "Attempts at images whose process died")
REQUESTS_REPEATED = Metric("deconvnet_requests_repeated_total", "Requests to a store that had to be sent again")
REMAINING_IMAGES = Metric("deconvnet_remaining_images", "Images to do whose results are not saved")
REMAINING_SECONDS = Metric("deconvnet_remaining_seconds", "Seconds left at the speed of the last minute")
IMAGES_PER_SECOND = Metric("deconvnet_images_per_second", "Images that left the last stage, mean of the last minute")
STEPS = Metric("deconvnet_training_steps", "Steps since the stage of training began, also before a resumption", "stage")
EPOCH = Metric("deconvnet_training_epoch", "Number of the epoch, from 0 on", "stage")
LOSS = Metric("deconvnet_training_loss", "Training loss of the last step", "stage")
EXAMPLES_PER_SECOND = Metric(
    "deconvnet_training_examples_per_second",
    "Windows (of the light networks: crops) trained on by all workers, mean of the last minute",
    "stage",
)
MEAN_IOU = Metric("deconvnet_training_mean_iou", "Mean IoU of the last validation, 0 to 1", "stage")

METRICS = (
    IMAGES, STAGE_IMAGES, STAGE_SECONDS, ATTEMPTS_LOST, REQUESTS_REPEATED, REMAINING_IMAGES, REMAINING_SECONDS,
    IMAGES_PER_SECOND, STEPS, EPOCH, LOSS, EXAMPLES_PER_SECOND, MEAN_IOU,
)  # fmt: skip

Samples = Mapping[tuple[Metric, str], float]
"""Values by metric and value of its label `by`; those of counters since the exporter was made."""


@dataclass(frozen=True)
class Trained:
    """A training after a step.

    Attributes:
        steps: since the stage began.
        loss: of the last step.
        examples_per_second: over all workers.
        epoch: number of the epoch; None for a training that has none.
        mean_iou: of the last validation, 0..1; None before the first.
    """

    steps: int
    loss: float
    examples_per_second: float
    epoch: int | None
    mean_iou: float | None


def samples_of_run(view: View, speeds: Mapping[str, float]) -> Samples:
    """What is exported of a run.

    Args:
        view: the run.
        speeds: images a second of each stage over the last minute.
    """
    *_, last = view.done
    left = seconds_left(view, speeds)
    return {
        (IMAGES, "done"): view.saved - view.failed - view.skipped,
        (IMAGES, "failed"): view.failed,
        (IMAGES, "skipped"): view.skipped,
        **{(STAGE_IMAGES, stage): images for stage, images in view.done.items()},
        **{(STAGE_SECONDS, stage): seconds for stage, seconds in view.seconds.items()},
        (ATTEMPTS_LOST, ""): view.lost,
        (REQUESTS_REPEATED, ""): view.repeated,
        (REMAINING_IMAGES, ""): view.total - view.saved,
        (IMAGES_PER_SECOND, ""): speeds.get(last, 0.0),
        **({} if left is None else {(REMAINING_SECONDS, ""): left}),
    }


def samples_of_training(stage: str, trained: Trained) -> Samples:
    """What is exported of a training.

    Args:
        stage: name of the stage.
        trained: the training after a step.
    """
    values = {
        STEPS: trained.steps, EPOCH: trained.epoch, LOSS: trained.loss,
        EXAMPLES_PER_SECOND: trained.examples_per_second, MEAN_IOU: trained.mean_iou,
    }  # fmt: skip
    return {(metric, stage): value for metric, value in values.items() if value is not None}


class Exporter:
    """Hands samples to Ray's counters and gauges. Whatever goes wrong there is logged once, and never raised.

    Args:
        output: address of the output; its last part becomes a label.
        run: id of the run.
        counter: makes a counter from name, description and labels, `ray.util.metrics.Counter`.
        gauge: likewise a gauge.
    """

    def __init__(self, output: str, run: str, counter: Callable[..., Any], gauge: Callable[..., Any]) -> None:
        self._tags = {"output": storage.redact(output).rstrip("/").rpartition("/")[2], "run": run}
        self._make = {True: counter, False: gauge}
        self._made: dict[Metric, Any] = {}
        self._before: dict[tuple[Metric, str], float] = {}
        self._broken = False

    def tell(self, samples: Callable[[], Samples]) -> None:
        """Export what `samples` returns; after an error, there or here, nothing is exported any more."""
        if self._broken:
            return
        try:
            for (metric, kind), value in samples().items():
                self._export(metric, kind, float(value))
        except Exception as error:
            self._broken = True
            logger.warning("no metrics are exported from here on: %s", in_short(error))

    def _export(self, metric: Metric, kind: str, value: float) -> None:
        if metric not in self._made:
            self._made[metric] = self._make[metric.is_counter](metric.name, metric.description, metric.labels)
        tags = self._tags | ({metric.by: kind} if metric.by else {})
        if not metric.is_counter:
            self._made[metric].set(value, tags)
        elif value > (before := self._before.get((metric, kind), 0.0)):
            self._made[metric].inc(value - before, tags)
            self._before[metric, kind] = value
