"""How many processes each stage gets, and whether they fit: arithmetic only, no Ray here.

Tasks (decode and propose) come and go; actors (predict and refine) hold their CPUs for the whole run. If the actors
held every CPU, no task could start and the run would wait forever, so the plan is checked before the run.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.config.stages import STAGES, Processes, Stage
from pipeline.errors import PoolError

# Without a GPU the stages share the cores: several processes may be placed on one, since some always wait for rows,
# and after the loss of a machine the others must still have room for them and a task. The numbers differ on purpose:
# Ray fuses stages with equal requests into one process.
CPU_PREDICT_CPUS = 0.25
CPU_REFINE_CPUS = 0.125
GPU_PREDICT_CPUS = 1.0
GPU_REFINE_CPUS = 0.9
TASK_CPUS = (1.0, 0.4, 0.2)

GPU_KIND = "accelerator_type:"  # a name of Ray's
REFINE_GPUS = 0.1  # default for an actor whose CRF runs on a GPU
SHARED_PREDICT_GPUS = 0.8  # for a predict actor beside such actors


@dataclass(frozen=True)
class Pools:
    """Processes and resources of each stage."""

    predict_workers: int
    predict_cpus: float
    predict_gpus: float
    refine_workers: int
    refine_cpus: float
    task_cpus: float
    refine_gpus: float = 0.0

    def in_short(self) -> str:
        """One line for people who watch a run start."""
        gpu = f" with {self.predict_gpus:g} GPU each" if self.predict_gpus else ""
        return f"{self.predict_workers} process(es) for the network{gpu}, {self.refine_workers} to refine and save"

    def of_stages(self) -> dict[str, str]:
        """The processes of each stage, for a narrow column; tasks come and go."""
        sizes: dict[Processes, str] = {
            "tasks": "tasks", "predict": str(self.predict_workers), "refine": str(self.refine_workers),
        }  # fmt: skip
        return {stage.name: sizes[stage.processes] for stage in STAGES}

    def describe(self, stages: Sequence[Stage] = STAGES) -> str:
        """One line for people who plan a run with these stages."""
        gpu = f" and {self.predict_gpus:g} GPU" if self.predict_gpus else ""
        refine_gpu = f" and {self.refine_gpus:g} GPU" if self.refine_gpus else ""
        return (
            f"predict: {self.predict_workers} actor(s) of {self.predict_cpus:g} CPU{gpu}; "
            f"refine: {self.refine_workers} actor(s) of {self.refine_cpus:g} CPU{refine_gpu}; "
            f"{_in_tasks([stage.name for stage in stages])}: tasks of {self.task_cpus:g} CPU on the rest"
        )


def machines_in_short(machines: Sequence[Mapping[str, float]]) -> str:
    """One line about a cluster's machines.

    Args:
        machines: resources of each, as Ray reports them; `accelerator_type:NAME` names the model of a GPU.
    """
    words = [f"{len(machines)} machine(s)", f"{sum(one.get('CPU', 0) for one in machines):g} CPUs"]
    if gpus := sum(one.get("GPU", 0) for one in machines):
        kinds = sorted({name.removeprefix(GPU_KIND) for one in machines for name in one if name.startswith(GPU_KIND)})
        words.append(f"{gpus:g} GPUs" + (f" ({', '.join(kinds)})" if kinds else ""))
    return ", ".join(words)


@dataclass(frozen=True)
class Estimate:
    """The expected speed of a plan.

    Attributes:
        bound: the bottleneck: the stage that all others wait for; `cpu` if the stages share the cores.
        images_per_second: of the whole run, after its start.
    """

    bound: str
    images_per_second: float


def plan_pools(
    cpus: float,
    gpus: float,
    predict_workers: int,
    refine_workers: int,
    predict_gpus: float | None = None,
    seconds: Mapping[str, float] | None = None,
    refine_gpus: float = 0.0,
) -> Pools:
    """Size the pools for a cluster, so that its scarcest resource is busy.

    With GPUs: as many predict actors as fit on them, enough refine actors to keep up with the GPUs or with the CPUs,
    and the rest of the CPUs for tasks. Without GPUs: for both, their share of the work on all cores, rounded up.

    Args:
        cpus: CPUs of the cluster.
        gpus: those of its GPUs that may be used.
        predict_workers: how many predict actors to use; 0: chosen here.
        refine_workers: how many refine actors to use; 0: chosen here.
        predict_gpus: GPUs of a predict actor; None: 1 where there are GPUs, less if the CRF runs on them too.
        seconds: seconds per image of one process in each stage (`profile.probe`); None: a guess.
        refine_gpus: GPUs of a refine actor.

    Raises:
        PoolError: the actors leave no CPU for tasks, or need more GPUs than there are.
    """
    each = predict_gpus
    if each is None:
        each = 0.0 if gpus < 1 else SHARED_PREDICT_GPUS if refine_gpus else 1.0
    predict_cpus, refine_cpus = (GPU_PREDICT_CPUS, GPU_REFINE_CPUS) if each else (CPU_PREDICT_CPUS, CPU_REFINE_CPUS)
    seconds = seconds or {stage.name: stage.gpu_guess if each else stage.guess for stage in STAGES}
    on_tasks, on_predict, on_refine = (_seconds_in(kind, seconds) for kind in ("tasks", "predict", "refine"))
    if each:
        predict = predict_workers or max(1, _fitting(gpus, each))
        left = max(cpus - predict * predict_cpus, 0.0)
        rate = min(predict / on_predict, left / (on_tasks + on_refine))
        most = int((left - 1) / refine_cpus)  # one CPU stays for tasks
    else:
        rate = cpus / (on_tasks + on_predict + on_refine)
        predict = predict_workers or max(1, math.ceil(rate * on_predict))
        most = math.ceil(cpus)
    if refine_gpus:
        most = min(most, _fitting(gpus, refine_gpus, beside=each * math.ceil(predict / gpus) if gpus >= 1 else 0.0))
    refine = refine_workers or max(1, min(most, math.ceil(rate * on_refine)))
    _check_gpus(gpus, predict, each, refine, refine_gpus)
    free = cpus - predict * predict_cpus - refine * refine_cpus
    task_cpus = max((share for share in TASK_CPUS if free >= share), default=min(TASK_CPUS))
    if free < task_cpus:
        raise PoolError(
            f"{predict} predict x {predict_cpus:g} + {refine} refine x {refine_cpus:g} CPUs leave {free:g} of the "
            f"cluster's {cpus:g} for decoding and proposals, which need {task_cpus:g}: lower --predict-workers or "
            "--refine-workers, or add CPUs"
        )
    return Pools(predict, predict_cpus, each, refine, refine_cpus, task_cpus, refine_gpus)


def _check_gpus(gpus: float, predict: int, each: float, refine: int, refine_each: float) -> None:
    if predict * each > gpus:
        raise PoolError(
            f"{predict} predict worker(s) x {each:g} GPU need {predict * each:g} GPUs, the cluster has {gpus:g}: "
            "lower --predict-workers or --predict-gpus, or add GPUs (--device cpu --predict-gpus 0 needs none)"
        )
    if predict * each + refine * refine_each > gpus + 1e-9:
        raise PoolError(
            f"{predict} predict worker(s) x {each:g} GPU + {refine} refine worker(s) x {refine_each:g} GPU need more "
            f"than the cluster's {gpus:g}: lower --predict-gpus, --refine-workers or --refine-gpus"
        )


def _fitting(gpus: float, each: float, beside: float = 0.0) -> int:
    """How many actors with `each` GPUs fit beside `beside` on every GPU; a share is not spread over two GPUs."""
    return int(gpus * (1 - beside) / each) if each >= 1 else int(gpus) * int((1 - beside) / each + 1e-9)


def estimate(pools: Pools, cpus: float, seconds: Mapping[str, float]) -> Estimate:
    """The speed of a plan.

    Args:
        pools: the plan.
        cpus: CPUs of the cluster.
        seconds: seconds per image of one process in each stage (`profile.probe`).
    """
    on_tasks, on_predict, on_refine = (_seconds_in(kind, seconds) for kind in ("tasks", "predict", "refine"))
    held = pools.predict_workers * pools.predict_cpus + pools.refine_workers * pools.refine_cpus
    on_cpus = on_tasks + on_refine + (0.0 if pools.predict_gpus else on_predict)
    rates = {
        "cpu": cpus / on_cpus,
        "predict": pools.predict_workers / on_predict,
        "refine": pools.refine_workers / on_refine,
        _in_tasks(seconds): (cpus - held) / pools.task_cpus / on_tasks,
    }
    bound = min(rates, key=lambda name: rates[name])
    return Estimate(bound, rates[bound])


def _seconds_in(processes: Processes, seconds: Mapping[str, float]) -> float:
    """Seconds of all stages in this kind of process; a stage that is not in the run takes none."""
    return sum(seconds.get(stage.name, 0.0) for stage in STAGES if stage.processes == processes)


def _in_tasks(names: Collection[str]) -> str:
    """Those of the stages that run in tasks, as text."""
    *others, last = (stage.name for stage in STAGES if stage.processes == "tasks" and stage.name in names)
    return f"{', '.join(others)} and {last}" if others else last


def check_placement(pools: Pools, nodes: Sequence[Mapping[str, float]]) -> Pools:
    """Make sure that every actor fits on some machine, and a task beside them; neither can span two machines.

    Args:
        pools: a plan that fits the cluster as a whole.
        nodes: `CPU` and `GPU` of each machine.

    Returns:
        The plan, with a CPU share for tasks that fits wherever Ray places the actors.

    Raises:
        PoolError: no machine has room for an actor; the message has the arithmetic.
    """
    free = [{"CPU": node.get("CPU", 0.0), "GPU": node.get("GPU", 0.0)} for node in nodes]
    wanted = [
        *[("predict actor", pools.predict_cpus, pools.predict_gpus)] * pools.predict_workers,
        *[("refine actor", pools.refine_cpus, pools.refine_gpus)] * pools.refine_workers,
        ("task of decoding and proposals", pools.task_cpus, 0.0),
    ]
    for what, cpus, gpus in wanted:
        # For work without a GPU, machines without one first; then the fullest machine that still has room.
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
    return replace(pools, task_cpus=_task_cpus(pools, [node.get("CPU", 0.0) for node in nodes]))


def _task_cpus(pools: Pools, cpus: Sequence[float]) -> float:
    """The largest CPU share that some machine has left, even with the worst placement of the actors.

    To leave less than a share on every machine, the actors must hold more than all the CPUs above it.
    """
    held = pools.predict_workers * pools.predict_cpus + pools.refine_workers * pools.refine_cpus
    shares = [share for share in TASK_CPUS if sum(max(cpu - share, 0.0) for cpu in cpus) >= held]
    return max(shares, default=min(TASK_CPUS))
