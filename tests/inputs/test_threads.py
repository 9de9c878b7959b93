"""No thread of Arrow's outlives a reading: a process that ends while one starts is aborted (SIGABRT, exit code 134)."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.outputs.writing import write_rows
from pipeline.training.windows.index import INDEX_SCHEMA

REPOSITORY = Path(__file__).parents[2]

LEFT_BEHIND = """
import os, sys, time
{imports}
before = len(os.listdir("/proc/self/task"))
{work}
for _ in range(100):  # the system takes a moment to forget a thread of ours that was joined
    if (left := len(os.listdir("/proc/self/task")) - before) == 0:
        break
    time.sleep(0.05)
print(left)
"""
MANIFEST = {
    "imports": "from pipeline.errors import ManifestError\nfrom pipeline.inputs.manifest import build_manifest",
    "work": """
try:
    print(len(build_manifest(sys.argv[1], None)), "images", file=sys.stderr)
except ManifestError as error:
    print(error, file=sys.stderr)
""",
}
RESULTS = {
    "imports": "import pyarrow as pa\nfrom pipeline.outputs import results\nfrom pipeline.outputs.audit import audit",
    "work": """
results.finished_ids(sys.argv[1])
results.read_errors(sys.argv[1]).group_by("error_type", use_threads=False).aggregate([("image_id", "count")])
results.images_per_class(sys.argv[1])
assert audit(sys.argv[1], pa.table({"image_id": ["a"]})).complete
""",
}
INDEX = {
    "imports": "from pipeline.training.windows.index import read_index",
    "work": "assert len(read_index(sys.argv[1])) == 0",
}

# As a job that reads a manifest, refuses it and ends: the interpreter and Arrow are taken down as in any process. One
# process that forks instead of forty that import.
REFUSE_MANY = """
import collections, os, signal, sys
from pipeline.errors import ManifestError
from pipeline.inputs.manifest import build_manifest
from pipeline.outputs.results import finished_ids
def fork(work):
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # whatever happens, none stays
        work()
    return child
def spin():
    while True:
        pass
def refuse():
    finished_ids(sys.argv[2])
    try:
        build_manifest(sys.argv[1], None)
    except ManifestError:
        sys.exit(2)
busy = [fork(spin) for _ in range(3)]
ends = collections.Counter()
for _ in range(8):
    for child in [fork(refuse) for _ in range(5)]:
        ends[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])] += 1
for child in busy:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
print(dict(ends))
"""


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=False,
        cwd=REPOSITORY, env={**os.environ, "PYTHONWARNINGS": "ignore::DeprecationWarning"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def write_output(folder: Path) -> None:
    good = {"image_id": "a", "status": "ok", "pixel_counts": [1, 2], "mean_probability": [0.1, 0.2]}
    write_rows(str(folder), [good, {"image_id": "b", "status": "failed", "error_type": "empty"}], ("background", "x"))


linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux shows them")


@linux
@pytest.mark.parametrize(
    "kind",
    [
        "parquet",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("csv", "inventory-csv", "inventory-parquet")),
    ],
)
def test_reading_what_is_to_be_done(tmp_path: Path, kind: str):
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
    done = run(LEFT_BEHIND.format(**MANIFEST), target)
    assert done.stdout.strip() == "0", done.stderr
    assert ("row 2: the uri is empty" if "inventory" not in kind else "1 images") in done.stderr


@linux
def test_reading_what_is_done(tmp_path: Path):
    write_output(tmp_path)
    assert run(LEFT_BEHIND.format(**RESULTS), tmp_path).stdout.strip() == "0"


@linux
def test_reading_a_training_set(tmp_path: Path):
    pq.write_table(INDEX_SCHEMA.empty_table(), tmp_path / "index.parquet")
    assert run(LEFT_BEHIND.format(**INDEX), tmp_path / "index.parquet").stdout.strip() == "0"


@pytest.mark.slow
def test_refusals_on_a_busy_machine_end_with_their_exit_code(tmp_path: Path):
    write_output(tmp_path / "out")
    pq.write_table(pa.table({"uri": ["a.jpg", None], "image_id": ["a", "b"]}), tmp_path / "m.parquet")
    assert run(REFUSE_MANY, tmp_path / "m.parquet", tmp_path / "out").stdout.strip() == "{2: 40}"
