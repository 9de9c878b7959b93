"""No thread of Arrow's outlives a reading: a process that ends while one starts is aborted (SIGABRT, exit code 134)."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

PROGRAM = """
import os, sys
from pipeline.errors import ManifestError
from pipeline.inputs.manifest import build_manifest
before = len(os.listdir("/proc/self/task"))
try:
    print(len(build_manifest(sys.argv[1], None)), "images", file=sys.stderr)
except ManifestError as error:
    print(error, file=sys.stderr)
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts the threads of a process as Linux shows them")
@pytest.mark.parametrize("kind", ["parquet", "csv", "inventory-csv", "inventory-parquet"])
def test_reading_leaves_no_thread_of_arrow_behind(tmp_path: Path, kind: str):
    target = tmp_path / "x" / f"m.{kind}"
    target.parent.mkdir()
    columns = {"uri": ["a.jpg", None], "image_id": ["a", "b"]}
    if kind == "parquet":
        pq.write_table(pa.table(columns), target)
    elif kind == "csv":
        target.write_text("uri,image_id\na.jpg,a\n,b\n")
    else:
        target = target.with_name("manifest.json")
        (tmp_path / "data").mkdir()
        csv = kind == "inventory-csv"
        if csv:
            (tmp_path / "data" / "0").write_bytes(gzip.compress(b'"bucket","a.jpg"\n'))
        else:
            pq.write_table(pa.table({"bucket": ["bucket"], "key": ["a.jpg"]}), tmp_path / "data" / "0")
        target.write_text(json.dumps({"fileFormat": "CSV" if csv else "Parquet", "fileSchema": "Bucket, Key",
                                      "files": [{"key": "data/0"}]}))  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, target], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0", done.stderr
    assert ("row 2: the uri is empty" if "inventory" not in kind else "1 images") in done.stderr
