"""The main job: a data set of images to label masks, on Ray; few images on this machine alone.

    python jobs/segment_dataset.py --input photos --output runs/photos --weights my.safetensors
    ray job submit --working-dir . -- python jobs/segment_dataset.py --input ... --output ...

All input is checked before the output folder is claimed: a call that ends with exit code 2 or 5 has written nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from threading import Thread

import pyarrow as pa

from jobs import commands
from jobs.common import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, call, counted, end_process, get_ready_to_report
from jobs.segment_report import classes, console, report, show_live, show_plan
from pipeline import storage
from pipeline.checkpoints.bundled import BUNDLED
from pipeline.config import SEGMENT_RECIPES, SegmentConfig
from pipeline.config.earlier import RUNS, as_begun, as_chosen
from pipeline.config.shards import Shard
from pipeline.config.stages import stages_of
from pipeline.errors import LeaseError, ResultsError, TooManyErrors
from pipeline.inputs.manifest import build_manifest, describe
from pipeline.inputs.named import check_named
from pipeline.models.checkpoint_header import NetworkInfo
from pipeline.run.driver import Driver, Workplace
from pipeline.run.local import MOST_IMAGES, Processes, ThisMachine, processes_ahead
from pipeline.run.prepare import check_networks, remarks, with_absolute_paths, with_shape_of
from pipeline.run.record import RunRecord, Summary, check_run, open_run, recorded_settings, unfinished
from pipeline.storage import listing

COMMAND = commands.SEGMENT
parse = partial(commands.parse, COMMAND)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; returns the exit code."""
    return call(COMMAND, arguments, run)


def run(options: SegmentConfig) -> int:
    """Check, plan, claim the output, run, audit, report."""
    config = with_absolute_paths(as_output_was_begun(options))
    check_named("input", listing.glob_root(config.input))
    with processes_ahead(config, console.print) as processes:
        info, networks = check_networks(config)
        config = with_shape_of(config, info)
        if options.weights in BUNDLED:
            console.print(f"--weights {options.weights}: {BUNDLED[options.weights].knows}")
        for remark in remarks(config):
            console.print(remark)
        check_run(config, networks)
        manifest = images_of(config)
        share = Shard.parse(config.shard).share_of(manifest)
        left = unfinished(config.output, share)
        most = len(share) if config.overwrite or config.retry_failed else len(left)  # images that may be to do
        few = processes if most <= MOST_IMAGES else None
        if processes is not None and few is None:
            processes.end()
        if config.dry_run:
            try:
                return show_plan(config, info, share, left, local=few is not None)
            except KeyboardInterrupt:
                console.print("stopped; a dry run keeps nothing, so there is nothing to go on from")
                return EXIT_STOPPED
        where = workplace(config, info, few) if most else None
        record = open_run(config, networks, info.class_names, manifest, console.print)
        try:
            with record.lease.kept_alive():
                return work(config, info, record, where)
        except KeyboardInterrupt:  # a second one, while the first was handled
            console.print("stopped at once; the same command goes on from here")
            return EXIT_STOPPED


def images_of(config: SegmentConfig) -> pa.Table:
    """The manifest; a line says what in the input is left aside."""
    left_aside: Counter[str] = Counter()
    manifest = build_manifest(config.input, config.limit, left_aside)
    if left_aside:
        console.print(describe(left_aside))
    return manifest


def workplace(config: SegmentConfig, info: NetworkInfo, processes: Processes | None) -> Workplace:
    """Where images are done: by processes of this machine, or on Ray, which takes seconds to import and start.

    Raises:
        ClusterError: there is no cluster.
        PoolError: the processes do not fit it.
    """
    if processes is not None:
        return ThisMachine(config, info, console.print, processes)
    from pipeline.cluster import connect
    from pipeline.cluster.plan import plan
    from pipeline.cluster.workplace import Cluster

    connect.start_ray()
    plan(config)
    return Cluster(config, info, console.print)


def as_output_was_begun(config: SegmentConfig) -> SegmentConfig:
    """The settings, with the output's values for those that it was begun without, or that are left open."""
    recorded = {} if config.overwrite else recorded_settings(config.output)
    default: SegmentConfig = SEGMENT_RECIPES[config.recipe](SegmentConfig(config.input, config.output))
    return as_chosen(as_begun(config, recorded, RUNS, default, console.print), recorded, console.print)


def work(config: SegmentConfig, info: NetworkInfo, run: RunRecord, where: Workplace | None) -> int:
    """Do what is left of a run that this process owns.

    Args:
        config: the job's settings.
        info: the network's description.
        run: the output folder.
        where: the place to do it; None if nothing is left.

    Returns:
        The exit code.
    """
    summary = Summary.of(stages_of(config))
    code = EXIT_DONE
    try:
        todo, part = run.todo(), "" if config.shard is None else f"shard {config.shard}: "
        console.print(
            f"{part}{counted(len(run.manifest), 'image')}, {len(run.manifest) - len(todo)} done before; "
            f"{classes(info)}; results go to {run.output}"
        )
        if where is not None and len(todo):
            Thread(target=get_ready_to_report, daemon=True).start()  # meanwhile: processes take seconds to start
            screen = show_live if console.is_terminal else None
            Driver(config, where, run, summary, console.print, screen).drive(todo)
        else:
            console.print("nothing is left to do; this is what earlier calls did:")
    except TooManyErrors as error:
        console.print(f"stopped: {error}")
        code = EXIT_FAILED
    except KeyboardInterrupt:  # at any moment, also while Ray starts
        console.print("stopped; the same command goes on from here")
        code = EXIT_STOPPED
    except LeaseError:  # reported below
        code = EXIT_STOPPED
    except OSError as error:  # WorkBrokenError among them
        console.print(f"stopped, the same command goes on from here: {storage.redact(str(error))}")
        code = EXIT_STOPPED
    try:
        run.lease.check()
        return report(config, run, summary, code)
    except LeaseError as error:  # the output belongs to the other run now
        console.print(f"stopped: {error}")
        return EXIT_STOPPED
    except (OSError, ResultsError) as error:  # a store in trouble
        console.print(f"run/summary.json was not written: {storage.redact(str(error))}")
        return code or EXIT_STOPPED


if __name__ == "__main__":
    end_process(main)
