"""Reads an output folder into what its report says; a few files of results are in memory at a time."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import pyarrow.compute as pc

from pipeline import storage
from pipeline.config import SEGMENT_RECIPES, DecodeConfig, SegmentConfig
from pipeline.config.segmenting import ONCE
from pipeline.errors import ResultsError
from pipeline.outputs import layout
from pipeline.outputs.audit import Audit, audit
from pipeline.outputs.folder import read_record
from pipeline.outputs.results import ids_in, read_manifest, scan_parts
from pipeline.report.page.parts import labels_of, settings_of
from pipeline.report.run_page.facts import About, ErrorKind, RunFacts, SkipKind
from pipeline.report.run_page.tally import COLUMNS, Tally

EXAMPLES = 3  # of each kind of error
KINDS = 30  # of errors that are shown
LONGEST = 600  # characters of a message

NOT_HOW = ("input", "output", "weights", *ONCE)
"""Settings that do not say how a run works."""


def gather(output: str, found: Audit | None = None) -> RunFacts:
    """Count what an output folder holds. Writes nothing; a run may be at work in it.

    Args:
        output: the folder.
        found: its audit; None: it is made here.

    Raises:
        ResultsError: it is no run's output, or a file in it is damaged or foreign.
        FolderError: the run's record is damaged.
        OSError: the store cannot be read.
    """
    uri = storage.absolute(output)
    record, summary = _records(uri)
    labels = labels_of(record["classes"])
    tally = Tally(len(labels))
    for part, table in scan_parts(uri, layout.RESULTS, COLUMNS):
        tally.add(part, table)
    kinds, examples = _errors(uri)
    shown = [ErrorKind(*kind, images, tuple(examples[kind])) for kind, images in kinds.most_common(KINDS)]
    return RunFacts(
        output=uri,
        about=_about(record, summary),
        audit=found or audit(uri, read_manifest(uri, ["image_id"])),
        stages=tally.stages(summary.get("seconds_alone", {})),
        errors=tuple(shown),
        error_kinds=len(kinds),
        skipped=_skipped(uri),
        classes=tally.classes(labels),
        confidence=tally.confidence(),
        least_sure=tally.worst(found=True),
        nothing_found=tally.worst(found=False),
        without_object=tally.without_object,
    )


def _records(uri: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The run's settings, and its summary: empty while no call has ended."""
    record = storage.join(uri, layout.RECORD)
    if not storage.exists(record):
        raise ResultsError(f"{uri} holds no {layout.RECORD}; give the output folder of a run")
    summary = storage.join(uri, layout.SUMMARY)
    return (
        read_record(record, needs=("identity", "classes", "settings")),
        read_record(summary) if storage.exists(summary) else {},
    )


def _about(record: dict[str, Any], summary: dict[str, Any]) -> About:
    settings = record["settings"]
    return About(
        source=settings["input"],
        weights=settings["weights"],
        other=(settings.get("ensemble") or {}).get("fcn") or "",
        fingerprint=record["identity"].get("model_fingerprint", ""),
        recipe=settings.get("recipe", ""),
        settings=tuple(settings_of(settings, _usual(settings), NOT_HOW)),
        masks=settings.get("masks", True),
        max_megapixels=settings.get("decode", {}).get("max_megapixels", DecodeConfig.max_megapixels),
        version=summary.get("version", ""),
        machines=summary.get("machines", ""),
        processes=summary.get("processes", ""),
        ended=summary.get("ended", ""),
        seconds=summary.get("seconds"),
        images_per_second=summary.get("images_per_second"),
        price=settings.get("price"),
        faults=tuple((name, number) for name, number in summary.get("faults", {}).items() if number),
    )


def _usual(recorded: dict[str, Any]) -> dict[str, Any]:
    """The settings of the recipe that a run started from; none if it is not known."""
    recipe = SEGMENT_RECIPES.get(recorded.get("recipe", ""))
    return asdict(recipe(SegmentConfig(recorded["input"], recorded["output"]))) if recipe else {}


def _errors(uri: str) -> tuple[Counter[tuple[str, str]], dict[tuple[str, str], list[tuple[str, str, str]]]]:
    """How many images failed of each kind, by stage and type, and a few of them; those that still count."""
    failed = ids_in(uri, layout.ERRORS)
    done = failed.filter(pc.is_in(failed, value_set=ids_in(uri, layout.RESULTS)))
    kinds: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
    for _, table in scan_parts(uri, layout.ERRORS, ["image_id", "uri", "error_stage", "error_type", "error_message"]):
        for row in table.filter(pc.invert(pc.is_in(table["image_id"], value_set=done))).to_pylist():
            kind = (row["error_stage"] or "", row["error_type"] or "")
            kinds[kind] += 1
            some = examples.setdefault(kind, [])
            if len(some) < EXAMPLES:
                message = storage.redact(row["error_message"] or "")
                some.append((row["image_id"], row["uri"] or "", message[:LONGEST]))
    return kinds, examples


def _skipped(uri: str) -> tuple[SkipKind, ...]:
    images: Counter[str] = Counter()
    first: dict[str, tuple[str, str]] = {}
    for _, table in scan_parts(uri, layout.SKIPPED, ["image_id", "skip_stage", "skip_reason"]):
        for row in table.to_pylist():
            stage = row["skip_stage"] or ""
            images[stage] += 1
            first.setdefault(stage, (row["image_id"], row["skip_reason"] or ""))
    return tuple(SkipKind(stage, number, first[stage]) for stage, number in images.most_common())
