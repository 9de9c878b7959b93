"""Write a run's results as another tool reads them.

python jobs/export_results.py --results runs/photos --to coco --output exports/photos
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import track

from jobs import commands
from jobs.common import EXIT_DONE, call, counted, end_process
from pipeline import storage
from pipeline.config import ConfigError, ExportConfig
from pipeline.export.run import Exported, export_results
from pipeline.inputs.named import check_named
from pipeline.outputs.layout import is_output

LINE_SECONDS = 60.0

console = Console(soft_wrap=True, markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; returns the exit code."""
    return call(commands.EXPORT, arguments, run)


def run(config: ExportConfig) -> int:
    """Export, and say what is in it and what not."""
    check_named("results", config.results)
    if is_output(address := storage.absolute(config.results)):
        raise ConfigError(f"--results {config.results} is a part of a run's output; give {storage.parent(address)}")
    show(export_results(config, _watch), config)
    return EXIT_DONE


def _watch(rows: Iterable[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """Pass rows on, with a bar on a terminal and a line now and then in a log."""
    if console.is_terminal:
        yield from track(rows, "exporting", count, console=console, transient=True)
        return
    told = time.monotonic()
    for number, row in enumerate(rows):
        if time.monotonic() - told >= LINE_SECONDS:
            told = time.monotonic()
            console.print(f"{number:,} of {count:,} images")
        yield row


def show(done: Exported, config: ExportConfig) -> None:
    """Print what came out."""
    if done.failed or done.skipped:
        console.print(f"{done.failed} images of the run failed and {done.skipped} were skipped; they have no mask and "
                      "are not in the export")  # fmt: skip
    if done.remote:
        console.print(f"{done.remote} images are in a store, or in a tar or Parquet file, and were not copied: the "
                      "export has their labels only; --copy-images copies them")  # fmt: skip
    if done.missing:
        console.print(f"{done.missing} images could not be read any more: the export has their labels only "
                      f"({', '.join(done.missing_sample)}{', ...' if done.missing > len(done.missing_sample) else ''})"
                      )  # fmt: skip
    console.print(f"{counted(done.images, 'image')} as {config.to}: {storage.absolute(config.output)}")


if __name__ == "__main__":
    end_process(main)
