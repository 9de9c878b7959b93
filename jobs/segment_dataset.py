"""The main job: a data set of images to label masks, on Ray.

    python jobs/segment_dataset.py --input photos --output runs/photos --weights my.safetensors
    ray job submit --working-dir . -- python jobs/segment_dataset.py --input ... --output ...

All input is checked before the output folder is claimed: a call that ends with exit code 2 or 5 has written nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

from jobs import commands
from jobs.common import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, call, end_process
from jobs.segment_report import classes, console, report, show_live, show_plan
from pipeline import storage
from pipeline.checkpoints.bundled import BUNDLED
from pipeline.config import SEGMENT_RECIPES, SegmentConfig
from pipeline.config.earlier import RUNS, as_begun
from pipeline.config.stages import stages_of
from pipeline.errors import LeaseError, ResultsError, TooManyErrors
from pipeline.inputs.manifest import build_manifest, describe
from pipeline.inputs.named import check_named
from pipeline.models.checkpoint_header import NetworkInfo
from pipeline.run.driver import Driver
from pipeline.run.prepare import check_networks, with_absolute_paths, with_shape_of
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
    info, networks = check_networks(config)
    config = with_shape_of(config, info)
    if options.weights in BUNDLED:
        console.print(f"--weights {options.weights}: {BUNDLED[options.weights].knows}")
    check_named("input", listing.glob_root(config.input))
    check_run(config, networks)
    left_aside: Counter[str] = Counter()
    manifest = build_manifest(config.input, config.limit, left_aside)
    if left_aside:
        console.print(describe(left_aside))
    if config.dry_run:
        return show_plan(config, info, manifest, unfinished(config.output, manifest))
    if config.overwrite or config.retry_failed or len(unfinished(config.output, manifest)):
        check_cluster(config)
    record = open_run(config, networks, info.class_names, manifest, console.print)
    try:
        with record.lease.kept_alive():
            return work(config, info, record)
    except KeyboardInterrupt:  # a second one, while the first was handled
        console.print("stopped at once; the same command goes on from here")
        return EXIT_STOPPED


def check_cluster(config: SegmentConfig) -> None:
    """Connect to Ray, and make sure that the processes of the run fit it.

    Raises:
        ClusterError: there is no cluster.
        PoolError: the processes do not fit it.
    """
    from pipeline.cluster import connect
    from pipeline.cluster.plan import plan

    connect.start_ray()
    plan(config)


def as_output_was_begun(config: SegmentConfig) -> SegmentConfig:
    """The settings, with earlier values for those that did not exist when the output was started."""
    recorded = {} if config.overwrite else recorded_settings(config.output)
    default: SegmentConfig = SEGMENT_RECIPES[config.recipe](SegmentConfig(config.input, config.output))
    return as_begun(config, recorded, RUNS, default, console.print)


def work(config: SegmentConfig, info: NetworkInfo, run: RunRecord) -> int:
    """Do what is left of a run that this process owns.

    Args:
        config: the job's settings.
        info: the network's description.
        run: the output folder.

    Returns:
        The exit code.
    """
    summary = Summary.of(stages_of(config))
    code = EXIT_DONE
    try:
        todo = run.todo()
        console.print(
            f"{len(run.manifest)} images, {len(run.manifest) - len(todo)} done before; {classes(info)}; "
            f"results go to {run.output}"
        )
        if not len(todo):
            console.print("nothing is left to do; this is what earlier calls did:")
        if len(todo):
            from pipeline.cluster.workplace import Cluster

            screen = show_live if console.is_terminal else None
            Driver(config, Cluster(config, info, console.print), run, summary, console.print, screen).drive(todo)
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
