"""What a training's report says, as plain values: `gather` reads them, `render` lays them out."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.report.page.parts import Label, Setting


@dataclass(frozen=True)
class Point:
    """A validation, and the training since the one before it; None: this kind of training does not measure it.

    Attributes:
        stage: 1 or 2; None: not a training in stages, or both are one run of steps.
        step: steps since the stage began; `steps`: since the training began.
        rate: the learning rate.
        train_loss: loss, `train_accuracy` and `train_iou` pixel accuracy and mean IoU of the examples, 0..1.
        val_loss: the same of the validation set; likewise `accuracy` and `iou`.
        examples_per_second: how fast the training was.
    """

    stage: int | None
    step: int
    steps: int
    rate: float | None
    train_loss: float
    val_loss: float | None
    train_accuracy: float | None
    accuracy: float
    train_iou: float | None
    iou: float
    examples_per_second: float | None


@dataclass(frozen=True)
class ClassIou:
    """A class and its IoU in the validation set, 0..1; None: it neither occurs there nor was found."""

    label: Label
    iou: float | None


@dataclass(frozen=True)
class Sample:
    """Validation examples as the training drew them: window, truth and prediction; as a data URI."""

    stage: int
    picture: str


@dataclass(frozen=True)
class TrainingFacts:
    """All that the report says.

    Attributes:
        output: the output's address.
        command: `train`, `train-fcn` or `train-lite`.
        data: addresses of what it learns from.
        started_from: the first weights, in words, one entry a stage.
        settings: all, by the names of the command line.
        validated_on: what the validations measure, in words; likewise `examples`, what a step is taken on.
        network: address of the exported network; None: the training has not ended.
        steps_planned: steps in all; None: they follow from the epochs.
        stages: where the stages but the first begin, in steps.
        points: in order.
        chosen: the validation of the network that is exported, or would be; None without any.
        classes: IoU of each class at that validation, background first; empty where it was not recorded.
        statistics: mean IoU before and after batch normalisation's statistics were recomputed; None: they were not.
        samples: the latest of each stage.
    """

    output: str
    command: str
    data: tuple[str, ...]
    started_from: tuple[str, ...]
    settings: tuple[Setting, ...]
    validated_on: str
    examples: str
    network: str | None
    steps_planned: int | None
    stages: tuple[int, ...]
    points: tuple[Point, ...]
    chosen: Point | None
    classes: tuple[ClassIou, ...]
    statistics: tuple[float, float] | None
    samples: tuple[Sample, ...]

    @property
    def mean_iou(self) -> float | None:
        """Of the exported network, or of the one that would be exported; None without a validation."""
        if self.statistics is not None:
            return self.statistics[1]
        return None if self.chosen is None else self.chosen.iou
