"""What the main job prints: its plan, and its results at the end."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

from jobs import commands
from jobs.common import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, counted, make_report
from pipeline import storage
from pipeline.config import SegmentConfig
from pipeline.config.shards import WHOLE
from pipeline.config.stages import Stage, stages_of
from pipeline.models.checkpoint_header import NetworkInfo
from pipeline.outputs.audit import Audit
from pipeline.outputs.layout import ERRORS, MASKS, RESULTS, SKIPPED
from pipeline.outputs.results import images_per_class, read_errors, read_skipped
from pipeline.outputs.schema import RESULTS_SCHEMA
from pipeline.run.live import Speeds, View, live_table
from pipeline.run.local import processes_for
from pipeline.run.record import RunRecord, Summary, too_many
from pipeline.run.shards import write_joint_summary
from pipeline.stages.write import rows_in_a_file

SHOWN = 8  # class names in a line, kinds of failures in a list

console = Console(soft_wrap=True, markup=False)


def classes(info: NetworkInfo) -> str:
    """The network's classes in one line, so that a wrong network is noticed at once."""
    more = ", ..." if info.num_classes > SHOWN else ""
    return f"{info.num_classes} classes ({', '.join(info.class_names[:SHOWN])}{more})"


def show_plan(config: SegmentConfig, info: NetworkInfo, manifest: pa.Table, left: pa.Table, *, local: bool) -> int:
    """Print what a run would do and how long it would take, timed on a few of its images; writes nothing.

    Args:
        config: the run's settings.
        info: the network's description.
        manifest: all images of the run.
        left: those that are not done.
        local: whether they would be done on this machine without Ray; then nothing is timed.

    Returns:
        The exit code.

    Raises:
        ClusterError: there is no cluster.
        PoolError: the processes do not fit it.
    """
    console.print(f"{counted(len(manifest), 'image')}, {len(manifest) - len(left)} done before; {classes(info)}")
    console.print(f"first ids: {', '.join(manifest['image_id'][:5].to_pylist())}")
    processes = _local_processes(config, len(left)) if local else _processes_on_ray(config, info, left)
    console.print(f"stages: {stage_names(config)} -> write; {processes}")
    rows = rows_in_a_file(len(left), config.rows_per_file)
    files = -(-len(left) // rows)
    planned = f"{counted(files, 'file')} of {counted(rows, 'row')}"
    console.print(f"about {planned}, more in a slow run, in {config.output}, with columns:")
    console.print(", ".join(RESULTS_SCHEMA.names))
    return EXIT_DONE


def stage_names(config: SegmentConfig) -> str:
    """The stages that do something, in their order; a network that sees whole images gets no proposals."""
    idle = {"propose"} if config.whole_images else set()
    return " -> ".join(stage.name for stage in stages_of(config) if stage.name not in idle)


def _local_processes(config: SegmentConfig, images: int) -> str:
    count = processes_for(max(images, 1), config.predict_workers)
    return (
        f"few images: {count} process(es) of this machine for all of them, without Ray and not timed "
        "(RAY_ADDRESS=local times them)"
    )


def _processes_on_ray(config: SegmentConfig, info: NetworkInfo, left: pa.Table) -> str:
    """The processes of each stage in words, after printing how long they would take."""
    from pipeline.cluster import connect
    from pipeline.cluster.graph import real_stages
    from pipeline.cluster.plan import plan, timed_plan

    connect.start_ray()
    pools, stages = plan(config), stages_of(config)
    if len(left) and config.plan == "auto":
        loads = real_stages(config, info.num_classes, pools)
        pools, probed = timed_plan(config, loads, pools, left, console.print)
        show_stages(stages, probed.seconds)
        console.print("on top comes the start of Ray and of the networks, half a minute or more")
    return pools.describe(stages)


@contextmanager
def show_live(view: Callable[[], View]) -> Iterator[None]:
    """Draw what the run is doing, every second as long as the context lasts; other lines appear above it."""
    speeds = Speeds()
    drawn: RenderableType = "starting"

    def draw() -> RenderableType:
        nonlocal drawn
        with suppress(Exception):  # a cluster in trouble: the last that was heard stays
            now = view()
            drawn = live_table(now, speeds.see(time.monotonic(), now.done))
        return drawn

    with Live(get_renderable=draw, console=console, refresh_per_second=1, transient=True):
        yield


def show_stages(stages: Sequence[Stage], seconds: Mapping[str, float]) -> None:
    """Print the seconds of each stage when it runs alone; nothing if the stages could not be timed."""
    if not seconds:
        return
    table = Table("stage", "seconds an image", "images/s of a process", box=None)
    for stage in stages:
        each = seconds[stage.name]
        table.add_row(stage.name, f"{each:.3f}", f"{1 / each:.1f}" if each else "")
    console.print(table)


def report(config: SegmentConfig, run: RunRecord, summary: Summary, code: int) -> int:
    """Audit the output, and write and print the summary.

    The last line has the numbers, also that of failed images: scripts that call the job look there.

    Args:
        config: the run's settings.
        run: the output folder.
        summary: what this call did.
        code: the exit code so far.

    Returns:
        The exit code, after the audit.

    Raises:
        OSError: the summary cannot be written.
        ResultsError: the output cannot be read.
    """
    allowed, found = config.max_error_rate, run.audit()
    content = run.write_summary(summary, found)
    whole = write_joint_summary(run, found)
    show_work(content, found)
    if found.failed:
        show_failures(run)
    if found.skipped:
        show_skipped(run)
    if code == EXIT_DONE and not found.complete:
        console.print(f"the audit found images missing or doubled: {found}")
        code = EXIT_STOPPED
    if code == EXIT_DONE and allowed is not None and too_many(found.failed, allowed, found.total - found.skipped):
        console.print(f"more images failed than --max-error-rate {allowed:g} allows")
        code = EXIT_FAILED
    if code == EXIT_DONE and found.failed and not found.ok:
        code = EXIT_FAILED
    if found.ok:
        show_results(config, run.output)
    # Of two shards that end last, each after its own results, at least one sees all of them.
    if code != EXIT_STOPPED and (run.lease.shard == WHOLE or whole.complete):
        make_report(run.output, console.print, whole)
    line = f"{numbers(found)}; {content['seconds']:.1f} s, {content['images_per_second']:.2f} images/s"
    console.print(line if run.lease.shard == WHOLE else of_shard(line, whole, done=code == EXIT_DONE))
    return code


def show_work(content: Mapping[str, Any], found: Audit) -> None:
    """Print the images and seconds of each stage in all calls together; nothing if none did anything.

    Args:
        content: of summary.json.
        found: the output, which has each image once; what was done again, as by `--retry-failed`, was worked on twice.
    """
    alone = content["seconds_alone"]
    table = Table("stage", "images", "seconds", "seconds an image", *["alone, before the run"] * bool(alone), box=None)
    for stage, totals in content["stages"].items():
        each = totals["seconds"] / totals["rows"] if totals["rows"] else 0.0
        before = [f"{alone[stage]:.3f}" if stage in alone else ""] if alone else []
        table.add_row(stage, f"{totals['rows']:.0f}", f"{totals['seconds']:.1f}", f"{each:.3f}", *before)
    worked_on = max((totals["rows"] for totals in content["stages"].values()), default=0)
    if worked_on:
        console.print(table)
    if worked_on > found.ok + found.failed + found.skipped + found.unexpected:
        console.print("an image that was done again counts each time in this table, with its seconds")


def of_shard(line: str, whole: Audit, *, done: bool) -> str:
    """The last line of a shard, which says how far all of them are, too."""
    return f"its share{' is done' if done else ''}: {line}; the whole: {numbers(whole)}"


def numbers(found: Audit) -> str:
    """How many images are done, failed and left."""
    skipped = f"{found.skipped} skipped, " if found.skipped else ""
    return f"{found.ok} of {found.total} images done, {found.failed} failed, {skipped}{found.missing} left"


def show_failures(run: RunRecord) -> None:
    """Print why images of a call failed: their number by kind, with one example each."""
    console.print(f"why they failed, image by image: {storage.join(run.output, ERRORS)}")
    errors = run.lease.shard.share_of(read_errors(run.output))
    kinds = errors.group_by(["error_stage", "error_type"], use_threads=False)
    table = kinds.aggregate([("image_id", "count"), ("image_id", "first"), ("error_message", "first")])
    for row in table.sort_by([("image_id_count", "descending")]).slice(0, SHOWN).to_pylist():
        console.print(
            f"  {row['image_id_count']} in {row['error_stage']}: {row['error_type']}; "
            f"{row['image_id_first']}: {row['error_message_first']}"
        )


def show_skipped(run: RunRecord) -> None:
    """Print how many images of a call each stage skipped, with the reason for one of them."""
    console.print(f"why images were skipped, image by image: {storage.join(run.output, SKIPPED)}")
    stages = run.lease.shard.share_of(read_skipped(run.output)).group_by("skip_stage", use_threads=False)
    table = stages.aggregate([("image_id", "count"), ("image_id", "first"), ("skip_reason", "first")])
    for row in table.to_pylist():
        console.print(
            f"  {row['image_id_count']} by {row['skip_stage']}; {row['image_id_first']}: {row['skip_reason_first']}"
        )


def show_results(config: SegmentConfig, output: str) -> None:
    """Print where the results are, what was found in them, and how to view them."""
    found = images_per_class(output)
    objects = sorted(list(found.items())[1:], key=lambda one: -one[1])  # without the background
    top = ", ".join(f"{name} in {images}" for name, images in objects[:SHOWN] if images)
    console.print(f"images with each class: {top or 'none has anything but background'}")
    if config.masks:
        console.print(f"masks:   {storage.join(output, MASKS)}")
    console.print(f"results: {storage.join(output, RESULTS)}")
    console.print(f"to look at them: {commands.EVALUATE.line(shlex.quote(output), '--panels', commands.PANELS)}")
