"""The Ray cluster on which the graphs of a run of the main job work (`run.driver.Workplace`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial

import pyarrow as pa
import ray
from ray.data import Dataset

from pipeline.cluster import connect
from pipeline.cluster.batches import plan_batches
from pipeline.cluster.graph import RemoteAttemptLog, RemoteSink, build_dataset, real_stages
from pipeline.cluster.metrics import RunMetrics
from pipeline.cluster.plan import plan, timed_plan
from pipeline.cluster.pools import Pools, estimate, machines_in_short
from pipeline.cluster.profile import Probed
from pipeline.cluster.ray_private import run_to_the_end
from pipeline.config import SegmentConfig
from pipeline.errors import PoolError, WorkBrokenError
from pipeline.models.checkpoint_header import NetworkInfo
from pipeline.run.driver import Graph
from pipeline.run.record import RunRecord, Summary
from pipeline.run.stopping import stop_on_sigterm
from pipeline.stages.load import Loads
from pipeline.stages.write import rows_in_a_file

PROBE_FROM = 100  # images; with fewer, timing the stages takes longer than a better plan saves


@dataclass
class Cluster:
    """The cluster that RAY_ADDRESS names, or a Ray that is started here.

    Attributes:
        config: the job's settings, with paths that every worker can read.
        info: the network's description.
        log: prints a line.
        loads: the stages; set by `opened`.
        pools: processes of each stage for the first graph; set by `opened`.
        probed: what the stages did with a few images, if `opened` timed them.
    """

    config: SegmentConfig
    info: NetworkInfo
    log: Callable[[str], None]
    loads: Loads = field(default_factory=dict)
    pools: Pools | None = None
    probed: Probed = field(default_factory=Probed)

    breaks = (ray.exceptions.RayError, OSError)
    """See `Workplace.breaks`."""

    @contextmanager
    def opened(self, todo: pa.Table, summary: Summary) -> Iterator[None]:
        """See `Workplace.opened`: connect to Ray, size the pools and count the machines that are lost meanwhile."""
        connect.start_ray()
        stop_on_sigterm()  # Ray's start sets a handler of its own
        lost_before = connect.lost_machines()
        summary.machines = machines_in_short(connect.machines())
        self.pools = plan(self.config)
        self.loads = real_stages(self.config, self.info.num_classes, self.pools)
        if self.config.plan == "auto" and len(todo) >= PROBE_FROM:
            self.pools, self.probed = timed_plan(self.config, self.loads, self.pools, todo, self.log)
            summary.seconds_alone = self.probed.seconds
        try:
            yield
        finally:
            with suppress(Exception):  # a cluster that is gone cannot say
                summary.faults["nodes_lost"] += connect.lost_machines() - lost_before

    def graph(self, todo: pa.Table, run: RunRecord, *, again: bool) -> Graph:
        """See `Workplace.graph`."""
        assert self.pools is not None  # it is open
        if again:
            self.pools = self._plan_again(self.pools)
        rows_per_file = rows_in_a_file(len(todo), self.config.rows_per_file)
        attempt_log, sink = RemoteAttemptLog(), RemoteSink(run.lease, self.info.class_names, rows_per_file)
        alone = self.probed.seconds
        cores, side = max(1, int(connect.total("CPU"))), self.config.decode.max_side
        batches = plan_batches(len(todo), cores, self.info.num_classes, side, self.probed)
        dataset = build_dataset(todo, self.loads, self.config, self.pools, batches, run.lease, attempt_log, sink)
        return Graph(
            work_through=partial(work_through, dataset),
            progress=attempt_log.progress,
            collect=sink.collect,
            export=RunMetrics(self.config.output).see,
            processes=self.pools.in_short(),
            processes_of=self.pools.of_stages(),
            bound=estimate(self.pools, connect.total("CPU"), alone).bound if alone else "",
        )

    def _plan_again(self, before: Pools) -> Pools:
        """The pools for the cluster as it is now; `before` if it lacks GPUs or room, since they may come back."""
        config = replace(self.config, predict_gpus=before.predict_gpus, refine_gpus=before.refine_gpus)
        try:
            return plan(config, self.probed.seconds or None)
        except PoolError as error:
            self.log(f"waiting for machines: {error}")
            return before


def work_through(dataset: Dataset) -> None:
    """Run a graph of Ray Data to its end.

    Raises:
        RayError: a task failed, or a process was lost that Ray cannot replace.
        WorkBrokenError: an error of Ray Data itself. No code of this project runs in this process meanwhile, so an
            exception of any type means that this graph cannot continue (`ExecutionTimeoutError` and `SystemException`
            are no RayErrors, and Ray Data's scheduler may raise anything).
    """
    try:
        run_to_the_end(dataset)
    except ray.exceptions.RayError:
        raise
    except Exception as error:
        said, *_ = str(error).splitlines() or [""]
        raise WorkBrokenError(f"{type(error).__name__}: {said}") from error
