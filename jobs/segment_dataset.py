"""Segment a data set of images with DeconvNet, proposal by proposal, on Ray.

    python jobs/segment_dataset.py --input photos --output runs/photos --weights demo
    ray job submit --working-dir . -- python jobs/segment_dataset.py --input ... --output ...

Writes OUTPUT/results/*.parquet (a row an image), OUTPUT/masks (palette PNGs), OUTPUT/errors/*.parquet (the images
that could not be done, and why) and OUTPUT/run (config.json, summary.json, manifest.parquet). The same command again
finishes what is left. Exit codes: 0 all done, 2 bad arguments, 3 stopped but resumable, 4 too many errors.
"""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import tyro
from rich.console import Console
from rich.table import Table

from pipeline import storage
from pipeline.checkpoints.bundled import RECIPES as SHIPPED
from pipeline.checkpoints.bundled import weights_uri
from pipeline.config import ConfigError, EnsembleConfig, SegmentConfig
from pipeline.config.earlier import RUNS, as_begun
from pipeline.config.recipes import ENSEMBLES, RECIPES, first_look
from pipeline.crf.refine import check_backend
from pipeline.errors import (
    CheckpointError,
    ClusterError,
    FolderError,
    LeaseError,
    ManifestError,
    PoolError,
    ResultsError,
    TooManyErrors,
)
from pipeline.inputs.manifest import build_manifest, describe
from pipeline.models.checkpoint_header import (
    CheckpointInfo,
    check_network,
    fingerprint,
    joint_fingerprint,
    read_info,
    shape_for,
)
from pipeline.outputs.results import RESULTS_SCHEMA, finished_ids, read_errors
from pipeline.proposals.edgeboxes import check_edges
from pipeline.proposals.given import check_given
from pipeline.run.record import RunRecord, Summary, open_run, recorded_settings, too_many
from pipeline.stages.rows import STAGES
from pipeline.stages.write import rows_in_a_file

EXIT_DONE, EXIT_ARGUMENTS, EXIT_STOPPED, EXIT_ERRORS = 0, 2, 3, 4
BAD_ARGUMENTS = (ConfigError, ManifestError, CheckpointError, FolderError, storage.StorageError, OSError)
SHOWN = 8  # class names in a line, kinds of failures in a list

console = Console(soft_wrap=True, markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, check, plan, run, audit, report."""
    options = parse(arguments)
    try:
        config = with_absolute_paths(as_output_was_begun(options))
        check_backend(config.refine)
        check_edges(config.propose)
        if config.propose.proposals_from is not None:
            check_given(config.propose.proposals_from)
        data = storage.read_bytes(config.weights)
        info = read_info(data, config.weights)
        check_network(info, config.weights, whole_images=config.whole_images)
        config = with_shape_of(config, info)
        networks = joint_fingerprint(fingerprint(data), check_other(config, info))
        left_aside: Counter[str] = Counter()
        manifest = build_manifest(config.input, config.limit, left_aside)
        if left_aside:
            console.print(describe(left_aside))
        if config.dry_run:
            return show_plan(config, info, manifest)
        run = open_run(config, networks, info.class_names, manifest, console.print)
    except BAD_ARGUMENTS as error:
        return complain(error)
    except KeyboardInterrupt:  # listing millions of images takes a while
        console.print("stopped; the same command goes on from here")
        return EXIT_STOPPED
    try:
        with run.lease.kept_alive():
            return work(config, info, run)
    except KeyboardInterrupt:  # again, while the first was followed
        console.print("stopped at once; the same command goes on from here")
        return EXIT_STOPPED


def parse(arguments: Sequence[str] | None) -> SegmentConfig:
    """The settings: those of the recipe (or of the shipped checkpoint's), and over them what was given.

    It ends the process if that is wrong.

    Args:
        arguments: of the command line; None for the process's own.
    """
    weights = first_look(arguments, "weights", SegmentConfig.weights)
    name = first_look(arguments, "recipe", SHIPPED.get(weights, SegmentConfig.recipe))
    start = SegmentConfig(input=tyro.MISSING, output=tyro.MISSING)
    if name in ENSEMBLES:
        start = replace(start, ensemble=EnsembleConfig(fcn=tyro.MISSING))
    return tyro.cli(
        SegmentConfig,
        args=arguments,
        description=__doc__,
        default=RECIPES.get(name, RECIPES[SegmentConfig.recipe])(start),  # tyro tells which names there are
        config=(tyro.conf.OmitArgPrefixes,),
    )


def as_output_was_begun(config: SegmentConfig) -> SegmentConfig:
    """Settings that did not exist when the output was begun are what they were then."""
    recorded = {} if config.overwrite else recorded_settings(config.output)
    default = RECIPES[config.recipe](SegmentConfig(config.input, config.output))
    return as_begun(config, recorded, RUNS, default, console.print)


def with_shape_of(config: SegmentConfig, info: CheckpointInfo) -> SegmentConfig:
    """The settings with the shape of windows that the network was trained on.

    Raises:
        CheckpointError: another one was asked for.
    """
    shape = shape_for(info, config.propose.window_shape, config.weights)
    return replace(config, propose=replace(config.propose, window_shape=shape))


def check_other(config: SegmentConfig, info: CheckpointInfo) -> str | None:
    """Load the ensemble's other network once here, so that a file that cannot be used is told before the run starts.

    Returns:
        Its fingerprint; None where there is no other network.

    Raises:
        CheckpointError: it cannot be used, or not with the first.
    """
    if config.ensemble.fcn is None:
        return None
    from pipeline.stages.predict import load_other

    other = load_other(config, info)
    return other.fingerprint if other else None


def work(config: SegmentConfig, info: CheckpointInfo, run: RunRecord) -> int:
    """Do what is left of a run that this process owns; returns the exit code."""
    summary = Summary()
    code = EXIT_DONE
    try:
        todo = run.todo()
        console.print(
            f"{len(run.manifest)} images, {len(run.manifest) - len(todo)} done before; {classes(info)}; "
            f"results go to {run.output}"
        )
        if len(todo):
            from pipeline.cluster.driver import Driver

            Driver(config, info, run, summary, console.print).drive(todo)
    except (PoolError, ResultsError) as error:
        return complain(error)
    except TooManyErrors as error:
        console.print(f"stopped: {error}")
        code = EXIT_ERRORS
    except KeyboardInterrupt:  # at any moment, also while Ray starts
        console.print("stopped; the same command goes on from here")
        code = EXIT_STOPPED
    except OSError as error:
        console.print(f"stopped, the same command goes on from here: {storage.redact(str(error))}")
        code = EXIT_STOPPED
    except LeaseError:  # told below
        code = EXIT_STOPPED
    try:
        run.lease.check()
        return report(run, summary, code, config.max_error_rate)
    except LeaseError as error:  # what is in the output is the other run's business now
        console.print(f"stopped: {error}")
        return EXIT_STOPPED
    except (OSError, ResultsError) as error:  # a store in trouble
        console.print(f"run/summary.json was not written: {storage.redact(str(error))}")
        return code or EXIT_STOPPED


def with_absolute_paths(config: SegmentConfig) -> SegmentConfig:
    """Paths that mean the same in every worker, wherever it runs."""
    edge_model, given, fcn = config.propose.edge_model, config.propose.proposals_from, config.ensemble.fcn
    return replace(
        config,
        input=storage.absolute(config.input),
        output=storage.absolute(config.output),
        weights=storage.absolute(weights_uri(config.weights)),
        ensemble=replace(config.ensemble, fcn=fcn and storage.absolute(weights_uri(fcn))),
        propose=replace(
            config.propose,
            edge_model=edge_model and storage.absolute(edge_model),
            proposals_from=given and storage.absolute(given),
        ),
    )


def classes(info: CheckpointInfo) -> str:
    """What the network tells apart: a network that was not meant shows at once."""
    more = ", ..." if info.num_classes > SHOWN else ""
    return f"{info.num_classes} classes ({', '.join(info.class_names[:SHOWN])}{more})"


def show_plan(config: SegmentConfig, info: CheckpointInfo, manifest: pa.Table) -> int:
    """What a run would do; writes nothing."""
    from pipeline.cluster import connect
    from pipeline.cluster.plan import plan

    try:
        connect.start_ray()
        pools = plan(config)
    except (ClusterError, PoolError) as error:
        return complain(error)
    done = pc.sum(pc.is_in(manifest["image_id"], value_set=finished_ids(config.output))).as_py()
    console.print(f"{len(manifest)} images, {done} done before; {classes(info)}")
    console.print(f"first ids: {', '.join(manifest['image_id'][:5].to_pylist())}")
    console.print(f"stages: {' -> '.join(STAGES)} -> write; {pools.describe()}")
    rows = rows_in_a_file(len(manifest) - done, config.rows_per_file)
    files = -(-(len(manifest) - done) // rows)
    console.print(f"about {files} files of {rows} rows, more in a slow run, in {config.output}, with columns:")
    console.print(", ".join(RESULTS_SCHEMA.names))
    return EXIT_DONE


def report(run: RunRecord, summary: Summary, code: int, allowed: float | None) -> int:
    """Audit the output, write and print the summary; returns the exit code.

    The last line has the numbers, those of the images that failed included: who calls this from a script looks there.
    """
    found = run.audit()
    content = run.write_summary(summary, found)
    alone = content["seconds_alone"]
    table = Table("stage", "images", "seconds", "seconds an image", *["alone, before the run"] * bool(alone), box=None)
    for stage, totals in content["stages"].items():
        each = totals["seconds"] / totals["rows"] if totals["rows"] else 0.0
        before = [f"{alone[stage]:.3f}"] if alone else []
        table.add_row(stage, f"{totals['rows']:.0f}", f"{totals['seconds']:.1f}", f"{each:.3f}", *before)
    if any(totals["rows"] for totals in content["stages"].values()):
        console.print(table)
    if found.failed:
        show_failures(run.output)
    if code == EXIT_DONE and not found.complete:
        console.print(f"the audit found images missing or doubled: {found}")
        code = EXIT_STOPPED
    if code == EXIT_DONE and allowed is not None and too_many(found.failed, allowed, found.total):
        console.print(f"more images failed than --max-error-rate {allowed:g} allows")
        code = EXIT_ERRORS
    if code == EXIT_DONE and found.failed and not found.ok:
        code = EXIT_ERRORS
    console.print(
        f"{found.ok} of {found.total} images done, {found.failed} failed, {found.missing} left; "
        f"{content['seconds']:.1f} s, {content['images_per_second']:.2f} images/s"
    )
    return code


def show_failures(output: str) -> None:
    """Print why images failed: how many of each kind, and one of them."""
    console.print(f"why they failed, image by image: {storage.join(output, 'errors')}")
    kinds = read_errors(output).group_by(["error_stage", "error_type"], use_threads=False)
    table = kinds.aggregate([("image_id", "count"), ("image_id", "first"), ("error_message", "first")])
    for row in table.sort_by([("image_id_count", "descending")]).slice(0, SHOWN).to_pylist():
        console.print(
            f"  {row['image_id_count']} in {row['error_stage']}: {row['error_type']}; "
            f"{row['image_id_first']}: {row['error_message_first']}"
        )


def complain(error: Exception) -> int:
    """Say what is wrong with the arguments."""
    print(f"segment_dataset: {storage.redact(str(error))}", file=sys.stderr)
    return EXIT_ARGUMENTS


if __name__ == "__main__":
    code = main()
    for asked in (signal.SIGINT, signal.SIGTERM):  # all is said and done; Ray ends what it started
        signal.signal(asked, signal.SIG_IGN)
    sys.exit(code)
