"""The main job's graph with stages that do nothing, and a gate behind the first third of the images."""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
from ray import cloudpickle

from pipeline.cluster.plan import plan
from pipeline.cluster.workplace import Cluster
from pipeline.config import SegmentConfig
from pipeline.config.stages import STAGES
from pipeline.models.checkpoint_header import NetworkInfo
from pipeline.outputs.lease import take_lease
from pipeline.outputs.results import read_results
from pipeline.run.driver import Driver
from pipeline.run.record import RunRecord, Summary
from pipeline.stages.load import Loads

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import from tests/
IMAGES = 96
NAMES = [f"{number:03}" for number in range(IMAGES)]
MANIFEST = pa.table({"image_id": NAMES, "uri": NAMES})


def gated(table: pa.Table, gate: Path) -> pa.Table:
    """Let the first third through; the others wait for the gate to be opened, and hold their CPUs."""
    while max(table["image_id"].to_pylist()) >= NAMES[IMAGES // 3] and not gate.exists():
        time.sleep(0.05)
    return table


def unchanged(table: pa.Table) -> pa.Table:
    return table


def finished(table: pa.Table) -> pa.Table:
    done = {"mask": b"", "pixel_counts": [1, 0], "mean_probability": [1.0, None]}
    done |= {f"seconds_{stage.name}": 0.0 for stage in STAGES}
    return pa.Table.from_pylist([row | done for row in table.to_pylist()], schema=table.schema)


def empty_stages(gate: Path) -> Loads:
    waiting = partial(gated, gate=gate)
    return {"decode": lambda: waiting, "propose": lambda: unchanged, "predict": lambda: unchanged,
            "refine": lambda: finished}  # fmt: skip


def driver_of(
    output: Path, gate: Path, seconds: dict[str, float] | None = None, log: Callable[[str], None] = print
) -> Driver:
    """A call of the job that owns its output, on the cluster that this process is connected to.

    Args:
        output: the output.
        gate: of `empty_stages`.
        seconds: of an image in each stage, for the plan; None: a guess.
        log: prints a line.
    """
    config = SegmentConfig(input="none", output=str(output), masks=False)
    lease = take_lease(config.output)
    run = RunRecord(lease.output, MANIFEST, Summary(), lease)
    info = NetworkInfo(("background", "thing"), "deconvnet")
    workplace = Cluster(config, info, log, empty_stages(gate), plan(config, seconds))
    return Driver(config, workplace, run, Summary(), log)


def wait_for_rows(output: Path) -> int:
    """How many images are in the results as soon as there are some."""
    while not (found := len(read_results(str(output)))):
        time.sleep(0.05)
    return found
