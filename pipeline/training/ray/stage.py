"""One training stage on Ray Train: it streams windows, and returns the best network and the history."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train

from pipeline import storage
from pipeline.config import TrainConfig
from pipeline.config.training import TrainingStage
from pipeline.errors import TrainingError
from pipeline.training.loop.state import NETWORK_FILE, load_progress
from pipeline.training.ray.run import Workers, has_gpu, run_workers
from pipeline.training.ray.sharder import Sharder
from pipeline.training.ray.worker import best_uri, renew_statistics, train_worker
from pipeline.training.windows.index import index_uri, read_index
from pipeline.training.windows.order import examples_of


@dataclass(frozen=True)
class StageResult:
    """The best network of a stage (by validation accuracy), as checkpoint bytes, and its history."""

    network: bytes
    history: list[dict[str, Any]]


def run_stage(config: TrainConfig, stage: TrainingStage, start_uri: str, earlier: dict[str, Any]) -> StageResult:
    """Train one stage from the checkpoint at `start_uri`; the same call again resumes where it was stopped.

    Args:
        config: the settings.
        stage: 1 or 2.
        start_uri: the network to start from.
        earlier: history of the earlier stages, for the curves.

    Raises:
        TrainingError: the workers failed, or the loss exploded; in this case the last good network is at `lost_uri`.
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
    """Recompute the batch normalisation statistics of a network, on one worker.

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


def lost_uri(output: str, stage: TrainingStage) -> str:
    """Where the last good network of a stage goes if the loss explodes."""
    return storage.join(output, f"stage{stage}_last_good.safetensors")


def _keep_last(config: TrainConfig, stage: TrainingStage, checkpoint: ray.train.Checkpoint | None) -> str:
    if checkpoint is None:
        return "; there is no checkpoint yet, so start anew in another --output"
    with checkpoint.as_directory() as folder:
        storage.write_atomic(lost_uri(config.output, stage), (Path(folder) / NETWORK_FILE).read_bytes())
    return (
        f"; the last good network is {lost_uri(config.output, stage)}: go on from it in another --output with "
        f"--stages {stage} --init FILE --learning-rate LOWER"
    )


def _run(
    config: TrainConfig, stage: TrainingStage, worker: Any, loop: dict[str, Any], *, name: str, workers: tuple[int, int]
) -> Any:
    """Run a function on `workers` (at least, at most), fed by a sharder, and return its Result."""
    if config.sync_bn and not has_gpu():
        raise TrainingError("--sync-bn needs GPUs, and the cluster has none; leave it out")
    sharder = Sharder.remote(config, stage)  # type: ignore[attr-defined]
    given = Workers(
        config.output,
        *workers,
        cpus_left=1,  # it cuts windows
        keep_checkpoints=config.keep_checkpoints,
        max_failures=config.max_failures,
    )
    return run_workers(worker, {"config": config, "sharder": sharder, **loop}, name, given)
