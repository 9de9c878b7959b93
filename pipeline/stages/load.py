"""How a stage of the list (`config.stages`) becomes a function in the process that runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

from pipeline.config import SegmentConfig
from pipeline.stages.rows import Work

Loads = Mapping[str, Callable[[], Work]]
"""The stages of a run by name, in their order: what makes the function of each, where it is to run."""


@dataclass(frozen=True)
class Process:
    """What a process that runs a stage knows, the argument of each stage's `load`.

    Attributes:
        config: the job's settings, with paths that every worker can read.
        num_classes: background included.
        gpus: that the process was given.
    """

    config: SegmentConfig
    num_classes: int
    gpus: float


def load_stage(name: str, process: Process) -> Work:
    """Make the function of a stage: `load` of pipeline/stages/NAME.py."""
    work: Work = import_module(f"pipeline.stages.{name}").load(process)
    return work
