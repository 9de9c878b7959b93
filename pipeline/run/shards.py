"""The summary of an output that several calls fill at the same time, each a shard of it.

A shard has its own summary, OUTPUT/run/shards/<shard>.json, and each that ends writes run/summary.json about all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from itertools import groupby
from typing import Any

from pipeline import storage
from pipeline.config.shards import WHOLE
from pipeline.outputs.audit import Audit, audit
from pipeline.outputs.layout import SHARDS, SUMMARY
from pipeline.outputs.results import read_manifest
from pipeline.run.record import RunRecord, Summary, read_summary, summary_of
from pipeline.storage import listing

BEFORE = "before_shards"
"""The key of a summary of all shards under which the one is that was there before them; empty if there was none."""


def write_joint_summary(run: RunRecord, found: Audit) -> Audit:
    """Write OUTPUT/run/summary.json about all shards, after this one has written its own.

    Args:
        run: a shard; if it is all images, there is nothing to write.
        found: its images, compared with the output.

    Returns:
        All images of the manifest, compared with the output.

    Raises:
        LeaseError: another run took the shard over.
        ResultsError: the output cannot be read.
    """
    if run.lease.shard == WHOLE:
        return found
    uri = storage.join(run.output, SUMMARY)
    there = read_summary(uri)
    before = there.get(BEFORE, there)
    shards = _of_shards(run.output)
    while True:
        whole = audit(run.output, read_manifest(run.output, ["image_id"]))
        content = _together(summary_of(before), shards).content(whole) | {BEFORE: before}
        run.lease.check()
        storage.write_atomic(uri, json.dumps(content, indent=1).encode())
        now = _of_shards(run.output)
        if now == shards:  # otherwise this may have replaced what a shard wrote that ended meanwhile
            return whole
        shards = now


def _of_shards(output: str) -> dict[str, dict[str, Any]]:
    """The summaries of shards, by their files' names."""
    folder = storage.join(output, SHARDS)
    return {file.uri: read_summary(file.uri) for file in listing.list_files(folder, (".json",))}


def _together(before: Summary, shards: Mapping[str, dict[str, Any]]) -> Summary:
    """What was done before the shards, and by all of them: side by side, where their number is the same."""
    parts = {uri: summary_of(content) for uri, content in shards.items()}
    rounds = groupby(sorted(parts, key=_number_of_shards), key=_number_of_shards)
    seconds = sum(max(parts[uri].seconds for uri in uris) for _, uris in rounds)
    return replace(
        reduce(lambda earlier, part: part.after(earlier), parts.values(), before),
        seconds=before.seconds + seconds,
        machines="; ".join(dict.fromkeys(part.machines for part in parts.values() if part.machines)),
        processes="; ".join(dict.fromkeys(part.processes for part in parts.values() if part.processes)),
    )


def _number_of_shards(uri: str) -> str:
    return uri.rpartition("-")[2]
