"""How many processes each stage gets, and whether they fit: arithmetic only, no Ray here.

Tasks (decode and propose) come and go; actors (predict and refine) hold their CPUs for the whole run. If the actors
held every CPU, no task could start and the run would wait for ever, so the plan is checked before it begins.
"""

from __future__ import annotations

from dataclasses import dataclass

# Without a GPU the stages share the cores: two processes of a stage may be placed on one core, since at any time
# some wait for rows. The numbers differ on purpose: stages that ask for the same are fused into one process by Ray.
CPU_PREDICT_CPUS = 0.5
CPU_REFINE_CPUS = 0.25
GPU_PREDICT_CPUS = 1.0
GPU_REFINE_CPUS = 0.9


class PoolError(ValueError):
    """The pools cannot all be placed; the message has the arithmetic."""


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


def plan_pools(cpus: float, gpus: float, predict_workers: int, refine_workers: int) -> Pools:
    """Size the pools for a cluster.

    With GPUs: one predict actor a GPU, a quarter of the CPUs for the CRF, the rest for tasks. Without: half as many
    predict actors as cores, a quarter for the CRF.

    Args:
        cpus: CPUs of the cluster.
        gpus: its GPUs.
        predict_workers: 0, or how many predict actors to use.
        refine_workers: 0, or how many refine actors to use.

    Raises:
        PoolError: the actors leave no CPU for tasks, or there are more predict actors than GPUs.
    """
    use_gpus = gpus >= 1
    predict = predict_workers or (int(gpus) if use_gpus else max(1, int(cpus / 2)))
    refine = refine_workers or max(1, int(cpus / 4))
    predict_cpus, refine_cpus = (GPU_PREDICT_CPUS, GPU_REFINE_CPUS) if use_gpus else (CPU_PREDICT_CPUS, CPU_REFINE_CPUS)
    if use_gpus and predict > gpus:
        raise PoolError(f"{predict} predict workers need a GPU each, the cluster has {gpus:g}: lower --predict-workers")
    free = cpus - predict * predict_cpus - refine * refine_cpus
    task_cpus = 1.0 if free >= 1 else 0.25
    if free < task_cpus:
        raise PoolError(
            f"{predict} predict x {predict_cpus:g} + {refine} refine x {refine_cpus:g} CPUs leave {free:g} of the "
            f"cluster's {cpus:g} for decoding and proposals, which need {task_cpus:g}: lower --predict-workers or "
            "--refine-workers, or add CPUs"
        )
    return Pools(predict, predict_cpus, float(use_gpus), refine, refine_cpus, task_cpus)
