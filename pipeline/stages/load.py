"""Makes the function of a stage of the list (`config.stages`), in the process that runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

from pipeline.config import SegmentConfig
from pipeline.stages.rows import Work

Loads = Mapping[str, Callable[[], Work]]
"""The stages of a run by name, in their order: for each, what makes its function in the process where it will run."""


def unheard(line: str) -> None:
    """For processes whose lines nobody reads."""


@dataclass(frozen=True)
class Process:
    """The argument of each stage's `load`: what a process that runs the stage knows.

    Attributes:
        config: the job's settings, with paths that every worker can read.
        num_classes: background included.
        gpus: how many GPUs the process was given; may be a fraction.
        log: gets lines that people should see once, whatever the number of processes.
    """

    config: SegmentConfig
    num_classes: int
    gpus: float
    log: Callable[[str], None] = unheard


def load_stage(name: str, process: Process) -> Work:
    """Make the function of a stage: `load` of pipeline/stages/NAME.py."""
    work: Work = import_module(f"pipeline.stages.{name}").load(process)
    return work
