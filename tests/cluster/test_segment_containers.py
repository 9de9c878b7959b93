"""The main job over images in a tar file: the masks of the folder, and a second call that does what is left."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import exit_code, write_tiles
from container_files import files_in, tar_of

from jobs.segment_dataset import main
from pipeline.imaging.images import decode_mask
from pipeline.inputs.manifest import build_manifest
from pipeline.outputs.audit import audit
from pipeline.outputs.results import read_errors, read_results

SMALL = ["--weights", "demo", "--proposals", "2", "--crf", "none", "--predict-workers", "1"]
REPOSITORY = Path(__file__).parents[2]
IMAGES = 12


def without_ray(*arguments: str) -> None:
    """So few images are done by processes of this machine where no cluster is named."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "jobs/segment_dataset.py", *arguments]
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True)


def test_a_tar_is_segmented_as_its_folder_is_image_by_image(tmp_path: Path, in_ray: None):
    photos = tmp_path / "photos"
    photos.mkdir()
    write_tiles(photos, IMAGES)
    (photos / "11.jpg").write_bytes((photos / "11.jpg").read_bytes()[:500])
    (tmp_path / "shards").mkdir()
    files = files_in(photos)
    for shard in range(2):
        some = dict(list(files.items())[shard::2])
        (tmp_path / "shards" / f"{shard}.tar").write_bytes(tar_of(some | {"about.json": b"{}"}))
    shards = f"{tmp_path}/shards/*.tar"
    without_ray("--input", str(photos), "--output", f"{tmp_path}/of-photos", *SMALL)
    first = ["--input", shards, "--output", f"{tmp_path}/of-shards", *SMALL]
    without_ray(*first, "--limit", "5")
    before = {row["image_id"] for row in read_results(f"{tmp_path}/of-shards").to_pylist()}
    assert exit_code(main, *first) == 0
    summary = json.loads((tmp_path / "of-shards" / "run" / "summary.json").read_text())
    assert (len(before), summary["images_ok"], summary["images_failed"]) == (5, IMAGES - 1, 1)
    assert audit(f"{tmp_path}/of-shards", build_manifest(shards, None)).complete
    masks = {row["image_id"]: row["mask"] for row in read_results(f"{tmp_path}/of-photos").to_pylist()}
    found = {row["image_id"]: row["mask"] for row in read_results(f"{tmp_path}/of-shards").to_pylist()}
    assert found.keys() == {f"{int(name[:2]) % 2}.tar/{name}" for name in masks}
    for image_id, mask in found.items():
        assert (tmp_path / "of-shards" / "masks" / f"{image_id}.png").read_bytes() == mask
        # Other images were in the same micro-batch, which may change the last digits of the scores.
        assert np.mean(decode_mask(mask) == decode_mask(masks[image_id[-6:]])) >= 0.999
    (error,) = read_errors(f"{tmp_path}/of-shards").to_pylist()
    assert (error["image_id"], error["error_stage"], error["error_type"]) == ("1.tar/11.jpg", "decode", "truncated")
    assert (tmp_path / "of-shards" / "run" / "report.html").is_file()
