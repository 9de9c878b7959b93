"""Measure parts of the pipeline; every figure in the docs names the call that gave it.

    python jobs/benchmark.py decode --input VOC2012/JPEGImages
    python jobs/benchmark.py proposals --data VOC2012 --split train
    python jobs/benchmark.py network --width 1
    python jobs/benchmark.py crops --width 1
    python jobs/benchmark.py crf --input data/demo/JPEGImages --weights demo
    python jobs/benchmark.py overhead --input data/demo/JPEGImages
    python jobs/benchmark.py scale --images 1000000

Prints a table; `--json FILE` keeps it. On a CPU one thread works: the seconds are those of one core. `network` and
`crops` need no more than torch, numpy, safetensors and the packages of this command line.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from pipeline.config.benchmarks import Crf, Crops, Decode, Network, Overhead, Proposals, Scale

Subcommand = Decode | Proposals | Network | Crops | Crf | Overhead | Scale


def main() -> int:
    """Parse, measure, print, write."""
    torch.set_num_threads(1)
    config: Subcommand = tyro.cli(
        Subcommand,
        description=__doc__,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )
    # Only the packages that this one needs: those of the network run where there is no Ray, OpenCV or Arrow.
    benchmark = importlib.import_module(f"pipeline.benchmarks.{type(config).__name__.lower()}")
    rows = benchmark.run(config)
    show(rows)
    print(f"{machine()}, torch {torch.__version__}; {config}")
    if config.json is not None:
        Path(config.json).write_text(json.dumps({"config": asdict(config), "rows": rows}, indent=1))
    return 0


def machine() -> str:
    """What it ran on."""
    cores = f"{os.cpu_count()} cores of {platform.processor() or platform.machine()}"
    return f"{torch.cuda.get_device_name()}, {cores}" if torch.cuda.is_available() else cores


def show(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table."""
    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else f"{value:.4g}" for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
