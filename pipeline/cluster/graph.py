"""The Ray Data graph of the main job; it reads like the diagram in docs/architecture.md."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, ClassVar

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.cluster.pools import Pools
from pipeline.cluster.profile import Works
from pipeline.config import SegmentConfig
from pipeline.outputs.lease import Lease
from pipeline.run.attempts import Keep, Ledger, guarded
from pipeline.stages.decode import decode_stage
from pipeline.stages.propose import propose_stage
from pipeline.stages.refine import load_refine
from pipeline.stages.rows import WORKING_COLUMNS, Work, start_rows
from pipeline.stages.write import Counts, Sink, write_files

IMAGES_PER_BLOCK = 16  # 10 MB of working images: blocks of 10-60 MB cost Ray least, and few images wait on one task
MOST_BLOCKS = 8192  # the driver holds a reference to each: of millions of images, more go into a block
IMAGES_PER_PREDICTION = 4  # images whose crops share micro-batches: 200 crops waste at most a part of the last one
IMAGES_PER_REFINEMENT = 4  # two messages for each batch, to the ledger and the sink; on a GPU, one lattice
SINK_THREADS = 4  # files that are staged at once

Guard = Callable[[str, Work], Work]


class RemoteLedger:
    """The run's ledger of attempts (`pipeline.run.attempts`), in an actor on the driver's machine."""

    def __init__(self) -> None:
        self.actor: Any = ray.remote(Ledger).options(**_beside_the_driver()).remote()

    def enter(self, stage: str, key: str) -> int:
        """See `Ledger.enter`; when this returns, the attempt is noted."""
        return int(ray.get(self.actor.enter.remote(stage, key)))

    def leave(self, stage: str, key: str, images: int, repeated: int) -> None:
        """See `Ledger.leave`."""
        self.actor.leave.remote(stage, key, images, repeated)


class RemoteSink:
    """The run's sink (`stages.write.Sink`), in an actor on the driver's machine.

    It takes no CPU, so that nothing can keep results from being written. What it holds is bounded: `add` returns when
    the rows are taken, and takes none while `SINK_THREADS` files are being staged.
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
    """Of an actor that does not compute and must not be lost with another machine."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {"num_cpus": 0, "scheduling_strategy": here}


def real_works(config: SegmentConfig, num_classes: int, pools: Pools) -> Works:
    """The stages of the main job, for actors that are given what `pools` says."""
    return Works(
        decode=partial(decode_stage, config=config.decode),
        propose=partial(propose_stage, config=config.propose),
        make_predict=partial(_load_predict, config, pools.predict_gpus),
        make_refine=partial(load_refine, config.refine, num_classes, pools.refine_gpus, save=config.save_probabilities),
    )


def build_dataset(
    manifest: pa.Table,
    works: Works,
    config: SegmentConfig,
    pools: Pools,
    lease: Lease,
    ledger: RemoteLedger,
    sink: RemoteSink,
) -> Dataset:
    """The lazy graph from a manifest to the sink; what comes out of it only says that it was worked through.

    Args:
        manifest: `image_id` and `uri` of the images to do.
        works: what the stages do.
        config: the job's settings, with paths that every worker can read.
        pools: processes of each stage.
        lease: the right to the output.
        ledger: counts attempts.
        sink: gets the refined rows.
    """
    context = DataContext.get_current()
    context.execution_options.preserve_order = False  # waiting for the slowest row would idle the GPU
    context.execution_no_progress_timeout_s = -1  # whether a run goes nowhere, its own watch decides
    guard = partial(_guard, ledger=ledger, max_attempts=config.max_attempts)
    keep = partial(_keep, lease=lease, sink=sink, masks=config.masks)
    return (
        _blocks(manifest)
        # 1:1  bytes -> RGB at working size; CPU tasks, bound by storage and JPEG decoding
        .map_batches(_starting(guard("decode", works.decode)), num_cpus=pools.task_cpus, batch_format="pyarrow")
        # 1:1  EdgeBoxes; the same resources as decode, so Ray runs both in one task and no image is copied between
        .map_batches(guard("propose", works.propose), num_cpus=pools.task_cpus, batch_format="pyarrow")
        # 1:1  crops, network, aggregation; the score maps of 50 proposals (200 MB) never leave the actor
        .map_batches(
            Predict, fn_constructor_args=[works.make_predict, guard], batch_size=IMAGES_PER_PREDICTION,
            compute=_predict_pool(pools),
            num_cpus=pools.predict_cpus, num_gpus=pools.predict_gpus or None, batch_format="pyarrow",
        )
        # 1:1  CRF and mask, one thread a process; masks are written here, rows sent to the sink, batch by batch. A
        #      stage after this one would wait for a CPU beside those that decode, and on two there is never one
        .map_batches(
            Refine, fn_constructor_args=[works.make_refine, partial(guard, keep=keep)],
            batch_size=IMAGES_PER_REFINEMENT, compute=ActorPoolStrategy(size=pools.refine_workers),
            num_cpus=pools.refine_cpus, num_gpus=pools.refine_gpus or None, batch_format="pyarrow",
        )
    )  # fmt: skip


def _keep(table: pa.Table, lease: Lease, sink: RemoteSink, *, masks: bool) -> None:
    """The end of an image's way: its mask is in place and its row with the sink."""
    write_files(table, lease, masks=masks)
    sink.add(table.drop_columns(WORKING_COLUMNS.names))


def _predict_pool(pools: Pools) -> ActorPoolStrategy:
    """On a GPU two calls at once: one has the device's queue while the other's results are fetched and packed."""
    if not pools.predict_gpus:
        return ActorPoolStrategy(size=pools.predict_workers)
    return ActorPoolStrategy(
        size=pools.predict_workers, max_concurrent_calls_per_actor=2, enable_true_multi_threading=True
    )


def _guard(stage: str, work: Work, ledger: RemoteLedger, max_attempts: int, keep: Keep = lambda _: None) -> Work:
    """The stage's work, under the ledger; its name is what Ray's dashboard shows."""

    def run(table: pa.Table) -> pa.Table:
        return guarded(table, stage, work, ledger, max_attempts, keep)

    run.__name__ = run.__qualname__ = stage
    return run


def _starting(first: Work) -> Work:
    """The first stage, from ids and addresses: the rows are made where they are worked on."""

    @wraps(first)
    def run(table: pa.Table) -> pa.Table:
        return first(start_rows(table))

    return run


class Actor:
    """A stage with something to load; the names of its kinds are what Ray's dashboard shows."""

    stage: ClassVar[str]

    def __init__(self, make: Callable[[], Work], guard: Guard) -> None:
        self._run = guard(self.stage, make())

    def __call__(self, table: pa.Table) -> pa.Table:
        """Do the stage's work."""
        return self._run(table)


class Predict(Actor):
    """See `stages.predict.PredictStage`."""

    stage = "predict"


class Refine(Actor):
    """See `stages.refine.refine_stage`; what it makes has gone to the sink, and only the ids come out of the graph."""

    stage = "refine"

    def __call__(self, table: pa.Table) -> pa.Table:
        """Do the stage's work."""
        return super().__call__(table).select(["image_id"])


def _load_predict(config: SegmentConfig, gpus: float) -> Work:
    from pipeline.stages.predict import load_predict

    return load_predict(config, gpus)


def _blocks(manifest: pa.Table) -> Dataset:
    """The manifest in blocks small enough that every core has work and large enough that Ray is cheap."""
    cores = int(ray.cluster_resources().get("CPU", 1))
    # At the end cores wait for the last blocks: of a short run they are small.
    size = max(1, min(IMAGES_PER_BLOCK, len(manifest) // (16 * cores)), len(manifest) // MOST_BLOCKS)
    return ray.data.from_arrow([manifest.slice(start, size) for start in range(0, len(manifest), size)])
