"""The run's own record, OUTPUT/run: its settings, its manifest and its summary.

The output is the checkpoint: which images are done is read from the results themselves. The record only says which
settings they belong to, so that two different runs never mix in one folder. The calls that fill an output in shards
(`--shard`) share settings and manifest; each has a summary of its own, see `pipeline.run.shards`.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import __version__, storage
from pipeline.checkpoints.bundled import bundled_name
from pipeline.config import SegmentConfig
from pipeline.config.earlier import RUNS
from pipeline.config.shards import WHOLE, Shard
from pipeline.config.stages import STAGES, Stage
from pipeline.errors import TooManyErrors
from pipeline.imaging.classes import class_table
from pipeline.inputs.reading import in_reading_order
from pipeline.outputs.audit import Audit, audit
from pipeline.outputs.folder import ANOTHER, check_folder, read_record
from pipeline.outputs.layout import MANIFEST, OF_IMAGES, RECORD, REPORT, RUN, SHARDS, SUMMARY
from pipeline.outputs.lease import Lease, take_lease
from pipeline.outputs.results import finished_ids, forget_errors

ERRORS_BEFORE_STOPPING = 10  # fewer failures than this say nothing about a rate
DEFAULT_ERROR_RATE = 0.05
LAST_FAILURES = 3


@dataclass
class Summary:
    """What one call of a run did, or, for a run that was resumed, all its calls added up."""

    seconds: float = 0.0
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    ok: int = 0
    failed: int = 0
    skipped: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    """Faults that the run survived: processes and nodes lost, requests repeated, graphs started again."""
    seconds_alone: dict[str, float] = field(default_factory=dict)
    """Seconds per image of one process in each stage, timed before the run (`profile.probe`); empty if not timed."""
    machines: str = ""
    """The machines of the last call that did something, in words; likewise `processes`."""
    processes: str = ""
    last_failures: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_FAILURES))
    """Images that failed last in this call, and why."""

    def add(self, counts: dict[str, Any], seconds: float) -> None:
        """Add the counts of one file (`stages.write.Counts`), put in place `seconds` after the start."""
        self.seconds = seconds
        self.ok += counts["ok"]
        self.failed += counts["failed"]
        self.skipped += counts["skipped"]
        self.last_failures.extend(counts["failures"])
        self.faults["requests_repeated"] += counts["requests_repeated"]
        for stage, totals in self.stages.items():
            totals["rows"] += counts[f"rows_{stage}"]
            totals["seconds"] += counts[f"seconds_{stage}"]

    @classmethod
    def of(cls, stages: Sequence[Stage]) -> Summary:
        """An empty summary of a run with these stages."""
        return cls(stages={stage.name: {"rows": 0, "seconds": 0.0} for stage in stages})

    def after(self, before: Summary) -> Summary:
        """This call and those before it."""
        none = {"rows": 0, "seconds": 0.0}
        stages = {
            stage.name: [totals.stages.get(stage.name, none) for totals in (before, self)]
            for stage in STAGES
            if stage.name in before.stages.keys() | self.stages.keys()
        }
        return Summary(
            before.seconds + self.seconds,
            {name: {key: round(then[key] + now[key], 3) for key in none} for name, (then, now) in stages.items()},
            faults=before.faults + self.faults,
            seconds_alone=self.seconds_alone or before.seconds_alone,
            machines=self.machines or before.machines,
            processes=self.processes or before.processes,
        )

    def content(self, found: Audit) -> dict[str, Any]:
        """As in summary.json.

        Args:
            found: of the same images.
        """
        worked_on = max((totals["rows"] for totals in self.stages.values()), default=0)
        return {
            "images_total": found.total,
            "images_ok": found.ok,
            "images_failed": found.failed,
            "images_skipped": found.skipped,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(worked_on / self.seconds, 4) if self.seconds else 0.0,
            "stages": self.stages,
            "seconds_alone": self.seconds_alone,
            "machines": self.machines,
            "processes": self.processes,
            "version": __version__,
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "faults": dict(self.faults),
        }

    @property
    def images(self) -> int:
        """Images put in place by this call: results, errors and skipped ones."""
        return self.ok + self.failed + self.skipped

    def check(self, allowed: float | None, total: int) -> None:
        """Check how many images failed, of those that were not skipped.

        Args:
            allowed: share of them that may fail, 0..1; None: `DEFAULT_ERROR_RATE` of those done so far, checked from
                `ERRORS_BEFORE_STOPPING` failures on.
            total: images of the run, skipped ones included.

        Raises:
            TooManyErrors: more failed.
        """
        tried, wanted = self.ok + self.failed, total - self.skipped
        if allowed is None:
            if self.failed >= ERRORS_BEFORE_STOPPING and self.failed > DEFAULT_ERROR_RATE * tried:
                raise TooManyErrors(f"{self.failed} of {tried} images failed")
        elif too_many(self.failed, allowed, wanted):
            raise TooManyErrors(
                f"{self.failed} images failed, of {wanted}; --max-error-rate {allowed:g} allows no more"
            )


def too_many(failed: int, allowed: float, total: int) -> bool:
    """Whether more images failed than allowed.

    Args:
        failed: how many failed.
        allowed: share that may fail, 0..1.
        total: of how many.
    """
    return failed > allowed * total + 1e-9  # in floats, 0.29 * 100 is less than 29


@dataclass(frozen=True)
class RunRecord:
    """An output folder, or a shard of it, that belongs to this run."""

    output: str
    manifest: pa.Table
    """All images that are this call's to do, now or before."""
    before: Summary
    """What earlier calls of the same run did, of the same shard if it is one."""
    lease: Lease
    """The right to write into it."""

    def todo(self) -> pa.Table:
        """The images that are not done, in the order in which they are best read."""
        return in_reading_order(unfinished(self.output, self.manifest))

    def audit(self) -> Audit:
        """Compare the output with the manifest."""
        return audit(self.output, self.manifest)

    def write_summary(self, summary: Summary, found: Audit) -> dict[str, Any]:
        """Write OUTPUT/run/summary.json, or that of the shard, earlier calls included, and return it."""
        content = summary.after(self.before).content(found)
        storage.write_atomic(_summary_uri(self.output, self.lease.shard), json.dumps(content, indent=1).encode())
        if self.lease.shard == WHOLE:  # what shards did before is in there
            storage.remove_folder(storage.join(self.output, SHARDS))
        return content


def open_run(
    config: SegmentConfig,
    fingerprint: str,
    class_names: tuple[str, ...],
    manifest: pa.Table,
    log: Callable[[str], None] = print,
) -> RunRecord:
    """Take the output folder, or a shard of it, for this run: a new one, or one that the same run left unfinished.

    Args:
        config: the job's settings.
        fingerprint: that of all networks together.
        class_names: background first.
        manifest: the images of the run, those of other shards included.
        log: prints a line.

    Raises:
        FolderError: the folder holds results of another run, and `overwrite` was not asked for; or a shard cannot try
            failed images again.
        FolderInUseError: another run is writing into the folder.
    """
    check_run(config, fingerprint)
    shard = Shard.parse(config.shard)
    work = sha256(json.dumps(identity(config, fingerprint), sort_keys=True).encode()).hexdigest()
    lease = take_lease(config.output, log, shard=shard, work=work)
    try:
        check_run(config, fingerprint)  # again, since another run may have started the output meanwhile
        if config.retry_failed:
            forget_errors(config.output, shard)
    except BaseException:
        lease.release()
        raise
    if config.overwrite:
        for folder in (*OF_IMAGES, SHARDS):
            storage.remove_folder(storage.join(config.output, folder))
        for name in (SUMMARY, REPORT):
            storage.remove(storage.join(config.output, name))
    _write_record(config, fingerprint, class_names, manifest)
    before = summary_of(read_summary(_summary_uri(config.output, shard)))
    return RunRecord(storage.absolute(config.output), shard.share_of(manifest), before, lease)


def _write_record(config: SegmentConfig, fingerprint: str, class_names: tuple[str, ...], manifest: pa.Table) -> None:
    """Write settings, classes and manifest; shards that start at the same moment write the same."""
    content = {"identity": identity(config, fingerprint), "classes": class_names, "settings": _portable(config)}
    storage.write_atomic(_config_uri(config.output), json.dumps(content, indent=1).encode())
    table = json.dumps(class_table(class_names), indent=1, ensure_ascii=False).encode()
    storage.write_atomic(storage.join(config.output, RUN, "classes.json"), table)
    storage.write_parquet(storage.join(config.output, MANIFEST), manifest)


def unfinished(output: str, manifest: pa.Table) -> pa.Table:
    """The part of a manifest that is not done: not in results, errors or skipped."""
    return manifest.filter(pc.invert(pc.is_in(manifest["image_id"], value_set=finished_ids(output))))


def recorded_settings(output: str) -> dict[str, Any]:
    """The settings of the run that an output belongs to, by name; empty for a new output."""
    if not storage.exists(_config_uri(output)):
        return {}
    settings: dict[str, Any] = read_record(_config_uri(output), needs=("identity",))["identity"]
    return settings


def identity(config: SegmentConfig, fingerprint: str) -> dict[str, Any]:
    """The settings in which two calls must agree to share an output folder."""
    return {**config.result_settings(), "model_fingerprint": fingerprint}


def check_run(config: SegmentConfig, fingerprint: str) -> None:
    """Make sure that the output folder is new, or this run's. Writes nothing.

    Raises:
        FolderError: the folder holds results of another run, and `overwrite` was not asked for; or it holds something
            without a run's record.
    """
    if config.overwrite and storage.exists(_config_uri(config.output)):
        return
    # Without a run's record, the content is somebody's data, which nothing may delete.
    others = ANOTHER if config.overwrite else "choose another --output, or --overwrite to delete what it holds"
    check_folder(
        config.output, RECORD, identity(config, fingerprint), below="identity", holds=OF_IMAGES,
        earlier=RUNS, advice=others,
    )  # fmt: skip


def _portable(config: SegmentConfig) -> dict[str, Any]:
    """The settings as another installation understands them: bundled networks by name."""
    fcn = config.ensemble.fcn
    named = replace(config.ensemble, fcn=fcn and bundled_name(fcn))
    return asdict(replace(config, weights=bundled_name(config.weights), ensemble=named))


def read_summary(uri: str) -> dict[str, Any]:
    """The content of a summary; empty if there is none.

    Raises:
        FolderError: it is damaged, or no such file.
    """
    return read_record(uri, needs=("seconds", "stages", "faults")) if storage.exists(uri) else {}


def summary_of(content: dict[str, Any]) -> Summary:
    """What the content of a summary says of its calls, without the numbers of images."""
    if not content:
        return Summary()
    return Summary(
        content["seconds"],
        content["stages"],
        faults=Counter(content["faults"]),
        seconds_alone=content.get("seconds_alone", {}),
        machines=content.get("machines", ""),
        processes=content.get("processes", ""),
    )


def _config_uri(output: str) -> str:
    return storage.join(output, RECORD)


def _summary_uri(output: str, shard: Shard) -> str:
    return storage.join(output, SUMMARY if shard == WHOLE else f"{SHARDS}/{shard.name}.json")
