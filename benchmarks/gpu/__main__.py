"""Try and measure on a GPU everything that the project claims of GPUs, in eight minutes at most.

    python -m benchmarks.gpu                          # writes runs/gpu/gpu.json and runs/gpu/gpu.md
    python -m benchmarks.gpu --device cpu --quick     # the same code dry, in seconds; its figures mean nothing

Needs Python, torch with Triton, numpy and safetensors, and no network. Each section runs in a process of its own
with a limit of seconds; the files are written anew after each.

Exit codes: 0 measured, also if a claim does not hold; 1 a kernel computes wrong, or its check did not end;
2 wrong arguments, or no GPU.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

BUDGET = 460.0
"""Seconds for all sections; the rest of the eight minutes is for starting and ending."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure section by section, report."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run, with --quick")
    parser.add_argument("--quick", action="store_true", help="the smallest sizes")
    parser.add_argument("--output", default="runs/gpu", help="folder for gpu.json and gpu.md (default: %(default)s)")
    given = parser.parse_args(arguments)
    if given.device == "cpu":
        if not given.quick:
            parser.error("--device cpu is for dry runs: add --quick")
        os.environ["TRITON_INTERPRET"] = "1"  # before any process imports Triton
    return measure(given.device, Path(given.output), quickly=given.quick)


def measure(device: str, folder: Path, *, quickly: bool) -> int:
    """Run all sections and write the report; returns the exit code."""
    from benchmarks.gpu.processes import run_limited
    from benchmarks.gpu.report import banner, unfinished, write
    from benchmarks.gpu.results import Section, kernels_wrong
    from benchmarks.gpu.sections import SECTIONS
    from benchmarks.gpu.sizes import Sizes, quick

    sizes = quick("cpu" if device == "cpu" else "cuda") if quickly else Sizes()
    if text := banner(sizes):
        print(text.strip("*"))
    started = time.monotonic()
    sections: list[Section] = []
    for name, part in SECTIONS.items():
        left = BUDGET - (time.monotonic() - started)
        section = run_limited(name, sizes, min(part.limit, left)) if left > 1 else Section(name, part.limit)
        sections.append(section)
        print(f"{name}: {section.status}, {section.seconds:.0f} s {section.error}".rstrip(), flush=True)
        if name == "machine" and section.status != "done":
            print("benchmarks.gpu: torch cannot use a GPU here; `--device cpu --quick` tries the code", file=sys.stderr)
            return 2
        write(folder, sizes, sections, time.monotonic() - started)
    wrong = kernels_wrong(sections)
    print_claims(folder)
    for line in unfinished(sections):
        print(f"not finished: {line}")
    for line in wrong:
        print(f"A KERNEL COMPUTES WRONG: {line}")
    print(f"{text.strip('*')} tables: {folder}/gpu.md, figures: {folder}/gpu.json".strip())
    return 1 if wrong else 0


def print_claims(folder: Path) -> None:
    """One line for each claim."""
    import json

    for claim in json.loads((folder / "gpu.json").read_text())["claims"]:
        print(f"{claim['holds']:>12}  {claim['claim']}: {claim['measured']}")


if __name__ == "__main__":
    sys.exit(main())
