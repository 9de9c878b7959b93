"""What the documentation says of GPUs and kernels, each with the figure that shows whether it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks.gpu.results import KERNEL_CHECKS, RIGHT, MissingError, Results

Holds = Literal["yes", "no", "not measured", "another GPU", "dry run"]
Found = tuple[str, bool]
"""The figure, and whether the claim holds."""


@dataclass(frozen=True)
class Claim:
    """A sentence of the documentation or of a module that only a GPU can show."""

    text: str
    where: str
    look: Callable[[Results], Found]
    only: str = ""
    """Part of the name of the GPU that the claim is about; the others' figures do not decide it."""
    any_size: bool = False
    """Whether the smallest sizes decide it, too."""


@dataclass(frozen=True)
class Verdict:
    """A claim after the measurement."""

    claim: str
    where: str
    measured: str
    holds: Holds


def verdicts(results: Results, *, quick: bool = False) -> list[Verdict]:
    """Every claim, judged by what was measured; with the smallest sizes, nearly none can be."""
    return [_verdict(claim, results, quick=quick) for claim in CLAIMS]


def _verdict(claim: Claim, results: Results, *, quick: bool) -> Verdict:
    try:
        measured, holds = claim.look(results)
        ours = claim.only in str(results.row("machine", "GPU")["value"]) if claim.only else True
    except MissingError as missing:
        return Verdict(claim.text, claim.where, f"nothing: {missing}", "not measured")
    answer: Holds = "yes" if holds else "no"
    if not ours:
        answer = "another GPU"
    elif quick and not claim.any_size:
        answer = "dry run"
    return Verdict(claim.text, claim.where, measured, answer)


def _kernels_right(results: Results) -> Found:
    rows = results.rows(KERNEL_CHECKS)
    right = sum(row["result"] == RIGHT for row in rows)
    return f"{right} of {len(rows)} checks", right == len(rows)


def _kernel_faster(kernel: str) -> Callable[[Results], Found]:
    def look(results: Results) -> Found:
        rows = [row for row in results.rows("kernels") if row["kernel"] == kernel]
        slowest = min(row["speed"] for row in rows)
        return _times(sum(row["torch, ms"] for row in rows), sum(row["kernel, ms"] for row in rows), slowest)

    return look


def _times(slow: float, fast: float, slowest: float | None = None) -> Found:
    ratio = slow / fast
    return f"{ratio:.3g} times as fast" + (f", {slowest:.3g} at the least" if slowest else ""), ratio > 1


def _faster(title: str, column: str, name: str, than: str) -> Callable[[Results], Found]:
    """Whether a row takes less time than another of the same table."""
    return lambda results: _times(results.row(title, than)[column], results.row(title, name)[column])


def _equal(title: str, name: str, column: str, least: float) -> Callable[[Results], Found]:
    def look(results: Results) -> Found:
        share = results.row(title, name)[column]
        return f"{share:.4%}", share >= least

    return look


def _about(title: str, name: str, column: str, figure: float, unit: str) -> Callable[[Results], Found]:
    """A figure of the documentation, met within a fifth."""

    def look(results: Results) -> Found:
        value = results.row(title, name)[column]
        return f"{value:.4g} {unit}", abs(value - figure) <= figure / 5

    return look


def _crf_equal(results: Results) -> Found:
    rows = [row for row in _on_device(results) if row["threshold"] == 0]
    worst = min(row["equal, worst image"] for row in rows)
    return f"{worst:.4%} in the worst image", worst >= 0.9995


def _crf_faster(results: Results) -> Found:
    """The default threshold; against the fastest backend on a core that is installed here."""
    rows = [row for row in results.rows("crf") if row["threshold"] == 0.1]
    ours = min(row["seconds"] for row in _on_device(results) if row["threshold"] == 0.1)
    other = min((row for row in rows if "cuda" not in row["backend"]), key=lambda row: row["seconds"])
    measured, holds = _times(other["seconds"], ours)
    return f"{measured} as {other['backend']} on a core", holds


def _on_device(results: Results) -> list[dict[str, float]]:
    """The rows of the CRF on the GPU; in a dry run, of torch's on the CPU."""
    rows = results.rows("crf")
    found = [row for row in rows if "cuda" in row["backend"]] or [row for row in rows if "torch" in row["backend"]]
    if not found:
        raise MissingError("torch in crf")
    return found


PERFORMANCE, ARCHITECTURE = "docs/performance.md", "docs/architecture.md"
COSTS = "docs/running_on_a_cluster.md"
GATHER = "pipeline/inference/aggregate_gpu.py"
KERNELS = "pipeline/inference/kernels.py"
H100 = "H100 80GB HBM3"
"""The PCIe cards of the same name are slower."""
MS, FORM, IMAGES = "ms a crop", "inference form", "images/s"

CLAIMS = (
    Claim("the kernels compute what torch's operations do", ARCHITECTURE, _kernels_right, any_size=True),
    Claim("bias and ReLU in one pass is faster than torch", KERNELS, _kernel_faster("bias and ReLU")),
    Claim("bias, ReLU and pooling in one pass is faster than torch", KERNELS, _kernel_faster("bias, ReLU, pooling")),
    Claim("unpooling with one-byte switches is faster than torch", KERNELS, _kernel_faster("unpooling")),
    *(
        Claim(f"the network with kernels and graph is faster than {than}, {size}, {dtype}", where,
              _faster(f"network, {size}", MS, f"{dtype}, {FORM}", f"{dtype}, {FORM} {than}"))
        for size in ("wide", "narrow")
        for dtype in ("float32", "bfloat16")
        for than, where in (("without graph", "pipeline/inference/graphs.py"), ("without kernels", ARCHITECTURE))
    ),
    *(
        Claim(f"the inference form is faster than the network as written, {size}, float32", PERFORMANCE,
              _faster(f"network, {size}", MS, f"float32, {FORM}", "float32, as written"))
        for size in ("wide", "narrow")
    ),
    Claim("--precision bfloat16 is faster than float32, wide", PERFORMANCE,
          _faster("network, wide", MS, f"bfloat16, {FORM}", f"float32, {FORM}")),
    Claim("--precision bfloat16 gives 99.5 % of float32's labels or more", PERFORMANCE,
          _equal("labels, demo", "bfloat16", "equal labels", 0.995)),
    Claim("the same with the networks of `voc`", PERFORMANCE, _equal("labels, voc", "bfloat16", "equal labels", 0.995)),
    Claim("a GPU gives a CPU's labels in float32 (99.9 %, without TF32)", PERFORMANCE,
          _equal("labels, demo", "float32 without TF32", "equal labels", 0.999)),
    Claim("with torch's default, TF32 in convolutions, 99.5 % or more", PERFORMANCE,
          _equal("labels, demo", "float32, torch's default", "equal labels", 0.995)),
    *(
        Claim(f"aggregation by one kernel is faster than window by window, {dtype}", GATHER,
              _faster(f"aggregation, {dtype}", "ms an image", "one kernel", "window by window"))
        for dtype in ("float32", "bfloat16")
    ),
    Claim("two calls at once are faster than one call at a time", ARCHITECTURE,
          _faster("images, bfloat16", "ms an image", "network, two calls at once", "network, one call at a time")),
    *(
        Claim(f"an H100 does about {figure:g} images/s at 50 proposals, {dtype}", COSTS,
              _about(f"images, {dtype}", "network, two calls at once", IMAGES, figure, IMAGES), only=H100)
        for dtype, figure in (("float32", 60), ("bfloat16", 104))
    ),
    Claim("--crf torch gives the CPU's labels", "pipeline/config/stages.py", _crf_equal),
    Claim("--crf torch is for GPUs: faster there than a core", PERFORMANCE, _crf_faster),
    Claim("training in bfloat16 is faster than in float32", "docs/training.md",
          _faster("training step, wide", MS, "bfloat16", "float32")),
    Claim("an H100 takes about 480 windows/s in training at full width, bfloat16", PERFORMANCE,
          _about("training step, wide", "bfloat16", "windows/s", 480, "windows/s"), only=H100),
    Claim("--crf torch does about 11 images/s on an H100", COSTS,
          _about("images, bfloat16", "CRF (torch)", IMAGES, 11.5, IMAGES), only=H100),
)  # fmt: skip
