"""How many images go together: properties, over all runs."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster.batches import LEAST_IN_BATCH, LEAST_IN_BLOCK, MOST, Batches, plan_batches
from pipeline.cluster.profile import Probed
from pipeline.config.stages import STAGES

NAMES = [stage.name for stage in STAGES]
seconds = st.fixed_dictionaries({name: st.floats(0, 20) for name in NAMES})
sizes = st.fixed_dictionaries({name: st.integers(1, 10**8) for name in NAMES})
images, cores = st.integers(1, 10**7), st.integers(1, 5000)
classes, sides = st.integers(2, 254), st.sampled_from([0, 64, 500, 640, 2000])
LIGHT = dict.fromkeys(NAMES, 100)
PHOTOGRAPHS = {"decode": 563_000, "propose": 564_000, "predict": 2_600_000, "refine": 5_000}
"""500 by 375 pixels; five classes go on to the CRF."""


@given(images, cores, classes, sides, seconds, sizes)
def test_no_wait_no_loss_and_no_memory_is_large(images, cores, classes, side, seconds, sizes):
    found = plan_batches(images, cores, classes, side, Probed(seconds, sizes))
    assert 1 <= found.block <= max(1, images // min(8192, 16 * cores))  # cores have work until the end
    for size, stage, before in ((found.predict, "predict", "propose"), (found.refine, "refine", "predict")):
        assert LEAST_IN_BATCH <= size <= MOST
        assert size == LEAST_IN_BATCH or size * seconds[stage] <= 2.0
        assert size == LEAST_IN_BATCH or size * max(sizes[before], sizes[stage]) <= 2**27
        assert size == LEAST_IN_BATCH or size * (3 + 2 * classes) * side**2 <= 2**29
    if found.block > max(LEAST_IN_BLOCK, images // 8192):
        assert found.block * (seconds["decode"] + seconds["propose"]) <= 8.0
        assert found.block * max(sizes["decode"], sizes["propose"]) <= 2**27
        assert found.block * 3 * side**2 <= 2**29


@given(images, cores, classes, sides, seconds, sizes)
def test_slower_or_larger_rows_never_go_in_greater_numbers(images, cores, classes, side, seconds, sizes):
    slower = {stage: 2 * taken + 0.01 for stage, taken in seconds.items()}
    larger = {stage: 2 * size for stage, size in sizes.items()}
    found = plan_batches(images, cores, classes, side, Probed(seconds, sizes))
    for other in (Probed(slower, sizes), Probed(seconds, larger)):
        fewer = plan_batches(images, cores, classes, side, other)
        assert fewer.block <= found.block
        assert fewer.predict <= found.predict
        assert fewer.refine <= found.refine


def test_what_is_not_known_is_taken_for_slow():
    slow = dict.fromkeys(NAMES, 9.0)
    for known in (Probed(), Probed(slow, LIGHT)):
        assert plan_batches(10**5, 2, 21, 640, known) == Batches(16, 4, 4)
    assert plan_batches(10**5, 2, 21, 0, Probed(dict.fromkeys(slow, 0.001), LIGHT)) == Batches(16, 4, 4)  # of any size


def test_a_driver_holds_a_bounded_number_of_blocks():
    assert plan_batches(10**8, 2, 21, 640, Probed()).block >= 10**8 // 8192


def test_photographs_on_gpus():
    """10 ms for the network, 0.3 s for the CRF, 0.2 s before: tasks of 8 s, and as many rows as fit 128 MB."""
    taken = {"decode": 0.02, "propose": 0.18, "predict": 0.01, "refine": 0.3}
    assert plan_batches(10**6 // 4, 400, 21, 500, Probed(taken, PHOTOGRAPHS)) == Batches(39, 47, 6)


def test_a_run_without_the_filter_knows_nothing_of_it():
    taken = {"decode": 0.0, "propose": 0.0, "predict": 0.0, "refine": 0.0}
    small = dict.fromkeys(taken, 100_000)
    assert plan_batches(10**6, 2, 2, 320, Probed(taken, small)) == Batches(MOST, 748, 748)
