"""One export: from an output to a folder that is there when it is complete."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow.compute as pc

from pipeline.config.exporting import ExportConfig
from pipeline.export.folder import whole_folder
from pipeline.export.formats import load
from pipeline.export.pictures import Pictures
from pipeline.export.results import Watch, open_results
from pipeline.outputs import layout
from pipeline.outputs.results import ids_in


@dataclass(frozen=True)
class Exported:
    """What an export holds, and what not."""

    images: int
    failed: int
    """Images of the run without a mask, which are not in the export; likewise `skipped`."""
    skipped: int
    remote: int
    """Images in a store, or in a tar or Parquet file, of which the export has the labels only."""
    missing: int
    """Images that could not be read any more, of which the export has the labels only."""
    missing_sample: tuple[str, ...]


def export_results(config: ExportConfig, watch: Watch | None = None) -> Exported:
    """Write a run's results in another tool's format.

    Raises:
        ResultsError: there are no results, or a file is damaged.
        FolderError: the export's folder is there and not empty.
        ModuleNotFoundError: the format needs a package that is not installed.
        OSError: a file cannot be written; the folder is then not there.
    """
    export = load(config.to)
    results = open_results(config.results, watch, config.min_area)
    with whole_folder(config.output) as folder:
        pictures = Pictures(folder, copy=config.copy_images)
        export(results, pictures, folder)
    return Exported(
        images=results.count,
        failed=_failed(config.results),
        skipped=len(ids_in(config.results, layout.SKIPPED)),
        remote=pictures.remote_count,
        missing=pictures.missing_count,
        missing_sample=tuple(pictures.missing),
    )


def _failed(output_uri: str) -> int:
    """How many images are in the errors only; of their messages nothing is read."""
    errors = ids_in(output_uri, layout.ERRORS)
    done = pc.is_in(errors, value_set=ids_in(output_uri, layout.RESULTS))
    return int(done.to_pylist().count(False))
