"""Breaks the main job on purpose and counts what it lost: `make chaos`, or `python tests/chaos.py --help`.

A cluster of three nodes on this machine segments images of a real S3 server, through a proxy that breaks some of the
requests, and in half of the rounds refuses copies and the removal of many objects at once. In each round the driver, a
worker process or a whole node is killed, or a process of the network or the CRF is frozen, at a random moment; the same
command is called again until it ends well. Then every image must be in the results exactly once, with the mask of a run
that nobody disturbed.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_idle_worker_killing_time_threshold_ms": "600000"}

import psutil
import pyarrow.parquet as pq
import tyro
from PIL import Image
from ray.cluster_utils import Cluster
from s3_server import REFUSALS, faulty_proxy, s3_server

from examples.scenes.dataset import scene_of
from pipeline.outputs.audit import audit
from pipeline.outputs.results import read_results

REPOSITORY = Path(__file__).parents[1]
VICTIMS = ("driver", "worker", "node", "frozen")
TILES = 10  # images cut out of one scene
SETTINGS = ("--crf", "none", "--rows-per-file", "16", "--max-side", "64",
            "--plan", "guess", "--stall-timeout", "45")  # fmt: skip
MOST_CALLS = 6


@dataclass(frozen=True)
class Chaos:
    """What to break."""

    images: int = 400
    """Images to segment in each round."""
    weights: str = "demo"
    """The network; `voc-fcn` sees whole images."""
    rounds: int = 12
    """Rounds; the victims take turns."""
    fault_rate: float = 0.1
    """Part of the requests to the store that are answered 503, reset, cut short or delayed."""
    seed: int = 0
    """Of the moments, the victims and the faults."""


@dataclass
class Round:
    """What one round did and found."""

    victim: str
    refused: tuple[str, ...]
    after_seconds: float
    exit_codes: list[int]
    seconds: float
    lost: int
    failed: int
    duplicated: int
    masks_that_differ: int
    faults: dict[str, int]


class Machines:
    """Three nodes of one CPU each; one that is lost is replaced."""

    def __init__(self) -> None:
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self.others = [self.cluster.add_node(num_cpus=1) for _ in range(2)]

    def kill_node(self, random_: random.Random) -> None:
        node = self.others.pop(random_.randrange(len(self.others)))
        self.cluster.remove_node(node, allow_graceful=False)
        self.others.append(self.cluster.add_node(num_cpus=1, wait=False))


def kill_worker(random_: random.Random) -> None:
    """Kill any process of the job, the attempt log included, but no agent, with which its node would die."""
    if workers := [process for process, name in named_by_ray() if not name.endswith("Agent")]:
        random_.choice(workers).kill()


def freeze_worker(random_: random.Random) -> None:
    """Stop a process that holds a network or a CRF, once there is one, so that it neither works nor dies."""
    for _ in range(60):
        if workers := [process for process, name in named_by_ray() if name.startswith("ray::MapWorker")]:
            return random_.choice(workers).suspend()
        time.sleep(0.5)
    return None


def named_by_ray() -> list[tuple[psutil.Process, str]]:
    """Ray's workers and agents, with the names of what they do."""
    # A process that Ray has named fills the rest of its old command line with blanks.
    names = [(process, " ".join(process.info["cmdline"] or []).strip()) for process in psutil.process_iter(["cmdline"])]
    return [(process, name) for process, name in names if name.startswith("ray::")]


@dataclass(frozen=True)
class Job:
    """A command that is called again and again."""

    machines: Machines
    weights: str
    environment: dict[str, str]
    output: str

    def start(self) -> subprocess.Popen[str]:
        """Call the main job on the cluster; returns when its graph starts."""
        process = subprocess.Popen(
            [sys.executable, "jobs/segment_dataset.py", "--input", "s3://bucket/photos",
             "--output", f"s3://bucket/{self.output}", "--weights", self.weights,
             *SETTINGS, *(("--proposals", "2") if self.weights == "demo" else ())],
            cwd=REPOSITORY,
            env={**os.environ, **self.environment, "RAY_ADDRESS": self.machines.cluster.address},
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if "process(es) for the network" in line:
                break
        return process


def finish(process: subprocess.Popen[str]) -> int:
    """Wait for the end; returns the exit code."""
    process.communicate()
    return process.returncode


def until_done(job: Job, codes: list[int]) -> None:
    """Call the same command until it ends well."""
    while codes[-1] != 0 and len(codes) < MOST_CALLS:
        codes.append(finish(job.start()))


def play(victim: str, moment: float, job: Job, random_: random.Random) -> list[int]:
    """Start a run, harm the victim at the moment, resume; returns the exit codes of all calls."""
    process = job.start()
    try:
        process.wait(timeout=moment)
    except subprocess.TimeoutExpired:
        if victim == "driver":
            process.kill()
        elif victim == "worker":
            kill_worker(random_)
        elif victim == "frozen":
            freeze_worker(random_)
        else:
            job.machines.kill_node(random_)
    codes = [finish(process)]
    until_done(job, codes)
    return codes


def masks_of(folder: Path) -> dict[str, bytes]:
    """The masks in a run's results."""
    return {row["image_id"]: row["mask"] for row in read_results(str(folder), ["image_id", "mask"]).to_pylist()}


def make_photos(folder: Path, images: int) -> None:
    """Small images, tiles of generated scenes."""
    folder.mkdir(parents=True)
    for index in range(images):
        if index % TILES == 0:
            scene = Image.fromarray(scene_of(11, "val", index // TILES).image_HW3)
        left, top = 20 * (index % TILES), 10 * (index % TILES)
        scene.crop((left, top, left + 96, top + 96)).save(folder / f"{index:05}.jpg", quality=90)


def main() -> int:
    """Make images, segment them undisturbed, then round by round; prints JSON. Exit code 1 if anything was lost."""
    chaos = tyro.cli(Chaos, description=__doc__)
    random_ = random.Random(chaos.seed)
    rounds = []
    with tempfile.TemporaryDirectory(prefix="chaos") as temporary:
        bucket = Path(temporary, "bucket")
        make_photos(bucket / "photos", chaos.images)
        machines = Machines()
        with s3_server(temporary) as server:
            process = Job(machines, chaos.weights, server.environment, "undisturbed").start()
            started = time.monotonic()
            said, _ = process.communicate()
            assert process.returncode == 0, f"the undisturbed run failed:\n{said}"
            duration = time.monotonic() - started
            expected = masks_of(bucket / "undisturbed")
            for number in range(chaos.rounds):
                victim, moment = VICTIMS[number % len(VICTIMS)], random_.uniform(0.1, 0.9) * duration
                # In half of the rounds, with each victim in turn, the store knows single objects only.
                refused = tuple(REFUSALS) if (number + number // len(VICTIMS)) % 2 else ()
                started = time.monotonic()
                with faulty_proxy(server, rate=chaos.fault_rate, seed=chaos.seed + number, refuse=refused) as proxy:
                    job = Job(machines, chaos.weights, proxy.environment, f"round-{number}")
                    codes = play(victim, moment, job, random_)
                seconds = time.monotonic() - started
                folder = bucket / f"round-{number}"
                found = audit(str(folder), pq.read_table(folder / "run" / "manifest.parquet"))
                masks = masks_of(folder)
                differ = sum(masks.get(image_id) != mask for image_id, mask in expected.items() if image_id in masks)
                faults = json.loads((folder / "run" / "summary.json").read_text())["faults"]
                rounds.append(Round(victim, refused, round(moment, 1), codes, round(seconds, 1), found.missing,
                                    found.failed, found.duplicated, differ, faults))  # fmt: skip
                print(rounds[-1], file=sys.stderr, flush=True)
        machines.cluster.shutdown()
    bad = sum(r.lost + r.failed + r.duplicated + r.masks_that_differ for r in rounds) + sum(
        r.exit_codes[-1] != 0 for r in rounds
    )
    totals = {
        key: sum(getattr(r, key) for r in rounds) for key in ("lost", "failed", "duplicated", "masks_that_differ")
    }
    print(json.dumps({"settings": asdict(chaos), **totals, "undisturbed_seconds": round(duration, 1),
                      "rounds": [asdict(r) for r in rounds]}, indent=1))  # fmt: skip
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
