"""The Ray Data graph of the main job; it reads like the diagram in docs/architecture.md."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.cluster.batches import Batches
from pipeline.cluster.pools import Pools
from pipeline.cluster.ray_private import from_blocks
from pipeline.config import SegmentConfig
from pipeline.config.stages import STAGES, Processes, stages_of
from pipeline.outputs.lease import Lease
from pipeline.run.attempts import AttemptLog, Keep, RunProgress, drop, with_attempt_limit
from pipeline.run.worker_lines import say_once
from pipeline.stages.load import Loads, Process, load_stage
from pipeline.stages.memory import keep_freed_memory
from pipeline.stages.rows import Work, start_rows
from pipeline.stages.write import Counts, Sink, keep_results

SINK_THREADS = 4  # files that are staged at once

Limit = Callable[..., Work]
"""Wraps the work of a stage, named first, in the attempt log; `keep` is as in `with_attempt_limit`."""


class RemoteAttemptLog:
    """The run's attempt log (`pipeline.run.attempts`), in an actor on the driver's machine."""

    def __init__(self) -> None:
        self.actor: Any = ray.remote(AttemptLog).options(**_beside_the_driver()).remote()

    def enter(self, stage: str, key: str) -> int:
        """See `AttemptLog.enter`; when this returns, the attempt is in the log."""
        return int(ray.get(self.actor.enter.remote(stage, key)))

    def leave(self, stage: str, key: str, images: int, repeated: int) -> None:
        """See `AttemptLog.leave`."""
        self.actor.leave.remote(stage, key, images, repeated)

    def progress(self, patience: float) -> RunProgress:
        """See `AttemptLog.progress`; raises an error of Ray's if no answer comes within `patience` seconds."""
        found: RunProgress = ray.get(self.actor.progress.remote(), timeout=patience)
        return found


class RemoteSink:
    """The run's sink (`stages.write.Sink`), in an actor on the driver's machine.

    It takes no CPU, so that nothing can keep results from being written. The number of rows that it holds is bounded:
    `add` returns when the rows are taken, and takes none while `SINK_THREADS` files are being staged.
    """

    def __init__(self, lease: Lease, class_names: tuple[str, ...], rows_per_file: int) -> None:
        options = _beside_the_driver() | {"max_concurrency": SINK_THREADS}
        self.actor: Any = ray.remote(Sink).options(**options).remote(lease, class_names, rows_per_file)

    def add(self, table: pa.Table) -> None:
        """See `Sink.add`."""
        ray.get(self.actor.add.remote(table))

    def collect(self, *, flush: bool) -> list[Counts]:
        """See `Sink.collect`."""
        staged: list[Counts] = ray.get(self.actor.collect.remote(flush=flush))
        return staged


def _beside_the_driver() -> dict[str, Any]:
    """Ray's options for an actor that does not compute and must not be lost with another machine."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {"num_cpus": 0, "scheduling_strategy": here}


def real_stages(config: SegmentConfig, num_classes: int, pools: Pools) -> Loads:
    """What loads the stages of a run, in processes with the resources that `pools` gives them.

    Args:
        config: the job's settings, with paths that every worker can read.
        num_classes: background included.
        pools: processes of each stage.
    """
    gpus: dict[Processes, float] = {"tasks": 0.0, "predict": pools.predict_gpus, "refine": pools.refine_gpus}
    return {
        stage.name: partial(load_stage, stage.name, Process(config, num_classes, gpus[stage.processes], say_once))
        for stage in stages_of(config)
    }


def build_dataset(
    manifest: pa.Table,
    loads: Loads,
    config: SegmentConfig,
    pools: Pools,
    batches: Batches,
    lease: Lease,
    attempt_log: RemoteAttemptLog,
    sink: RemoteSink,
) -> Dataset:
    """The lazy graph from a manifest to the sink; its output rows only show that the images were processed.

    Args:
        manifest: `image_id` and `uri` of the images to do.
        loads: the stages.
        config: the job's settings, with paths that every worker can read.
        pools: processes of each stage.
        batches: how many images go together.
        lease: the right to write the output.
        attempt_log: the run's.
        sink: gets the refined rows.
    """
    context = DataContext.get_current()
    context.execution_options.preserve_order = False  # waiting for the slowest row would idle the GPU
    context.execution_no_progress_timeout_s = -1  # the run's own watch ends a run that stalls
    limited = partial(_limited, attempt_log=attempt_log, max_attempts=config.max_attempts)
    keep = partial(keep_results, lease=lease, add=sink.add, masks=config.masks)
    predict, refine = _loads_in("predict", loads), _loads_in("refine", loads)
    return (
        # 1:1  decode: bytes -> RGB at working size, bound by storage and JPEG decoding; propose: EdgeBoxes
        _in_tasks(_blocks(manifest, batches.block), _loads_in("tasks", loads), limited, pools)
        # 1:1  crops, network, aggregation; the score maps of 50 proposals (200 MB) never leave the actor
        .map_batches(
            Predict, fn_constructor_args=[predict, limited], batch_size=batches.predict,
            compute=_predict_pool(pools),
            num_cpus=pools.predict_cpus, num_gpus=pools.predict_gpus or None, batch_format="pyarrow",
        )
        # 1:1  CRF and mask, one thread per process; masks are written here, rows sent to the sink, batch by batch. A
        #      later stage would have to wait for a CPU beside tasks that decode, and with two CPUs never gets one
        .map_batches(
            Refine, fn_constructor_args=[refine, limited, keep],
            batch_size=batches.refine, compute=ActorPoolStrategy(size=pools.refine_workers),
            num_cpus=pools.refine_cpus, num_gpus=pools.refine_gpus or None, batch_format="pyarrow",
        )
    )  # fmt: skip


def _loads_in(processes: Processes, loads: Loads) -> Loads:
    """The stages that run in this kind of process."""
    return {stage.name: loads[stage.name] for stage in STAGES if stage.processes == processes and stage.name in loads}


def _in_tasks(dataset: Dataset, loads: Loads, limited: Limit, pools: Pools) -> Dataset:
    """Stages as tasks, all with the same resources, so that Ray fuses them and copies no image in between."""
    for number, (name, load) in enumerate(loads.items()):
        work = limited(name, lambda table, load=load: load()(table))
        run = _starting(work) if number == 0 else work
        dataset = dataset.map_batches(run, num_cpus=pools.task_cpus, batch_format="pyarrow")
    return dataset


def _predict_pool(pools: Pools) -> ActorPoolStrategy:
    """Actors for the network; on a GPU with two calls at once: one uses the device's queue while the other fetches."""
    if not pools.predict_gpus:
        return ActorPoolStrategy(size=pools.predict_workers)
    return ActorPoolStrategy(
        size=pools.predict_workers, max_concurrent_calls_per_actor=2, enable_true_multi_threading=True
    )


def _limited(stage: str, work: Work, attempt_log: RemoteAttemptLog, max_attempts: int, keep: Keep = drop) -> Work:
    """The stage's work, wrapped in the attempt log; Ray's dashboard shows its name."""

    def run(table: pa.Table) -> pa.Table:
        return with_attempt_limit(table, stage, work, attempt_log, max_attempts, keep)

    run.__name__ = run.__qualname__ = stage
    return run


def _starting(first: Work) -> Work:
    """The first stage, from ids and addresses; the rows are made in the process that uses them."""

    @wraps(first)
    def run(table: pa.Table) -> pa.Table:
        return first(start_rows(table))

    return run


class Actor:
    """Stages that have to load something, one after the other; Ray's dashboard shows the names of the subclasses.

    Args:
        loads: the stages.
        limited: wraps each in the attempt log.
        keep: gets the rows of the last one.
    """

    def __init__(self, loads: Loads, limited: Limit, keep: Keep = drop) -> None:
        keep_freed_memory()
        last = list(loads)[-1]
        self._works = [limited(name, load(), keep=keep if name == last else drop) for name, load in loads.items()]

    def __call__(self, table: pa.Table) -> pa.Table:
        """Do the stages' work."""
        for work in self._works:
            table = work(table)
        return table


class Predict(Actor):
    """See `stages.predict.PredictStage`."""


class Refine(Actor):
    """See `stages.refine.refine_stage`; its rows have gone to the sink, so only the ids come out of the graph."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """Do the stages' work."""
        return super().__call__(table).select(["image_id"])


def _blocks(manifest: pa.Table, size: int) -> Dataset:
    """The manifest in blocks of so many images."""
    return from_blocks([manifest.slice(start, size) for start in range(0, len(manifest), size)])
