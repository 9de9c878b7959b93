"""Training windows through Ray Data against the same transforms in plain processes: what Ray costs."""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import psutil
import pyarrow as pa

from pipeline.config.benchmarks import Ingest
from pipeline.training.index import index_uri, read_index
from pipeline.training.windows import BATCH, batches_of_rows


def run(config: Ingest) -> list[dict[str, Any]]:
    """Examples a second and a core, over the same windows on the same cores; start-up of neither is counted."""
    cores = os.cpu_count() or 1
    results = {f"plain loops, {cores} processes": _plain(config, cores), "Ray Data": _ray(config, cores)}
    plain_seconds, plain_cpu = next(iter(results.values()))[1:]
    return [
        {
            "what": what, "examples": examples, "examples/s a core": examples / seconds / cores,
            "ratio": plain_seconds / seconds, "CPU ms an example": cpu / examples * 1e3, "ratio, CPU": plain_cpu / cpu,
        }
        for what, (examples, seconds, cpu) in results.items()
    ]  # fmt: skip


def _plain(config: Ingest, cores: int) -> tuple[int, float, float]:
    """Examples, seconds, CPU seconds."""
    index = read_index(index_uri(config.training_set, config.stage, "train"))
    parts = [index.slice(start, 4) for start in range(0, len(index), 4)]
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(time.sleep, [1.0] * cores))  # each process has started
        cpu = _cpu_seconds()
        started = time.perf_counter()
        examples = sum(pool.map(_loop, parts, [config] * len(parts)))
        return examples, time.perf_counter() - started, _cpu_seconds() - cpu


def _loop(rows: pa.Table, config: Ingest) -> int:
    return sum(len(batch["window"]) for batch in batches_of_rows(rows, config.stage, training=True))


def _ray(config: Ingest, cores: int) -> tuple[int, float, float]:
    """Examples, seconds, CPU seconds of all processes, those of the cluster included if it starts here."""
    import ray  # noqa: PLC0415  (only this benchmark and the jobs it runs need Ray)

    from pipeline import cluster  # noqa: PLC0415
    from pipeline.training.ray_stage import cut_windows  # noqa: PLC0415

    cluster.start_ray()
    ray.data.DataContext.get_current().enable_progress_bars = False
    index = read_index(index_uri(config.training_set, config.stage, "train"))
    rows = ray.data.from_arrow(index).repartition(max(4, 2 * cores)).materialize()
    for _ in range(2):  # the first pass starts the processes
        cpu = _cpu_seconds()
        started = time.perf_counter()
        windows = cut_windows(rows, config.stage, training=True)
        examples = sum(len(batch["window"]) for batch in windows.iter_batches(batch_size=BATCH))
        seconds, used = time.perf_counter() - started, _cpu_seconds() - cpu
    return examples, seconds, used


def _cpu_seconds() -> float:
    """What this process and all below it have used so far."""
    here = psutil.Process()
    times = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return float(sum(taken.user + taken.system for taken in times))
