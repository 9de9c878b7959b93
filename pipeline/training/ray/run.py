"""Runs any training function on the workers of Ray Train, and resumes it from its last checkpoint after failures."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.train.torch import TorchTrainer

from pipeline import storage
from pipeline.errors import TrainingError, UserError, kinds_of
from pipeline.run.error_line import in_short
from pipeline.storage.base import StoredFile
from pipeline.storage.listing import list_files
from pipeline.training.loop.state import NETWORK_FILE

TRAIN_SETTINGS = {
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # machines may have to start first
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # otherwise workers' lines are shown twice
}
"""Ray Train's settings, unless the environment sets them."""

OF_THE_DATA = frozenset({"FileNotFoundError", *(error.__name__ for error in kinds_of(UserError))})
"""Errors that reading the same data again raises again."""


@dataclass(frozen=True)
class Workers:
    """The workers and resources of a run, and where its checkpoints go."""

    output: str
    """Checkpoints go to OUTPUT/ray."""
    least: int
    """Fewest workers."""
    most: int
    """Most workers, used if there is room."""
    cpus_left: int
    """CPUs that workers without a GPU leave to other processes."""
    keep_checkpoints: int
    max_failures: int


def run_workers(worker: Any, loop: dict[str, Any], name: str, workers: Workers) -> Any:
    """Run a function on all workers and return its Result, for which Ray Train's stubs have no type.

    Ray Train counts all failures of a run together, and a long run on preemptible machines has many; it also tries
    four times to read a file that does not exist. So each failure ends a call of Ray Train, and the next call resumes
    from the last checkpoint.

    Args:
        worker: the function; it gets `loop` and, as `threads`, how many threads it may use.
        loop: its settings.
        name: name of the run and of the folder of its checkpoints.
        workers: the workers and resources of the run.

    Raises:
        TrainingError: the training set cannot be read, or the workers failed more than `max_failures` times in a row
            without a new checkpoint.
    """
    for setting, value in TRAIN_SETTINGS.items():
        os.environ.setdefault(setting, value)
    use_gpu = has_gpu()
    cpus = _cpus_each(workers)
    count: Any = workers.most if workers.least == workers.most else (workers.least, workers.most)  # stubs: no tuple
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    fruitless = 0
    while True:
        before = _checkpoint_files(workers.output, name)
        trainer = TorchTrainer(
            worker,
            train_loop_config={"threads": max(1, int(cpus)), **loop},
            scaling_config=ray.train.ScalingConfig(
                num_workers=count, use_gpu=use_gpu, resources_per_worker=None if use_gpu else {"CPU": cpus}
            ),
            run_config=ray.train.RunConfig(
                name=name,
                **_checkpoints(workers.output),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=workers.keep_checkpoints),
                logging_config=ray.train.LoggingConfig("WARNING"),  # type: ignore[call-arg]  # workers say lines
                failure_config=ray.train.FailureConfig(max_failures=0),
            ),
        )
        try:
            return trainer.fit()
        except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
            said = in_short(error)
            if said.split(":")[0].rpartition(".")[2] in OF_THE_DATA:
                raise TrainingError(f"the training set cannot be used: {said}") from error
            fruitless = 0 if _checkpoint_files(workers.output, name) != before else fruitless + 1
            if 0 <= workers.max_failures < fruitless:
                raise TrainingError(f"the workers failed: {said}") from error
            print(f"training goes on from the last checkpoint; the workers failed: {said}", flush=True)  # noqa: T201
        finally:  # Ray Train's handler calls a controller that has ended, and then ends the process with 0
            signal.signal(signal.SIGINT, on_ctrl_c)


def has_gpu() -> bool:
    """Whether workers get GPUs."""
    return bool(ray.cluster_resources().get("GPU", 0) >= 1)


def _checkpoint_files(output: str, name: str) -> list[StoredFile]:
    try:
        return list_files(storage.join(output, "ray", name), (NETWORK_FILE,))
    except FileNotFoundError:
        return []


def _checkpoints(output: str) -> dict[str, Any]:
    """Where Ray Train keeps checkpoints.

    On S3 through s3fs: Arrow's client would make a marker object for each folder, which not every store accepts. The
    settings refuse other stores.
    """
    path = storage.join(output, "ray")
    if storage.is_local(path):
        return {"storage_path": path}
    import s3fs

    client = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)  # settings from the environment
    return {"storage_path": path.removeprefix("s3://"), "storage_filesystem": PyFileSystem(FSSpecHandler(client))}


def _cpus_each(workers: Workers) -> float:
    """CPUs, and so threads, of a worker without a GPU."""
    share = (ray.cluster_resources()["CPU"] - workers.cpus_left) / workers.most
    return int(share) if share >= 1 else max(0.1, round(share, 2))
