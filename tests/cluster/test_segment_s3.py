"""The main job from S3 to S3, on a real server of which one request in ten fails."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import use_s3
from PIL import Image
from s3_server import faulty_proxy, s3_server

from examples.scenes.dataset import scene_of
from pipeline import storage
from pipeline.checkpoints.bundled import weights_uri
from pipeline.config import SegmentConfig
from pipeline.config.stages import stages_of
from pipeline.imaging.images import decode_mask
from pipeline.inputs.manifest import build_manifest
from pipeline.outputs.audit import audit
from pipeline.outputs.results import read_results
from pipeline.storage import listing

REPOSITORY = Path(__file__).parents[2]
IMAGES = 104  # enough for the stages to be timed first


def test_a_run_on_a_faulty_store_loses_nothing_and_tells_no_secret(tmp_path, monkeypatch, head):
    photos = tmp_path / "s3" / "bucket" / "photos"
    photos.mkdir(parents=True)
    scene = Image.fromarray(scene_of(7, "val", 0).image_HW3)
    for index in range(IMAGES):
        scene.crop((index, index, index + 96, index + 96)).save(photos / f"{index:03}.jpg")
    shutil.copy(weights_uri("demo"), tmp_path / "s3" / "bucket" / "net.safetensors")
    with s3_server(tmp_path / "s3") as server, faulty_proxy(server, rate=0.1, seed=1) as proxy:
        process = subprocess.run(
            [sys.executable, "jobs/segment_dataset.py", "--input", "s3://bucket/photos", "--output", "s3://bucket/out",
             "--weights", "s3://bucket/net.safetensors", "--proposals", "2", "--crf", "none", "--max-side", "64",
             "--rows-per-file", "16"],
            cwd=REPOSITORY, env={**head.environment, **proxy.environment}, capture_output=True, text=True, timeout=600,
            check=False,
        )  # fmt: skip
        said = process.stdout + process.stderr
        assert process.returncode == 0, said
        assert "bound by" in process.stdout
        use_s3(server, monkeypatch)
        found = audit("s3://bucket/out", build_manifest("s3://bucket/photos", None))
        assert (found.ok, found.failed, found.complete) == (IMAGES, 0, True)
        for row in read_results("s3://bucket/out").to_pylist():
            assert decode_mask(row["mask"]).shape == (96, 96)
            assert storage.read_bytes(f"s3://bucket/out/masks/{row['image_id']}.png") == row["mask"]
        record = storage.read_bytes("s3://bucket/out/run/config.json").decode()
        summary = json.loads(storage.read_bytes("s3://bucket/out/run/summary.json"))
        assert summary["faults"]["requests_repeated"] > 0
        assert min(summary["seconds_alone"][stage.name] for stage in stages_of(SegmentConfig("in", "out"))) > 0
        left = [file.uri for file in listing.list_files("s3://bucket/out/run", (".json", ".parquet"))]
        assert sum("staged" in uri or "lease" in uri for uri in left) == 0
    assert sum(proxy.faults.values()) > 5  # there were faults to bear
    for secret in (server.secret_key, server.access_key):
        assert secret not in said
        assert secret not in record
