"""Exports of results in a store, photographs among them: file by file what comes of the same results on a disk."""

import json
from pathlib import Path
from typing import get_args

import pyarrow.parquet as pq
import pytest
from conftest import exit_code
from result_files import PATHS, write_output
from s3_outputs import upload

from jobs import console
from pipeline.config import ExportConfig
from pipeline.config.exporting import ExportFormat
from pipeline.export.run import export_results


def content(folder: Path, address: str) -> dict[str, object]:
    """What each file of an export holds; addresses that lead to the results begin with `RESULTS`."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".parquet":
            rows = pq.read_table(path).to_pylist()
            found[name] = [row | {"uri": row["uri"].replace(address, "RESULTS")} for row in rows]
        elif path.is_file():
            data = path.read_bytes()
            escaped = json.dumps(address)[1:-1].encode()
            found[name] = data.replace(escaped, b"RESULTS") if path.suffix == ".json" else data
    return found


@pytest.mark.parametrize("to", get_args(ExportFormat))
def test_results_on_s3_are_exported_as_those_on_a_disk(
    to: str, tmp_path: Path, s3_folder: str, capsys: pytest.CaptureFixture[str]
):
    made = tmp_path / "made"
    write_output(made)
    upload(made, s3_folder)
    local = export_results(ExportConfig(str(made / "run"), to, str(tmp_path / "local"), copy_images=True))
    arguments = [f"{s3_folder}/run", "--to", to, "--output", str(tmp_path / "s3")]
    assert exit_code(console.main, "export", *arguments, "--copy-images") == 0
    assert f"{len(PATHS)} images" in capsys.readouterr().out
    assert local.images == len(PATHS)
    expected = content(tmp_path / "local", str(made))
    assert content(tmp_path / "s3", s3_folder) == expected
    assert len(expected) > 1


def test_without_copying_there_is_nothing_of_images_in_a_store(tmp_path: Path, stored: str):
    write_output(tmp_path / "made")
    upload(tmp_path / "made", stored)
    done = export_results(ExportConfig(f"{stored}/run", "coco", str(tmp_path / "coco")))
    assert done.images == done.remote == len(PATHS)
    assert not [path for path in (tmp_path / "coco").rglob("*") if path.suffix != ".json" and path.is_file()]
    export_results(ExportConfig(f"{stored}/run", "hf", str(tmp_path / "hf")))
    for row in pq.read_table(tmp_path / "hf" / "data").to_pylist():
        assert row["image"] == {"bytes": None, "path": row["uri"]}
        assert row["uri"].startswith(f"{stored}/photos/")
