"""The formats, a file each, under the names that `--to` has for them (hyphens are underscores here).

A format's file has `export(results, pictures, folder)`, which writes everything into `folder`, image by image:
`results` (`export.results.Results`) yields the images, `pictures` (`export.pictures.Pictures`) puts their files there.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from pipeline.config.exporting import ExportFormat
from pipeline.export.pictures import Pictures
from pipeline.export.results import Results

Export = Callable[[Results, Pictures, Path], None]


def load(name: ExportFormat) -> Export:
    """What writes a format.

    Raises:
        ModuleNotFoundError: a package is not installed that it needs.
    """
    export: Export = import_module(f"pipeline.export.formats.{name.replace('-', '_')}").export
    return export
