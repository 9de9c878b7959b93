"""How many processes each stage gets, and whether they fit: arithmetic only, no Ray here.

Tasks (decode and propose) come and go; actors (predict and refine) hold their CPUs for the whole run. If the actors
held every CPU, no task could start and the run would wait for ever, so the plan is checked before it begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Without a GPU the stages share the cores: two processes of a stage may be placed on one core, since at any time
# some wait for rows. The numbers differ on purpose: stages that ask for the same are fused into one process by Ray.
CPU_PREDICT_CPUS = 0.5
CPU_REFINE_CPUS = 0.25
GPU_PREDICT_CPUS = 1.0
GPU_REFINE_CPUS = 0.9


class PoolError(ValueError):
    """The pools cannot all be placed; the message has the arithmetic."""


class ClusterError(ConnectionError):
    """No cluster could be reached or started."""


@dataclass(frozen=True)
class Pools:
    """Processes and resources of each stage."""

    predict_workers: int
    predict_cpus: float
    predict_gpus: float
    refine_workers: int
    refine_cpus: float
    task_cpus: float

    def describe(self) -> str:
        """One line for people."""
        gpu = f" and {self.predict_gpus:g} GPU" if self.predict_gpus else ""
        return (
            f"predict: {self.predict_workers} actor(s) of {self.predict_cpus:g} CPU{gpu}; "
            f"refine: {self.refine_workers} actor(s) of {self.refine_cpus:g} CPU; "
            f"decode and propose: tasks of {self.task_cpus:g} CPU on the rest"
        )


def plan_pools(
    cpus: float, gpus: float, predict_workers: int, refine_workers: int, predict_gpus: float | None = None
) -> Pools:
    """Size the pools for a cluster.

    With GPUs: as many predict actors as fit on them, a quarter of the CPUs for the CRF, the rest for tasks. Without:
    half as many predict actors as cores, a quarter for the CRF.

    Args:
        cpus: CPUs of the cluster.
        gpus: its GPUs, those it may use.
        predict_workers: 0, or how many predict actors to use.
        refine_workers: 0, or how many refine actors to use.
        predict_gpus: GPUs of a predict actor; None: 1 where there are GPUs.

    Raises:
        PoolError: the actors leave no CPU for tasks, or need more GPUs than there are.
    """
    each = predict_gpus if predict_gpus is not None else float(gpus >= 1)
    predict = predict_workers or (max(1, int(gpus / each)) if each else max(1, int(cpus / 2)))
    refine = refine_workers or max(1, int(cpus / 4))
    predict_cpus, refine_cpus = (GPU_PREDICT_CPUS, GPU_REFINE_CPUS) if each else (CPU_PREDICT_CPUS, CPU_REFINE_CPUS)
    if predict * each > gpus:
        raise PoolError(
            f"{predict} predict worker(s) x {each:g} GPU need {predict * each:g} GPUs, the cluster has {gpus:g}: "
            "lower --predict-workers or --predict-gpus, or add GPUs (--device cpu --predict-gpus 0 needs none)"
        )
    free = cpus - predict * predict_cpus - refine * refine_cpus
    task_cpus = 1.0 if free >= 1 else 0.25
    if free < task_cpus:
        raise PoolError(
            f"{predict} predict x {predict_cpus:g} + {refine} refine x {refine_cpus:g} CPUs leave {free:g} of the "
            f"cluster's {cpus:g} for decoding and proposals, which need {task_cpus:g}: lower --predict-workers or "
            "--refine-workers, or add CPUs"
        )
    return Pools(predict, predict_cpus, each, refine, refine_cpus, task_cpus)


def check_placement(pools: Pools, nodes: Sequence[Mapping[str, float]]) -> None:
    """Make sure that every actor fits on some machine, and a task beside them: an actor cannot span two.

    Args:
        pools: a plan that fits the cluster as a whole.
        nodes: `CPU` and `GPU` of each machine.

    Raises:
        PoolError: an actor finds no machine with enough left; the message has the arithmetic.
    """
    free = [{"CPU": node.get("CPU", 0.0), "GPU": node.get("GPU", 0.0)} for node in nodes]
    wanted = [
        *[("predict actor", pools.predict_cpus, pools.predict_gpus)] * pools.predict_workers,
        *[("refine actor", pools.refine_cpus, 0.0)] * pools.refine_workers,
        ("task of decoding and proposals", pools.task_cpus, 0.0),
    ]
    for what, cpus, gpus in wanted:
        # Machines without a GPU first for work that needs none, then the fullest that still has room.
        fits = [node for node in free if node["CPU"] >= cpus - 1e-9 and node["GPU"] >= gpus - 1e-9]
        if not fits:
            left = "; ".join(f"{node['CPU']:g} CPU, {node['GPU']:g} GPU" for node in free)
            raise PoolError(
                f"no machine has {cpus:g} CPU and {gpus:g} GPU left for a {what} (left on each: {left}): lower "
                "--predict-workers or --refine-workers, or use larger machines"
            )
        best = min(fits, key=lambda node: (node["GPU"] > 0 and gpus == 0, node["CPU"]))
        best["CPU"] -= cpus
        best["GPU"] -= gpus
