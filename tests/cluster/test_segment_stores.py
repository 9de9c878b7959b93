"""The main job from each kind of store to the same one, some of whose requests fail: killed in the middle, resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Head, Served, use_server, write_tiles
from s3_server import FaultyProxy, faulty_proxy

from pipeline import storage
from pipeline.checkpoints.bundled import weights_uri
from pipeline.imaging.images import decode_mask
from pipeline.inputs.manifest import build_manifest
from pipeline.outputs.audit import audit
from pipeline.outputs.results import finished_ids, read_results
from pipeline.storage import listing

REPOSITORY = Path(__file__).parents[2]
IMAGES, ROWS = 32, 8


def start(served: Served, proxy: FaultyProxy, head: Head) -> subprocess.Popen[str]:
    command = [sys.executable, "jobs/segment_dataset.py", "--input", f"{served.folder}/photos", "--output",
               f"{served.folder}/out", "--weights", f"{served.folder}/net.safetensors", "--proposals", "2", "--crf",
               "none", "--max-side", "64", "--rows-per-file", str(ROWS), "--plan", "guess"]  # fmt: skip
    return subprocess.Popen(
        command, cwd=REPOSITORY, env={**head.environment, **proxy.environment}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def done(output: str) -> int:
    return len(finished_ids(output)) if storage.exists(f"{output}/results") else 0


@pytest.mark.slow
def test_a_run_is_killed_and_resumed_and_no_image_is_lost_or_done_twice(
    served: Served, head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    photos, output = f"{served.folder}/photos", f"{served.folder}/out"
    for file in write_tiles(tmp_path, IMAGES).glob("*.jpg"):
        storage.write_atomic(f"{photos}/{file.name}", file.read_bytes())
    storage.write_atomic(f"{served.folder}/net.safetensors", storage.read_bytes(weights_uri("demo")))
    with faulty_proxy(served.server, rate=0.05, seed=1) as proxy:
        process = start(served, proxy, head)
        while done(output) < ROWS and process.poll() is None:
            time.sleep(0.2)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        first, _ = process.communicate()
        before = done(output)
        assert before >= ROWS, first
        process = start(served, proxy, head)
        said, _ = process.communicate()
        assert process.returncode == 0, said
        assert f"{IMAGES} images, {before} done before" in said
    use_server(served.server, monkeypatch)
    found = audit(output, build_manifest(photos, None))
    assert (found.ok, found.failed, found.complete) == (IMAGES, 0, True)
    for row in read_results(output).to_pylist():
        assert decode_mask(row["mask"]).shape == (96, 96)
        assert storage.read_bytes(f"{output}/masks/{row['image_id']}.png") == row["mask"]
    left = [file.uri for file in listing.list_files(f"{output}/run", (".json", ".parquet"))]
    assert not any("staged" in uri or "lease" in uri for uri in left)
    assert "requests_repeated" in json.loads(storage.read_bytes(f"{output}/run/summary.json"))["faults"]
    assert proxy.faults.total() > 0
    record = storage.read_bytes(f"{output}/run/config.json").decode()
    secrets = [value for name, value in served.server.environment.items() if "KEY" in name or "TOKEN" in name]
    assert secrets
    assert not [secret for secret in secrets if secret in first + said + record]
