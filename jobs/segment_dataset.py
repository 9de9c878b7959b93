"""Segment a data set of images with DeconvNet, proposal by proposal, on Ray.

    python jobs/segment_dataset.py --input photos --output runs/photos --weights demo
    ray job submit --working-dir . -- python jobs/segment_dataset.py --input ... --output ...

Writes OUTPUT/results/*.parquet (a row an image), OUTPUT/masks (palette PNGs), OUTPUT/errors/*.parquet (the images
that could not be done, and why) and OUTPUT/run (config.json, summary.json, manifest.parquet). The same command again
finishes what is left. Exit codes: 0 all done, 2 bad arguments, 3 stopped but resumable, 4 too many errors.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from dataclasses import replace
from datetime import timedelta
from types import FrameType
from typing import NoReturn

import pyarrow as pa
import tyro
from rich.console import Console
from rich.table import Table

from pipeline import storage
from pipeline.config import ConfigError, SegmentConfig
from pipeline.manifest import ManifestError, build_manifest
from pipeline.models.weights import CheckpointError, CheckpointInfo, fingerprint, read_info
from pipeline.pools import PoolError, Pools, plan_pools
from pipeline.run_record import RunRecord, RunRecordError, Summary, open_run
from pipeline.shipped import weights_uri

EXIT_DONE, EXIT_ARGUMENTS, EXIT_STOPPED, EXIT_ERRORS = 0, 2, 3, 4
BAD_ARGUMENTS = (ConfigError, ManifestError, CheckpointError, RunRecordError, storage.StorageError, OSError)
SECONDS_BETWEEN_LINES = 10
ERRORS_BEFORE_STOPPING = 10  # fewer failures than this say nothing about a rate

console = Console(soft_wrap=True)


def main() -> int:
    """Parse, check, plan, run, audit, report."""
    try:
        config = with_absolute_paths(tyro.cli(SegmentConfig, description=__doc__, config=(tyro.conf.OmitArgPrefixes,)))
        data = storage.read_bytes(config.weights)
        info = read_info(data, config.weights)
        manifest = build_manifest(config.input, config.limit)
        run = open_run(config, fingerprint(data), info.class_names, manifest)
    except BAD_ARGUMENTS as error:
        return complain(error)
    todo = run.todo()
    console.print(
        f"{len(manifest)} images, {len(manifest) - len(todo)} done before; {info.num_classes} classes; "
        f"results go to {run.output}"
    )
    summary = Summary()
    code = EXIT_DONE
    if len(todo):
        try:
            code = segment(config, info, todo, summary)
        except PoolError as error:
            return complain(error)
        except KeyboardInterrupt:  # at any moment, also while Ray starts
            console.print("stopped; the same command goes on from here")
            code = EXIT_STOPPED
    return report(run, summary, code)


def with_absolute_paths(config: SegmentConfig) -> SegmentConfig:
    """Paths that mean the same in every worker, wherever it runs."""
    edge_model = config.propose.edge_model
    return replace(
        config,
        input=storage.absolute(config.input),
        output=storage.absolute(config.output),
        weights=storage.absolute(weights_uri(config.weights)),
        propose=replace(config.propose, edge_model=edge_model and storage.absolute(edge_model)),
    )


def segment(config: SegmentConfig, info: CheckpointInfo, todo: pa.Table, summary: Summary) -> int:
    """Run the graph over the images that are left; add up what the write tasks report. Returns the exit code."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # else a local start turns token authentication on for all
    os.environ.setdefault("RAY_DATA_NON_TTY_PROGRESS_LOG_INTERVAL", "60")  # Ray's table of stages, in seconds
    import ray  # noqa: PLC0415  (takes seconds; bad arguments should be told at once)

    from pipeline.segmentation import build_dataset  # noqa: PLC0415

    ray.init(logging_level=logging.WARNING)
    pools = plan(config)
    signal.signal(signal.SIGTERM, stop)  # `ray job stop`
    console.print(pools.describe())
    started, told = time.perf_counter(), 0.0
    try:
        for counts in build_dataset(todo, config, info.class_names, pools).iter_rows():
            summary.add(counts, time.perf_counter() - started)
            if summary.seconds - told >= SECONDS_BETWEEN_LINES:
                told = summary.seconds
                console.print(progress_line(summary, len(todo)))
            if too_many_errors(summary.ok, summary.failed, config.max_error_rate):
                console.print(f"stopped: {summary.failed} of {summary.ok + summary.failed} images failed")
                return EXIT_ERRORS
    except ray.exceptions.RayError as error:
        console.print(f"stopped by an error of the cluster; the same command goes on from here: {error}")
        return EXIT_STOPPED
    return EXIT_DONE


def progress_line(summary: Summary, total: int) -> str:
    """How far the run is, at what rate, and when it may end."""
    done = summary.ok + summary.failed
    left = timedelta(seconds=round(summary.seconds / done * (total - done)))
    return f"{done} of {total} images, {summary.failed} failed, {done / summary.seconds:.2f} images/s, {left} left"


def plan(config: SegmentConfig) -> Pools:
    """Size the pools for the cluster that Ray is connected to."""
    import ray  # noqa: PLC0415

    resources = ray.cluster_resources()
    gpus = 0 if config.predict.device == "cpu" else resources.get("GPU", 0)
    return plan_pools(resources.get("CPU", 0), gpus, config.predict_workers, config.refine_workers)


def too_many_errors(ok: int, failed: int, max_error_rate: float) -> bool:
    """Whether more images failed than `max_error_rate` allows, looked at from ten failures on."""
    return failed >= ERRORS_BEFORE_STOPPING and failed > max_error_rate * (ok + failed)


def report(run: RunRecord, summary: Summary, code: int) -> int:
    """Audit the output, write and print the summary; returns the exit code."""
    found = run.audit()
    content = run.write_summary(summary, found)
    table = Table("stage", "rows", "seconds", "seconds a row", box=None)
    for stage, totals in content["stages"].items():
        each = totals["seconds"] / totals["rows"] if totals["rows"] else 0.0
        table.add_row(stage, f"{totals['rows']:.0f}", f"{totals['seconds']:.1f}", f"{each:.3f}")
    console.print(table)
    console.print(
        f"{found.ok} of {found.total} images done, {found.failed} failed, {found.missing} left; "
        f"{content['seconds']:.1f} s, {content['images_per_second']:.2f} images/s"
    )
    if found.failed:
        console.print(f"why they failed: {storage.join(run.output, 'errors')}")
    if found.failed and not found.ok:
        return EXIT_ERRORS
    if code == EXIT_DONE and not found.complete:
        console.print(f"the audit found images missing or doubled: {found}")
        return EXIT_STOPPED
    return code


def complain(error: Exception) -> int:
    """Say what is wrong with the arguments."""
    print(f"segment_dataset: {storage.redact(str(error))}", file=sys.stderr)
    return EXIT_ARGUMENTS


def stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    """Treat a request to end like Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
