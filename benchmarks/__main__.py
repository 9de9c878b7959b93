"""Measure parts of the pipeline; every figure in the docs names the command that measured it.

    python -m benchmarks decode --input VOC2012/JPEGImages
    python -m benchmarks reading --input VOC2012/JPEGImages
    python -m benchmarks proposals --data VOC2012 --split train
    python -m benchmarks edges --data BSDS500
    python -m benchmarks network --width 1
    python -m benchmarks crops --width 1
    python -m benchmarks aggregate
    python -m benchmarks step --width 1
    python -m benchmarks crf --input data/demo/JPEGImages --weights demo
    python -m benchmarks crf
    python -m benchmarks pipeline --input data/demo/JPEGImages
    python -m benchmarks ingest --training-set data/voc_windows
    python -m benchmarks scale --images 1000000

Prints a table; `--json FILE` writes it to a file. On a CPU one thread works, so the seconds are those of one core.
`network`, `crops`, `aggregate`, `step`, and `crf` without `--input` need torch, numpy and safetensors; this command
line also needs tyro and rich. Without those two:

    python -c "from benchmarks.network import *; [print(row) for row in run(Network(width=1, micro_batch=64))]"

On a GPU, `python -m benchmarks.gpu` (also without those two) runs these and more, and judges what is claimed of GPUs.

Exit codes: 0 measured, 2 bad arguments or missing data.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.config import (
    Aggregate,
    Crf,
    Crops,
    Decode,
    Edges,
    Ingest,
    Network,
    Pipeline,
    Proposals,
    Reading,
    Scale,
    Step,
)

Subcommand = Decode | Reading | Proposals | Edges | Network | Crops | Aggregate | Step | Crf | Pipeline | Ingest | Scale


def main() -> int:
    """Parse, measure, print, write."""
    torch.set_num_threads(1)
    config: Subcommand = tyro.cli(
        Subcommand,
        description=__doc__,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )
    # Imports only what this benchmark needs: those of the network run without Ray, OpenCV or Arrow.
    benchmark = importlib.import_module(f"benchmarks.{type(config).__name__.lower()}")
    try:
        rows = benchmark.run(config)
    except (OSError, ValueError) as error:  # wrong paths, unusable files, settings out of their range
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    show(rows)
    print(f"{machine()}; {config}")
    if config.json is not None:
        Path(config.json).write_text(
            json.dumps({"machine": machine(), "config": asdict(config), "rows": rows}, indent=1)
        )
    return 0


def machine() -> str:
    """The machine, and the versions of the libraries."""
    device = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    versions = [f"{name} {version(name)}" for name in ("torch", "numpy")]
    return ", ".join([*device, f"{os.cpu_count()} cores of {platform.processor() or platform.machine()}", *versions])


def show(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table."""
    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else f"{value:.4g}" for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
