"""One training stage on Ray Train: streaming windows in, checkpoints and history out."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.train.torch import TorchTrainer

from pipeline import storage
from pipeline.config import TrainConfig
from pipeline.errors import TrainingError
from pipeline.run.error_line import in_short
from pipeline.storage.base import StoredFile
from pipeline.storage.listing import list_files
from pipeline.training.loop.state import NETWORK_FILE, load_progress
from pipeline.training.ray.sharder import Dealer
from pipeline.training.ray.worker import best_uri, renew_statistics, train_worker
from pipeline.training.windows.examples import Stage
from pipeline.training.windows.index import index_uri, read_index
from pipeline.training.windows.order import examples_of

TRAIN_SETTINGS = {
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # machines may have to be started first
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else workers' lines are shown twice
}
"""Of Ray Train, unless the environment says otherwise."""


@dataclass(frozen=True)
class StageResult:
    """The best network of a stage (by validation accuracy), as checkpoint bytes, and its history."""

    network: bytes
    history: list[dict[str, Any]]


def run_stage(config: TrainConfig, stage: Stage, start_uri: str, earlier: dict[str, Any]) -> StageResult:
    """Train one stage from the checkpoint at `start_uri`; the same call again resumes where it was stopped.

    Args:
        config: the settings.
        stage: 1 or 2.
        start_uri: the network to start from.
        earlier: history of the stages before, for the curves.

    Raises:
        TrainingError: the workers failed, or the loss exploded; then the last good network is at `lost_uri`.
    """
    examples = examples_of(read_index(index_uri(config.training_set, stage, "train")))
    loop = {"stage": stage, "start_uri": start_uri, "earlier": earlier, "examples": examples}
    most = config.max_workers or config.workers
    result = _run(config, stage, train_worker, loop, name=f"stage{stage}", workers=(config.workers, most))
    if result.return_value is not None:
        raise TrainingError(result.return_value + _keep_last(config, stage, result.checkpoint))
    assert result.checkpoint is not None  # a stage that ends has reported an epoch
    with result.checkpoint.as_directory() as folder:
        history = load_progress(Path(folder)).history
    return StageResult(storage.read_bytes(best_uri(config.output, stage)), history)


def run_statistics(config: TrainConfig, network_uri: str, target_uri: str) -> dict[str, Any]:
    """Compute batch normalisation's statistics of a network anew, on one worker.

    Args:
        config: the settings.
        network_uri: the trained network.
        target_uri: where the network with the new statistics goes.

    Returns:
        Number of training windows, and the figures on validation windows `before` and `after`.

    Raises:
        TrainingError: the worker failed.
    """
    stage = config.stages[-1]
    loop = {"stage": stage, "network_uri": network_uri, "target_uri": target_uri}
    result = _run(config, stage, renew_statistics, loop, name="bn_statistics", workers=(1, 1))
    effect: dict[str, Any] = result.return_value
    return effect


def lost_uri(output: str, stage: Stage) -> str:
    """Where the last good network of a stage goes whose loss exploded."""
    return storage.join(output, f"stage{stage}_last_good.safetensors")


def _keep_last(config: TrainConfig, stage: Stage, checkpoint: ray.train.Checkpoint | None) -> str:
    if checkpoint is None:
        return "; there is no checkpoint yet, so start anew in another --output"
    with checkpoint.as_directory() as folder:
        storage.write_atomic(lost_uri(config.output, stage), (Path(folder) / NETWORK_FILE).read_bytes())
    return (
        f"; the last good network is {lost_uri(config.output, stage)}: go on from it in another --output with "
        f"--stages {stage} --init FILE --learning-rate LOWER"
    )


def _run(
    config: TrainConfig, stage: Stage, worker: Any, loop: dict[str, Any], *, name: str, workers: tuple[int, int]
) -> Any:
    """Run a function on `workers` (at least, at most) and return its Result, which Ray Train's stubs do not know.

    Ray Train counts all failures of a run together, and a long one on machines that may be taken away has many. So it
    is called again, and begins at the last checkpoint, as long as each call leaves new checkpoints.
    """
    for setting, value in TRAIN_SETTINGS.items():
        os.environ.setdefault(setting, value)
    use_gpu = ray.cluster_resources().get("GPU", 0) >= 1
    if config.sync_bn and not use_gpu:
        raise TrainingError("--sync-bn needs GPUs, and the cluster has none; leave it out")
    least, most = workers
    cpus = _cpus_each(most)
    count: Any = most if least == most else workers  # its stubs know no tuple
    trainer = partial(
        TorchTrainer,
        worker,
        train_loop_config={
            "config": config,
            "threads": max(1, int(cpus)),
            "dealer": Dealer.remote(config, stage),  # type: ignore[attr-defined]
            **loop,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=count, use_gpu=use_gpu, resources_per_worker=None if use_gpu else {"CPU": cpus}
        ),
        run_config=ray.train.RunConfig(
            name=name,
            **_checkpoints(config.output),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=config.keep_checkpoints),
            logging_config=ray.train.LoggingConfig("WARNING"),  # type: ignore[call-arg]  # an epoch says a line itself
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
        ),
    )
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    while True:
        before = _checkpoint_files(config.output, name)
        try:
            return trainer().fit()
        except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
            if _checkpoint_files(config.output, name) == before:
                raise TrainingError(f"the workers failed: {in_short(error)}") from error
            print(f"training goes on from the last checkpoint; the workers failed: {in_short(error)}", flush=True)  # noqa: T201
        finally:  # Ray Train's handler asks a controller that has ended, and then ends the process with 0
            signal.signal(signal.SIGINT, on_ctrl_c)


def _checkpoint_files(output: str, name: str) -> list[StoredFile]:
    try:
        return list_files(storage.join(output, "ray", name), (NETWORK_FILE,))
    except FileNotFoundError:
        return []


def _checkpoints(output: str) -> dict[str, Any]:
    """Where Ray Train keeps checkpoints.

    On S3 through s3fs: Arrow's client would make a marker object for each folder, which not every store takes.
    """
    path = storage.join(output, "ray")
    if not storage.is_s3(path):
        return {"storage_path": path}
    import s3fs

    client = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)  # settings from the environment
    return {"storage_path": path.removeprefix("s3://"), "storage_filesystem": PyFileSystem(FSSpecHandler(client))}


def _cpus_each(workers: int) -> float:
    """CPUs and threads of a worker without a GPU: all workers together leave one CPU, which cuts windows."""
    share = (ray.cluster_resources()["CPU"] - 1) / workers
    return int(share) if share >= 1 else max(0.1, round(share, 2))
