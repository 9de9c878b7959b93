"""The run's own record, OUTPUT/run: its settings, its manifest and its summary.

The output is the checkpoint: which images are done is read from the results themselves. The record only says which
settings they belong to, so that two different runs never mix in one folder.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import __version__, storage
from pipeline.config import SegmentConfig
from pipeline.config.earlier import RUNS
from pipeline.config.stages import STAGES, Stage
from pipeline.errors import TooManyErrors
from pipeline.imaging.classes import class_table
from pipeline.inputs.reading import in_reading_order
from pipeline.outputs.audit import Audit, audit
from pipeline.outputs.folder import ANOTHER, check_folder, read_record
from pipeline.outputs.layout import MANIFEST, OF_IMAGES, RECORD, REPORT, RUN, SUMMARY
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
    """An output folder that belongs to this run."""

    output: str
    manifest: pa.Table
    before: Summary
    """What earlier calls of the same run did."""
    lease: Lease
    """The right to write into it."""

    def todo(self) -> pa.Table:
        """The images that are not done, in the order in which they are best read."""
        return in_reading_order(unfinished(self.output, self.manifest))

    def audit(self) -> Audit:
        """Compare the output with the manifest."""
        return audit(self.output, self.manifest)

    def write_summary(self, summary: Summary, found: Audit) -> dict[str, Any]:
        """Write OUTPUT/run/summary.json, earlier calls included, and return it."""
        seconds = self.before.seconds + summary.seconds
        worked_on = max((totals["rows"] for totals in self._stages(summary).values()), default=0)
        content = {
            "images_total": found.total,
            "images_ok": found.ok,
            "images_failed": found.failed,
            "images_skipped": found.skipped,
            "seconds": round(seconds, 3),
            "images_per_second": round(worked_on / seconds, 4) if seconds else 0.0,
            "stages": self._stages(summary),
            "seconds_alone": summary.seconds_alone or self.before.seconds_alone,
            "machines": summary.machines or self.before.machines,
            "processes": summary.processes or self.before.processes,
            "version": __version__,
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "faults": dict(self.before.faults + summary.faults),
        }
        storage.write_atomic(_summary_uri(self.output), json.dumps(content, indent=1).encode())
        return content

    def _stages(self, summary: Summary) -> dict[str, dict[str, float]]:
        before = Summary.of(STAGES).stages | self.before.stages
        return {
            stage: {key: round(before[stage][key] + value, 3) for key, value in totals.items()}
            for stage, totals in summary.stages.items()
        }


def open_run(
    config: SegmentConfig,
    fingerprint: str,
    class_names: tuple[str, ...],
    manifest: pa.Table,
    log: Callable[[str], None] = print,
) -> RunRecord:
    """Take the output folder for this run: a new one, or one that the same run left unfinished.

    Args:
        config: the job's settings.
        fingerprint: that of all networks together.
        class_names: background first.
        manifest: the images of the run.
        log: prints a line.

    Raises:
        FolderError: the folder holds results of another run, and `overwrite` was not asked for.
        FolderInUseError: another run is writing into the folder.
    """
    check_run(config, fingerprint)
    lease = take_lease(config.output, log)
    if config.overwrite:
        for folder in OF_IMAGES:
            storage.remove_folder(storage.join(config.output, folder))
        for uri in (_summary_uri(config.output), storage.join(config.output, REPORT)):
            storage.remove(uri)
    if config.retry_failed:
        forget_errors(config.output)
    content = {"identity": identity(config, fingerprint), "classes": class_names, "settings": asdict(config)}
    storage.write_atomic(_config_uri(config.output), json.dumps(content, indent=1).encode())
    table = json.dumps(class_table(class_names), indent=1, ensure_ascii=False).encode()
    storage.write_atomic(storage.join(config.output, RUN, "classes.json"), table)
    storage.write_parquet(storage.join(config.output, MANIFEST), manifest)
    return RunRecord(storage.absolute(config.output), manifest, _earlier_calls(config.output), lease)


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


def _earlier_calls(output: str) -> Summary:
    if not storage.exists(_summary_uri(output)):
        return Summary()
    content = read_record(_summary_uri(output), needs=("seconds", "stages", "faults"))
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


def _summary_uri(output: str) -> str:
    return storage.join(output, SUMMARY)
