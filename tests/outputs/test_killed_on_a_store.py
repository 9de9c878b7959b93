"""A process that writes results to a store is killed between two files; the next one goes on, on each kind of store."""

import os
import subprocess
import sys

import cv2
import numpy as np
import pyarrow as pa
import pytest
from conftest import Served, use_server
from s3_server import faulty_proxy

from pipeline import storage
from pipeline.errors import FolderInUseError, LeaseError
from pipeline.imaging.images import decode_mask
from pipeline.outputs.audit import audit
from pipeline.outputs.lease import Lease, take_lease
from pipeline.outputs.results import finished_ids, read_results, scan_parts
from pipeline.outputs.writing import write_mask, write_rows
from pipeline.storage import listing, retrying

NAMES = ("background", "bright")
IMAGES, AT_ONCE, COMMITTED = 12, 3, 2
WRITER = """
import sys
from test_killed_on_a_store import COMMITTED, batches, stage
from pipeline.outputs.lease import take_lease
folder, output = sys.argv[1:]
lease = take_lease(output)
for number, batch in enumerate(batches(folder)):
    parts = stage(folder, lease, batch)
    if number == COMMITTED:
        print(lease.run_id, flush=True)
        sys.stdin.read()
    lease.commit(parts)
"""


def batches(folder: str) -> list[list[str]]:
    names = [file.uri.rpartition("/")[2] for file in listing.list_files(folder, (".png",))]
    return [names[start : start + AT_ONCE] for start in range(0, len(names), AT_ONCE)]


def stage(folder: str, lease: Lease, names: list[str]) -> list[str]:
    """Segment images by brightness, write their masks, and stage their rows as a worker does."""
    rows = []
    for name in names:
        grey_HW = cv2.imdecode(np.frombuffer(storage.read_image(f"{folder}/{name}"), np.uint8), cv2.IMREAD_GRAYSCALE)
        mask_HW = (grey_HW > 127).astype(np.uint8)
        png = cv2.imencode(".png", mask_HW)[1].tobytes()
        write_mask(lease.output, name, png)
        counts = np.bincount(mask_HW.ravel(), minlength=2).tolist()
        rows.append({"image_id": name, "status": "ok", "mask": png, "pixel_counts": counts,
                     "mean_probability": [0.5, 0.5]})  # fmt: skip
    return list(write_rows(lease.staged, rows, NAMES).parts)


def noise(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (24, 32), np.uint8)


def test_nothing_is_lost_or_there_twice(served: Served, monkeypatch: pytest.MonkeyPatch):
    folder, output = f"{served.folder}/photos", f"{served.folder}/out"
    for number in range(IMAGES):
        storage.write_atomic(f"{folder}/{number:02}.png", cv2.imencode(".png", noise(number))[1].tobytes())
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.01)
    with faulty_proxy(served.server, rate=0.1, seed=2, delay=0.02) as proxy:
        use_server(proxy, monkeypatch)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen([sys.executable, "-c", WRITER, folder, output], env=environment, text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:  # fmt: skip
            assert writer.stdout is not None
            run_id = writer.stdout.readline().strip()
            assert run_id
            with pytest.raises(FolderInUseError, match="at work"):
                take_lease(output)
            writer.kill()
        staged = Lease(output, run_id).staged
        (part,) = [file.uri.removeprefix(f"{staged}/") for file in listing.list_files(staged, (".parquet",))]
        lease = take_lease(output)
        assert not storage.exists(staged)
        with pytest.raises(LeaseError, match="taken over"):  # had it only been slow
            Lease(output, run_id).commit([part])
        done = set(finished_ids(output).to_pylist())
        assert len(done) == COMMITTED * AT_ONCE
        for batch in batches(folder):
            if left := [name for name in batch if name not in done]:
                lease.commit(stage(folder, lease, left))
        lease.release()
        names = [f"{number:02}.png" for number in range(IMAGES)]
        assert audit(output, pa.table({"image_id": names})).complete
        assert len(list(scan_parts(output, "results", ["image_id"]))) == IMAGES // AT_ONCE
        rows = {row["image_id"]: row for row in read_results(output).to_pylist()}
        for number, name in enumerate(names):
            np.testing.assert_array_equal(decode_mask(rows[name]["mask"]), noise(number) > 127)
            assert storage.read_bytes(f"{output}/masks/{name}.png") == rows[name]["mask"]
        assert listing.list_files(f"{output}/results", ("",))
        assert not storage.exists(f"{output}/run")
    assert proxy.faults.total() > 0
    assert storage.retries(reset=True) > 0
