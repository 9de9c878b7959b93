"""Training windows through Ray Data compared with the same transforms in plain processes: the overhead of Ray."""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from benchmarks.config import Ingest
from pipeline.config.training import TrainingStage
from pipeline.training.windows.cut import windows_of_rows
from pipeline.training.windows.index import index_uri, read_index
from pipeline.training.windows.order import blocks, examples_of
from pipeline.training.windows.packing import POOL, mixed_batches, pack_size

BATCH = 64


def run(config: Ingest) -> list[dict[str, Any]]:
    """Examples per second and core, for the same windows on the same cores; start-up is not counted."""
    cores = os.cpu_count() or 1
    results = {f"plain loops, {cores} processes": _plain(config, cores), "Ray Data": _ray(config)}
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
    from pipeline.cluster.connect import WORKER_SETTINGS

    index = read_index(index_uri(config.training_set, config.stage, "train"))
    parts = [index.take(np.arange(first, len(index), cores)) for first in range(cores)]
    # A worker's settings, so that both have the same; variables in the environment win, as there.
    os.environ.update({name: os.environ.get(name, value) for name, value in WORKER_SETTINGS.items()})
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(time.sleep, [1.0] * cores))  # each process has started
        cpu = _cpu_seconds()
        started = time.perf_counter()
        examples = sum(pool.map(_loop, parts, [config.stage] * cores))
        return examples, time.perf_counter() - started, _cpu_seconds() - cpu


def _loop(rows: pa.Table, stage: TrainingStage) -> int:
    windows = chain.from_iterable(windows_of_rows(block.to_pylist(), stage) for block in blocks(rows))
    return sum(len(labels) for _, labels in mixed_batches(windows, BATCH, POOL, 0))


def _ray(config: Ingest) -> tuple[int, float, float]:
    """Examples, seconds, CPU seconds of all processes, those of the cluster included if it starts here."""
    import ray

    from pipeline.cluster import connect

    connect.start_ray()
    trainer: Any = ray.remote(_Trainer)  # a process of Ray's, as in training
    trainer = trainer.options(num_cpus=0).remote()
    for _ in range(2):  # the first pass starts the processes
        cpu = _cpu_seconds()
        examples, seconds = ray.get(trainer.epoch.remote(config))
        used = _cpu_seconds() - cpu
    return examples, seconds, used


class _Trainer:
    def epoch(self, config: Ingest) -> tuple[int, float]:
        """Examples, and seconds."""
        import ray

        from pipeline.training.ray.sharder import cut_windows
        from pipeline.training.ray.shares import windows_of_share

        ray.data.DataContext.get_current().enable_progress_bars = False
        index = read_index(index_uri(config.training_set, config.stage, "train"))
        rows = ray.data.from_arrow(blocks(index)).materialize()
        started = time.perf_counter()
        share = cut_windows(rows, config.stage, pack_size(examples_of(index), 1)).iterator()
        examples = sum(len(labels) for _, labels in mixed_batches(windows_of_share(share), BATCH, POOL, 0))
        return examples, time.perf_counter() - started


def _cpu_seconds() -> float:
    """CPU seconds that this process and all processes below it have used so far."""
    here = psutil.Process()
    times = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return float(sum(taken.user + taken.system for taken in times))
