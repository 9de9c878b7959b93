"""How many images go together: properties, over all runs."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster.batches import LEAST_IN_BATCH, LEAST_IN_BLOCK, MOST, Batches, plan_batches
from pipeline.config.stages import STAGES

seconds = st.fixed_dictionaries({stage.name: st.floats(0, 20) for stage in STAGES})
images, cores = st.integers(1, 10**7), st.integers(1, 5000)
classes, sides = st.integers(2, 254), st.sampled_from([0, 64, 500, 640, 2000])


@given(images, cores, classes, sides, seconds)
def test_no_wait_no_loss_and_no_memory_is_large(images, cores, classes, side, seconds):
    found = plan_batches(images, cores, classes, side, seconds)
    assert 1 <= found.block <= max(1, images // min(8192, 16 * cores))  # cores have work until the end
    for size, stage in ((found.predict, "predict"), (found.refine, "refine")):
        assert LEAST_IN_BATCH <= size <= MOST
        assert size == LEAST_IN_BATCH or size * seconds[stage] <= 2.0
        assert size == LEAST_IN_BATCH or size * classes * side * side * 2 <= 2**27
    if found.block > max(LEAST_IN_BLOCK, images // 8192):
        assert found.block * (seconds["decode"] + seconds["propose"]) <= 8.0


@given(images, cores, classes, sides, seconds)
def test_slower_stages_never_get_more_at_once(images, cores, classes, side, seconds):
    slower = {stage: 2 * taken + 0.01 for stage, taken in seconds.items()}
    fast, slow = (plan_batches(images, cores, classes, side, one) for one in (seconds, slower))
    assert (slow.block, slow.predict, slow.refine) <= (fast.block, fast.predict, fast.refine)
    assert slow.block <= fast.block
    assert slow.predict <= fast.predict
    assert slow.refine <= fast.refine


def test_what_is_not_known_is_taken_for_slow():
    slow = dict.fromkeys([stage.name for stage in STAGES], 9.0)
    for known in (None, {}, slow):
        assert plan_batches(10**5, 2, 21, 640, known) == Batches(16, 4, 4)
    assert plan_batches(10**5, 2, 21, 0, dict.fromkeys(slow, 0.001)) == Batches(16, 4, 4)  # of any size


def test_a_driver_holds_a_bounded_number_of_blocks():
    assert plan_batches(10**8, 2, 21, 640).block >= 10**8 // 8192


def test_photographs_on_gpus():
    """10 ms for the network, 0.3 s for the CRF, 0.2 s before: tasks of 8 s, and as many score maps as fit 128 MB."""
    taken = {"decode": 0.02, "propose": 0.18, "predict": 0.01, "refine": 0.3}
    assert plan_batches(10**6 // 4, 400, 21, 500, taken) == Batches(39, 12, 6)
