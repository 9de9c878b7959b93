"""The main job compared with the same stage functions in plain processes: the overhead of Ray."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.config import Pipeline
from pipeline.checkpoints.bundled import weights_uri
from pipeline.config import SegmentConfig
from pipeline.inputs.manifest import build_manifest
from pipeline.outputs.lease import Lease, take_lease
from pipeline.stages.decode import decode_stage
from pipeline.stages.memory import keep_freed_memory
from pipeline.stages.predict import PredictStage, load_predict
from pipeline.stages.propose import propose_stage
from pipeline.stages.refine import refine_stage
from pipeline.stages.rows import start_rows
from pipeline.stages.write import stage_rows, write_files

IMAGES_PER_TASK = 4
JOB = Path(__file__).parents[1] / "jobs" / "segment_dataset.py"

_predict: PredictStage


def run(config: Pipeline) -> list[dict[str, Any]]:
    """Images per second of plain processes, one per core, and of the job.

    The start of Python and Ray is not counted for either; the job's time includes the start of its graph.
    """
    with tempfile.TemporaryDirectory() as temporary:
        settings = SegmentConfig(config.input, f"{temporary}/plain", weights_uri(config.weights), limit=config.limit)
        plain = _plain(settings)
        job = _job(settings, f"{temporary}/job")
    return [
        {"what": f"the stages alone, {os.cpu_count()} processes", "images/s": plain, "floor": plain, "ratio": 1.0},
        {"what": "segment_dataset.py", "images/s": job, "floor": plain, "ratio": job / plain},
    ]


def _job(config: SegmentConfig, output: str) -> float:
    command = [sys.executable, str(JOB), "--input", config.input, "--weights", config.weights,
               "--limit", str(config.limit), "--output", output]  # fmt: skip
    on_ray = os.environ | {"RAY_ADDRESS": os.environ.get("RAY_ADDRESS") or "local"}  # also for few images
    subprocess.run(command, check=True, env=on_ray, stdout=sys.stderr, stderr=subprocess.DEVNULL)  # noqa: S603  (our own)
    return float(json.loads(Path(output, "run", "summary.json").read_text())["images_per_second"])


def _plain(config: SegmentConfig) -> float:
    manifest = build_manifest(config.input, config.limit)
    parts = [manifest.slice(start, IMAGES_PER_TASK) for start in range(0, len(manifest), IMAGES_PER_TASK)]
    lease = take_lease(config.output)
    cores = os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores, context, initializer=_load, initargs=(config,)) as pool:
        list(pool.map(time.sleep, [1.0] * cores))  # each process has started and loaded
        started = time.perf_counter()
        for counts in pool.map(_all_stages, parts, [config] * len(parts), [lease] * len(parts)):
            lease.commit(counts["parts"])
        return len(manifest) / (time.perf_counter() - started)


def _load(config: SegmentConfig) -> None:
    global _predict  # noqa: PLW0603  (a process of a pool has no other place)
    keep_freed_memory()
    _predict = load_predict(config, gpus=0)


def _all_stages(part: pa.Table, config: SegmentConfig, lease: Lease) -> dict[str, Any]:
    table = propose_stage(decode_stage(start_rows(part), config.decode), config.propose)
    names = tuple(str(number) for number in range(_predict.num_classes))  # these results are not read
    refined = refine_stage(_predict(table), config.refine, len(names))
    write_files(refined, lease, masks=True)
    return stage_rows(refined, lease, names)
