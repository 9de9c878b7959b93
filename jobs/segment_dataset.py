"""The main job: a data set of images to label masks, on Ray.

    python jobs/segment_dataset.py --input photos --output runs/photos --weights my.safetensors
    ray job submit --working-dir . -- python jobs/segment_dataset.py --input ... --output ...

Everything that was given is checked before the output folder is claimed: a call that ends with exit code 2 or 5 has
written nothing.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from jobs import commands
from jobs.common import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, call, end_process
from pipeline import storage
from pipeline.checkpoints.bundled import BUNDLED, weights_uri
from pipeline.config import SEGMENT_RECIPES, ConfigError, SegmentConfig
from pipeline.config.earlier import RUNS, as_begun
from pipeline.config.recipes import ENSEMBLES
from pipeline.config.stages import stages_of
from pipeline.crf.refine import check_backend
from pipeline.errors import LeaseError, ResultsError, TooManyErrors
from pipeline.inputs.manifest import build_manifest, describe
from pipeline.inputs.named import check_named
from pipeline.models.checkpoint_header import (
    CheckpointInfo,
    check_network,
    fingerprint,
    joint_fingerprint,
    read_info,
    shape_for,
)
from pipeline.outputs.layout import ERRORS, MASKS, RESULTS, SKIPPED
from pipeline.outputs.results import finished_ids, images_per_class, read_errors, read_skipped
from pipeline.outputs.schema import RESULTS_SCHEMA
from pipeline.proposals.detectors import check_edges
from pipeline.proposals.given import check_given
from pipeline.run.record import RunRecord, Summary, check_run, open_run, recorded_settings, too_many
from pipeline.stages.write import rows_in_a_file
from pipeline.storage import listing

COMMAND = commands.SEGMENT
SHOWN = 8  # class names in a line, kinds of failures in a list
PANELS = "20"  # pictures that the last line offers

console = Console(soft_wrap=True, markup=False)
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
        return show_plan(config, info, manifest)
    if config.overwrite or config.retry_failed or unfinished(config, manifest):
        check_cluster(config)
    record = open_run(config, networks, info.class_names, manifest, console.print)
    try:
        with record.lease.kept_alive():
            return work(config, info, record)
    except KeyboardInterrupt:  # again, while the first was followed
        console.print("stopped at once; the same command goes on from here")
        return EXIT_STOPPED


def check_networks(config: SegmentConfig) -> tuple[CheckpointInfo, str]:
    """Make sure that this process has what the settings name; what each worker needs must not fail image by image.

    Returns:
        What the network is, and the fingerprint of all networks together.

    Raises:
        UserError: a file or a module is missing, or does not fit.
        OSError: a file cannot be read.
    """
    if config.recipe in ENSEMBLES and config.ensemble.fcn is None:
        raise ConfigError(f"--recipe {config.recipe} combines two networks: give the other one by --fcn FILE")
    for option, uri in (
        ("weights", config.weights), ("fcn", config.ensemble.fcn), ("edge-model", config.propose.edge_model),
    ):  # fmt: skip
        check_named(option, uri)
    check_backend(config.refine)
    check_edges(config.propose)
    if config.propose.proposals_from is not None:
        check_given(config.propose.proposals_from)
    data = storage.read_bytes(config.weights)
    info = read_info(data, config.weights)
    check_network(info, config.weights, whole_images=config.whole_images)
    return info, joint_fingerprint(fingerprint(data), check_other(config, info))


def unfinished(config: SegmentConfig, manifest: pa.Table) -> int:
    """How many images of the manifest are not done: not in results, errors or skipped."""
    done = pc.sum(pc.is_in(manifest["image_id"], value_set=finished_ids(config.output))).as_py() or 0
    return len(manifest) - int(done)


def check_cluster(config: SegmentConfig) -> None:
    """Connect to Ray, and make sure that the processes of the run fit it.

    Raises:
        ClusterError: there is none.
        PoolError: they do not fit.
    """
    from pipeline.cluster import connect
    from pipeline.cluster.plan import plan

    connect.start_ray()
    plan(config)


def as_output_was_begun(config: SegmentConfig) -> SegmentConfig:
    """Settings that did not exist when the output was begun are what they were then."""
    recorded = {} if config.overwrite else recorded_settings(config.output)
    default: SegmentConfig = SEGMENT_RECIPES[config.recipe](SegmentConfig(config.input, config.output))
    return as_begun(config, recorded, RUNS, default, console.print)


def with_shape_of(config: SegmentConfig, info: CheckpointInfo) -> SegmentConfig:
    """The settings with the shape of windows that the network was trained on.

    Raises:
        CheckpointError: another one was asked for.
    """
    shape = shape_for(info, config.propose.window_shape, config.weights)
    return replace(config, propose=replace(config.propose, window_shape=shape))


def check_other(config: SegmentConfig, info: CheckpointInfo) -> str | None:
    """Load the ensemble's other network once here, so that one that cannot be used is found before the run starts.

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
    summary = Summary.of(stages_of(config))
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
    """What a run would do; writes nothing.

    Raises:
        ClusterError: there is no cluster.
        PoolError: the processes do not fit it.
    """
    from pipeline.cluster import connect
    from pipeline.cluster.plan import plan

    connect.start_ray()
    pools = plan(config)
    left = unfinished(config, manifest)
    console.print(f"{len(manifest)} images, {len(manifest) - left} done before; {classes(info)}")
    console.print(f"first ids: {', '.join(manifest['image_id'][:5].to_pylist())}")
    stages = stages_of(config)
    console.print(f"stages: {' -> '.join(stage.name for stage in stages)} -> write; {pools.describe(stages)}")
    rows = rows_in_a_file(left, config.rows_per_file)
    files = -(-left // rows)
    console.print(f"about {files} files of {rows} rows, more in a slow run, in {config.output}, with columns:")
    console.print(", ".join(RESULTS_SCHEMA.names))
    return EXIT_DONE


def report(config: SegmentConfig, run: RunRecord, summary: Summary, code: int) -> int:
    """Audit the output, write and print the summary; returns the exit code.

    The last line has the numbers, those of the images that failed included: who calls this from a script looks there.
    """
    allowed, found = config.max_error_rate, run.audit()
    content = run.write_summary(summary, found)
    alone = content["seconds_alone"]
    table = Table("stage", "images", "seconds", "seconds an image", *["alone, before the run"] * bool(alone), box=None)
    for stage, totals in content["stages"].items():
        each = totals["seconds"] / totals["rows"] if totals["rows"] else 0.0
        before = [f"{alone[stage]:.3f}" if stage in alone else ""] if alone else []
        table.add_row(stage, f"{totals['rows']:.0f}", f"{totals['seconds']:.1f}", f"{each:.3f}", *before)
    if any(totals["rows"] for totals in content["stages"].values()):
        console.print(table)
    if found.failed:
        show_failures(run.output)
    if found.skipped:
        show_skipped(run.output)
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
    skipped = f"{found.skipped} skipped, " if found.skipped else ""
    console.print(
        f"{found.ok} of {found.total} images done, {found.failed} failed, {skipped}{found.missing} left; "
        f"{content['seconds']:.1f} s, {content['images_per_second']:.2f} images/s"
    )
    return code


def show_failures(output: str) -> None:
    """Print why images failed: how many of each kind, and one of them."""
    console.print(f"why they failed, image by image: {storage.join(output, ERRORS)}")
    kinds = read_errors(output).group_by(["error_stage", "error_type"], use_threads=False)
    table = kinds.aggregate([("image_id", "count"), ("image_id", "first"), ("error_message", "first")])
    for row in table.sort_by([("image_id_count", "descending")]).slice(0, SHOWN).to_pylist():
        console.print(
            f"  {row['image_id_count']} in {row['error_stage']}: {row['error_type']}; "
            f"{row['image_id_first']}: {row['error_message_first']}"
        )


def show_skipped(output: str) -> None:
    """Print how many images each stage left out, and why it left out one of them."""
    console.print(f"why images were skipped, image by image: {storage.join(output, SKIPPED)}")
    stages = read_skipped(output).group_by("skip_stage", use_threads=False)
    table = stages.aggregate([("image_id", "count"), ("image_id", "first"), ("skip_reason", "first")])
    for row in table.to_pylist():
        console.print(
            f"  {row['image_id_count']} by {row['skip_stage']}; {row['image_id_first']}: {row['skip_reason_first']}"
        )


def show_results(config: SegmentConfig, output: str) -> None:
    """Say where the results are, what was found in them, and how to look at them."""
    found = images_per_class(output)
    objects = sorted(list(found.items())[1:], key=lambda one: -one[1])  # without the background
    top = ", ".join(f"{name} in {images}" for name, images in objects[:SHOWN] if images)
    console.print(f"images with each class: {top or 'none has anything but background'}")
    if config.masks:
        console.print(f"masks:   {storage.join(output, MASKS)}")
    console.print(f"results: {storage.join(output, RESULTS)}")
    console.print(f"to look at them: {commands.EVALUATE.line(shlex.quote(output), '--panels', PANELS)}")


if __name__ == "__main__":
    end_process(main)
