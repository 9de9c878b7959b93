"""How many images go through the graph together: arithmetic only, no Ray here.

A block costs the driver a few hundredths of a second, and a batch an actor two messages to the attempt log, whatever
they hold. So where images are fast, many go together; where they are slow, few, since others wait for them and are lost
with their process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BLOCK_SECONDS = 8.0  # of work on a block
BATCH_SECONDS = 2.0
LEAST_IN_BLOCK, LEAST_IN_BATCH, MOST = 16, 4, 256
MOST_BYTES = 128 * 2**20  # Ray splits results that are larger; photographs are smaller than the square of their side
MOST_BLOCKS = 8192  # the driver holds a reference to each
BLOCKS_A_CORE = 16  # at the end, cores wait for the last blocks, so a short run has small ones


@dataclass(frozen=True)
class Batches:
    """Images that go together: in a block of the manifest, to a predict actor, to a refine actor."""

    block: int
    predict: int
    refine: int


def plan_batches(
    images: int, cores: int, num_classes: int, max_side: int, seconds: Mapping[str, float] | None = None
) -> Batches:
    """The sizes for a run.

    Args:
        images: of the run.
        cores: of the cluster.
        num_classes: background included.
        max_side: longest side of an image in the graph, in pixels; 0: not bounded.
        seconds: of an image in each stage (`profile.probe`); None or empty: not known, so few go together.
    """
    pixels = max_side**2
    if not seconds or not pixels:
        predict = refine = LEAST_IN_BATCH
        most_in_block = LEAST_IN_BLOCK
    else:
        fit = MOST_BYTES // (2 * num_classes * pixels)  # with float16 probabilities
        predict, refine = (
            _between(LEAST_IN_BATCH, BATCH_SECONDS / max(seconds[stage], 1e-6), min(MOST, fit))
            for stage in ("predict", "refine")
        )
        in_tasks = sum(taken for stage, taken in seconds.items() if stage not in ("predict", "refine"))
        most_in_block = _between(
            LEAST_IN_BLOCK, BLOCK_SECONDS / max(in_tasks, 1e-6), min(MOST, 2 * MOST_BYTES // (3 * pixels))
        )
    block = max(1, min(most_in_block, images // (BLOCKS_A_CORE * cores)), images // MOST_BLOCKS)
    return Batches(block, predict, refine)


def _between(least: int, wanted: float, most: int) -> int:
    return max(least, int(min(wanted, most)))
