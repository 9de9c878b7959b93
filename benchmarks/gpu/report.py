"""The measurement as JSON and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu.claims import verdicts
from benchmarks.gpu.results import Results, Section, kernels_wrong
from benchmarks.gpu.sizes import Sizes

DRY_RUN = (
    "**This is a dry run on a CPU, with the smallest sizes and Triton's kernels in its interpreter. It shows that the "
    "code runs; no figure in it means anything.**"
)
QUICK = "**The sizes are the smallest ones (`--quick`): the figures mean nothing.**"


def write(folder: Path, sizes: Sizes, sections: Sequence[Section], seconds: float) -> None:
    """Write gpu.json and gpu.md into a folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    results = Results(list(sections))
    claims = [asdict(one) for one in verdicts(results, quick=sizes.quick)]
    held = {
        "dry_run": sizes.interpreted, "sizes": asdict(sizes), "seconds": seconds,
        "kernels_wrong": kernels_wrong(results.sections), "claims": claims,
        "sections": [asdict(section) for section in sections],
    }  # fmt: skip
    (folder / "gpu.json").write_text(json.dumps(held, indent=1))
    (folder / "gpu.md").write_text(markdown(sizes, results, seconds))


def markdown(sizes: Sizes, results: Results, seconds: float) -> str:
    """The report as Markdown: the verdict first, then the claims, what did not fit, and every table."""
    parts = ["# GPU measurement", banner(sizes), f"`python -m benchmarks.gpu`, {seconds:.0f} s."]
    wrong = kernels_wrong(results.sections)
    parts.append("**Kernels that compute wrong:** " + "; ".join(wrong) if wrong else "Every kernel computes right.")
    parts += ["## Claims", table([asdict(one) for one in verdicts(results, quick=sizes.quick)])]
    if left := unfinished(results.sections):
        parts += ["## Not finished", "\n".join(f"- {line}" for line in left)]
    for one in results.tables():
        parts += [f"## {one.title[0].upper()}{one.title[1:]}", one.note, table(one.rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def banner(sizes: Sizes) -> str:
    """A sentence about figures that mean nothing; empty for a full measurement."""
    return DRY_RUN if sizes.interpreted else QUICK if sizes.quick else ""


def unfinished(sections: Sequence[Section]) -> list[str]:
    """A line for each section that did not end as it should."""
    return [
        f"{one.name}: {one.status} after {one.seconds:.0f} of {one.limit:.0f} s {one.error}".rstrip()
        for one in sections
        if one.status != "done"
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same columns as a Markdown table."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_cell(row[column]) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
