"""How many images go through the graph together: arithmetic only, no Ray here.

A block costs the driver a few hundredths of a second, and a batch an actor two messages to the attempt log, whatever
they hold. So where images are fast, many go together; where they are slow, few, since others wait for them and are lost
with their process.

Memory bounds them too. A table that leaves a stage should fit `MOST_BYTES` by the largest row that was weighed; if
later rows are larger, Ray splits it. The weighed rows may mislead, so `WORST_BYTES` must do for rows as large as rows
can be: a square image, and, after the network, probabilities of all classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.cluster.profile import Probed
from pipeline.config.stages import STAGES, Processes

BLOCK_SECONDS = 8.0  # of work on a block
BATCH_SECONDS = 2.0
LEAST_IN_BLOCK, LEAST_IN_BATCH, MOST = 16, 4, 1024
MOST_BYTES = 128 * 2**20  # Ray splits results that are larger
WORST_BYTES = 512 * 2**20
MOST_BLOCKS = 8192  # the driver holds a reference to each
BLOCKS_A_CORE = 16  # at the end, cores wait for the last blocks, so a short run has small ones


@dataclass(frozen=True)
class Batches:
    """Images that go together: in a block of the manifest, to a predict actor, to a refine actor."""

    block: int
    predict: int
    refine: int


def plan_batches(images: int, cores: int, num_classes: int, max_side: int, probed: Probed) -> Batches:
    """The sizes for a run.

    Args:
        images: of the run.
        cores: of the cluster.
        num_classes: background included.
        max_side: longest side of an image in the graph, in pixels; 0: not bounded.
        probed: what the stages did with a few images; if that is not known, few go together.
    """
    if not probed.seconds or not max_side:
        predict = refine = LEAST_IN_BATCH
        most_in_block = LEAST_IN_BLOCK
    else:
        image = 3 * max_side**2  # RGB
        predicted = image + 2 * num_classes * max_side**2  # and float16 probabilities
        most_in_block = _between(LEAST_IN_BLOCK, BLOCK_SECONDS, "tasks", probed, image)
        predict, refine = (
            _between(LEAST_IN_BATCH, BATCH_SECONDS, processes, probed, predicted) for processes in ("predict", "refine")
        )
    block = max(1, min(most_in_block, images // (BLOCKS_A_CORE * cores)), images // MOST_BLOCKS)
    return Batches(block, predict, refine)


def _between(least: int, seconds: float, processes: Processes, probed: Probed, worst_row: int) -> int:
    """At least so many images, and as many more as take so long in these processes, and fit there."""
    names = [stage.name for stage in STAGES if stage.name in probed.seconds]
    here = [stage.name for stage in STAGES if stage.processes == processes and stage.name in names]
    before = names[: names.index(here[0])][-1:]
    taken = sum(probed.seconds[name] for name in here)
    row = max(probed.row_bytes[name] for name in before + here)
    fit = min(MOST, MOST_BYTES // max(row, 1), WORST_BYTES // worst_row)
    return max(least, int(min(seconds / max(taken, 1e-6), fit)))
