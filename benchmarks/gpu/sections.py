"""The sections of the measurement, in the order in which they run, each with the seconds that it may take at most.

What decides most comes first, of that the short ones first; a section that finds no time is named in the report. On an
H100 with 16 cores all of them take about five and a half minutes, worked out from those that ran there.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import aggregate, crf, crops, network, step
from benchmarks.config import Aggregate, Crf, Crops, Network, Step
from benchmarks.gpu import images
from benchmarks.gpu.results import KERNEL_CHECKS, RIGHT, Table
from benchmarks.gpu.sizes import Sizes
from benchmarks.timing import fast_dtypes
from pipeline.config.stages import Precision

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


@dataclass(frozen=True)
class Part:
    """One section: what it computes, and its limit in seconds."""

    limit: float
    tables: Callable[[Sizes], Iterator[Table]]


def machine(sizes: Sizes) -> Iterator[Table]:
    """The device, the versions, and whether Triton compiles."""
    from pipeline.inference.self_test import triton_compiles

    device = torch.device(sizes.device)
    facts: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    facts["triton"] = _triton_version()
    facts["cores"] = f"{os.cpu_count()} of {platform.processor() or platform.machine()}"
    if sizes.device == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "GPU": properties.name, "memory, GiB": properties.total_memory / 2**30,
            "compute capability": f"{properties.major}.{properties.minor}", "CUDA": str(torch.version.cuda),
            "driver": _driver(), "cuDNN": str(torch.backends.cudnn.version()),
        }  # fmt: skip
    facts["Triton compiles"] = "in its interpreter" if sizes.interpreted else str(triton_compiles(device))
    facts["TF32 in convolutions"] = str(torch.backends.cudnn.allow_tf32)
    facts["TF32 in matrix products"] = str(torch.backends.cuda.matmul.allow_tf32)
    facts["NVIDIA_TF32_OVERRIDE"] = os.environ.get("NVIDIA_TF32_OVERRIDE", "not set")
    yield Table("machine", [{"what": name, "value": value} for name, value in facts.items()])


def kernel_checks(sizes: Sizes) -> Iterator[Table]:
    """Each kernel against torch."""
    from benchmarks.gpu.kernel_checks import checks

    for name, check in checks(torch.device(sizes.device), quick=sizes.quick):
        try:
            check()
        except AssertionError as error:
            found = f"WRONG: {' '.join(str(error).split())[:300]}"
        except Exception as error:  # does not compile or start: the other checks still tell something
            found = f"FAILED: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        else:
            found = RIGHT
        yield Table(KERNEL_CHECKS, [{"kernel": name, "result": found}])


def kernel_times(sizes: Sizes) -> Iterator[Table]:
    """Each kernel against torch's operations."""
    from benchmarks.gpu import kernel_times as times

    device = torch.device(sizes.device)
    rows = times.run(sizes.wide, sizes.proposals, torch.bfloat16, device, sizes.seconds / 10)
    yield Table("kernels", rows, f"bfloat16, maps of the network of width {sizes.wide:g}")


def wide_network(sizes: Sizes) -> Iterator[Table]:
    """Forms of the paper's network."""
    return _network("network, wide", sizes, sizes.wide, interpreted=sizes.interpreted)


def narrow_network(sizes: Sizes) -> Iterator[Table]:
    """Forms of the narrow network."""
    return _network("network, narrow", sizes, sizes.narrow, interpreted=False)  # in a dry run once is enough


def _network(title: str, sizes: Sizes, width: float, *, interpreted: bool) -> Iterator[Table]:
    config = Network(
        width=width, classes=sizes.classes, micro_batch=1 if sizes.quick else sizes.proposals, seconds=sizes.seconds,
        matrix_side=sizes.matrix_side, device=sizes.device,
    )  # fmt: skip
    what = f"width {width:g}, {config.micro_batch} crops at once; the floor is a matrix product of as many operations"
    rows = network.run(config, interpreted=interpreted)
    yield Table(title, rows, f"{what}; TF32 as torch allows it by default: in convolutions and in the floor")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        rows = [row for row in network.run(config) if row["form"].startswith("float32")]
    yield Table(f"{title}, without TF32", rows, what)


def whole_images(sizes: Sizes) -> Iterator[Table]:
    """Images a second."""
    height, width = sizes.image
    note = (
        f"synthetic images of {width}x{height} pixels, {sizes.proposals} proposals each, {sizes.at_once} images a "
        "call, network of random weights with all classes copied to the CPU; decoding, proposals and writing are left "
        "out. The CRF has other scores, a few classes each"
    )
    for precision in reversed(_precisions(sizes)):
        yield Table(f"images, {precision}", images.speed(sizes, precision), note)


def labels(sizes: Sizes) -> Iterator[Table]:
    """Labels against float32 on a CPU."""
    note = "before the CRF; {}, of which the CPU computes the reference"
    yield Table("labels, demo", images.demo_labels(sizes), note.format("three scenes of the demo and its network"))
    yield Table("labels, voc", images.voc_labels(sizes), note.format("the same scenes, networks of `voc`"))


def crop_path(sizes: Sizes) -> Iterator[Table]:
    """Crops and aggregation beside the network."""
    for precision in _precisions(sizes):
        config = Crops(
            width=sizes.wide, classes=sizes.classes, micro_batch=sizes.proposals, seconds=sizes.seconds,
            device=sizes.device, proposals=sizes.proposals, image=sizes.image, precision=precision,
        )  # fmt: skip
        yield Table(f"crops, {precision}", crops.run(config), f"width {sizes.wide:g}, {sizes.proposals} proposals")


def aggregation(sizes: Sizes) -> Iterator[Table]:
    """One kernel against window by window."""
    for precision in PRECISIONS:
        config = Aggregate(
            classes=sizes.classes, proposals=sizes.proposals, image=sizes.image, precision=precision,
            seconds=sizes.seconds, device=sizes.device,
        )  # fmt: skip
        yield Table(f"aggregation, {precision}", aggregate.run(config, interpreted=sizes.interpreted))


def training_step(sizes: Sizes) -> Iterator[Table]:
    """Forward, backward and SGD."""
    for name, width in (("wide", sizes.wide), ("narrow", sizes.narrow)):
        config = Step(
            width=width, classes=sizes.classes, micro_batch=sizes.training_batch, seconds=sizes.seconds,
            matrix_side=sizes.matrix_side, device=sizes.device,
        )  # fmt: skip
        rows = [row | {"windows/s": 1e3 / row["ms a crop"]} for row in step.run(config)]
        yield Table(f"training step, {name}", rows, f"width {width:g}, {config.micro_batch} windows at once")


def dense_crf(sizes: Sizes) -> Iterator[Table]:
    """The CRF's backends; the first row is the reference. Torch takes a core up to seven seconds an image."""
    config = Crf(limit=sizes.crf_images, batch=sizes.crf_images, image=sizes.image)
    rows = [{"form": f"{row['backend']}, threshold {row['threshold']:g}"} | row for row in crf.run(config)]
    missing = [name for name in ("native", "pydensecrf") if all(row["backend"] != name for row in rows)]
    note = "labels are compared with the first row's, on the CPU, with all classes"
    yield Table("crf", rows, f"{note}; not installed here: {', '.join(missing)}" if missing else note)


SECTIONS: dict[str, Part] = {
    "machine": Part(40, machine),
    KERNEL_CHECKS: Part(100, kernel_checks),
    "kernels": Part(40, kernel_times),
    "aggregation": Part(40, aggregation),
    "network, wide": Part(90, wide_network),
    "images": Part(90, whole_images),
    "labels": Part(60, labels),
    "training step": Part(60, training_step),
    "crf": Part(60, dense_crf),
    "network, narrow": Part(60, narrow_network),
    "crops": Part(50, crop_path),
}


def run_section(name: str, sizes: Sizes) -> Iterator[Table]:
    """The tables of a section as they are measured; the process is set up as a worker of the job is."""
    torch.set_num_threads(1)
    if sizes.interpreted:
        from pipeline.inference import kernels

        kernels.BLOCK = 2**15  # the interpreter's time goes by blocks
    yield from SECTIONS[name].tables(sizes)


def _precisions(sizes: Sizes) -> list[Precision]:
    """Without bfloat16 on a CPU that has no instructions for it: a dry run would take minutes."""
    return [one for one in PRECISIONS if one in fast_dtypes(torch.device(sizes.device))]


def _triton_version() -> str:
    try:
        import triton
    except ImportError as error:
        return f"none ({error})"
    return str(triton.__version__)


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({type(error).__name__})"
