"""The Ray Data graph of the main job; it reads like the diagram in docs/architecture.md."""

from __future__ import annotations

from functools import partial

import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy, DataContext, Dataset

from pipeline import storage
from pipeline.config import SegmentConfig
from pipeline.models.weights import load_checkpoint
from pipeline.pools import Pools
from pipeline.rows import start_rows
from pipeline.stages import PredictStage, decode_stage, propose_stage, refine_stage, write_stage

IMAGES_PER_BLOCK = 16  # 10 MB of working images: blocks of 10-60 MB cost Ray least, and few images wait on one task
IMAGES_PER_PREDICTION = 4  # images whose crops share micro-batches: 200 crops waste at most a part of the last one
IMAGES_PER_REFINEMENT = 1


def build_dataset(manifest: pa.Table, config: SegmentConfig, class_names: tuple[str, ...], pools: Pools) -> Dataset:
    """The lazy graph from a manifest to rows of counts; consuming it writes the results.

    Args:
        manifest: `image_id` and `uri` of the images to do.
        config: the job's settings, with paths that every worker can read.
        class_names: the checkpoint's classes.
        pools: processes of each stage.
    """
    context = DataContext.get_current()
    context.execution_options.preserve_order = False  # waiting for the slowest row would idle the GPU
    context.enable_rich_progress_bars, context.use_ray_tqdm = True, False
    return (
        _blocks(manifest)
        # 1:1  bytes -> RGB at working size; CPU tasks, bound by storage and JPEG decoding
        .map_batches(partial(decode_stage, config=config.decode), num_cpus=pools.task_cpus, batch_format="pyarrow")
        # 1:1  EdgeBoxes; the same resources as decode, so Ray runs both in one task and no image is copied between
        .map_batches(
            partial(propose_stage, config=config.propose), batch_size=1,
            num_cpus=pools.task_cpus, batch_format="pyarrow",
        )
        # 1:1  crops, network, aggregation; the score maps of 50 proposals (200 MB) never leave the actor
        .map_batches(
            Predict, fn_constructor_args=[config], batch_size=IMAGES_PER_PREDICTION,
            compute=ActorPoolStrategy(size=pools.predict_workers),
            num_cpus=pools.predict_cpus, num_gpus=pools.predict_gpus or None, batch_format="pyarrow",
        )
        # 1:1  CRF and mask; pydensecrf holds the GIL, so processes
        .map_batches(
            Refine, fn_constructor_args=[config, len(class_names)], batch_size=IMAGES_PER_REFINEMENT,
            compute=ActorPoolStrategy(size=pools.refine_workers), num_cpus=pools.refine_cpus, batch_format="pyarrow",
        )
        # N:1  one Parquet file of results (and one of errors) for each batch, a row of counts for the driver
        .map_batches(
            partial(write_stage, output=config.output, class_names=class_names, masks=config.masks),
            batch_size=config.rows_per_file, num_cpus=pools.task_cpus / 2, batch_format="pyarrow",
        )
    )  # fmt: skip


class Predict:
    """Actor of the predict stage: loads the network once, on its GPU or on one CPU thread."""

    def __init__(self, config: SegmentConfig) -> None:
        # One thread: threads of several processes on one core wait for each other at every layer.
        torch.set_num_threads(1)
        checkpoint = load_checkpoint(storage.read_bytes(config.weights), config.weights)
        self._stage = PredictStage(checkpoint, config.predict, config.refine.label_threshold)

    def __call__(self, table: pa.Table) -> pa.Table:
        """See `stages.PredictStage`."""
        return self._stage(table)


class Refine:
    """Actor of the refine stage."""

    def __init__(self, config: SegmentConfig, num_classes: int) -> None:
        self._config = config.refine
        self._num_classes = num_classes

    def __call__(self, table: pa.Table) -> pa.Table:
        """See `stages.refine_stage`."""
        return refine_stage(table, self._config, self._num_classes)


def _blocks(manifest: pa.Table) -> Dataset:
    """The manifest as rows, in blocks small enough that every core has work and large enough that Ray is cheap."""
    cores = int(ray.cluster_resources().get("CPU", 1))
    size = max(1, min(IMAGES_PER_BLOCK, len(manifest) // (4 * cores)))
    rows = start_rows(manifest)
    return ray.data.from_arrow([rows.slice(start, size) for start in range(0, len(rows), size)])
