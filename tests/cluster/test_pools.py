"""Pool sizes: every plan leaves room for tasks, and what does not fit is refused with the arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster.pools import Pools, check_placement, estimate, machines_in_short, plan_pools
from pipeline.config.stages import STAGES
from pipeline.errors import PoolError


@given(st.integers(1, 512), st.integers(0, 64))
def test_a_plan_of_its_own_always_fits(cpus, gpus):
    if gpus > cpus / 3:
        return  # more GPUs than such machines have for their CPUs: refused below
    pools = plan_pools(cpus, gpus, 0, 0)
    held = pools.predict_workers * pools.predict_cpus + pools.refine_workers * pools.refine_cpus
    assert held + pools.task_cpus <= cpus
    assert pools.predict_workers * pools.predict_gpus <= gpus
    assert pools.predict_workers >= 1
    assert pools.refine_workers >= 1


@given(st.integers(1, 64), st.integers(0, 8), st.integers(0, 100), st.integers(0, 100))
def test_a_plan_that_is_given_fits_whatever_was_asked(cpus, gpus, predict, refine):
    try:
        pools = plan_pools(cpus, gpus, predict, refine)
    except PoolError:
        return
    held = pools.predict_workers * pools.predict_cpus + pools.refine_workers * pools.refine_cpus
    assert held + pools.task_cpus <= cpus
    assert pools.predict_workers == (predict or pools.predict_workers)
    assert pools.refine_workers == (refine or pools.refine_workers)


SLOW_CRF = {"decode": 0.01, "propose": 0.09, "predict": 0.1, "refine": 1.0}


def test_one_predict_actor_a_gpu():
    pools = plan_pools(32, 4, 0, 0)
    assert (pools.predict_workers, pools.predict_gpus) == (4, 1.0)


def test_stages_ask_for_different_resources_so_that_ray_does_not_fuse_them():
    for cpus, gpus in ((1, 0), (2, 0), (16, 0), (32, 4)):
        pools = plan_pools(cpus, gpus, 0, 0)
        shares = [(pools.predict_cpus, pools.predict_gpus), (pools.refine_cpus, 0.0), (pools.task_cpus, 0.0)]
        assert len(set(shares[:2])) == 2
        assert pools.predict_cpus != pools.task_cpus or pools.predict_gpus


def test_actors_that_take_every_cpu_are_refused_with_the_arithmetic():
    with pytest.raises(PoolError, match=r"8 predict x 0.25 \+ 1 refine x 0.125 CPUs leave -0.125 of the cluster's 2"):
        plan_pools(2, 0, 8, 0)


def test_more_predict_actors_than_gpus_are_refused():
    with pytest.raises(PoolError, match=r"3 predict worker\(s\) x 1 GPU need 3 GPUs, the cluster has 2"):
        plan_pools(32, 2, 3, 0)


def test_several_actors_may_share_a_gpu():
    pools = plan_pools(32, 4, 0, 0, predict_gpus=0.5)
    assert (pools.predict_workers, pools.predict_gpus) == (8, 0.5)
    check_placement(pools, [{"CPU": 8, "GPU": 1}] * 4)


def test_a_crf_on_gpus_leaves_room_for_itself_beside_the_network():
    pools = plan_pools(32, 4, 0, 0, seconds=SLOW_CRF, refine_gpus=0.1)
    assert (pools.predict_workers, pools.predict_gpus) == (4, 0.8)
    assert (pools.refine_workers, pools.refine_gpus) == (8, 0.1)
    check_placement(pools, [{"CPU": 8, "GPU": 1}] * 4)
    assert "8 actor(s) of 0.9 CPU and 0.1 GPU" in pools.describe()
    with pytest.raises(PoolError, match=r"4 predict worker\(s\) x 1 GPU \+ 1 refine worker\(s\) x 0.1 GPU need more"):
        plan_pools(32, 4, 0, 0, predict_gpus=1, refine_gpus=0.1)
    with pytest.raises(PoolError, match=r"0\.9 CPU and 0\.1 GPU left for a refine actor"):
        check_placement(pools, [{"CPU": 28, "GPU": 0}, *[{"CPU": 1, "GPU": 1}] * 4])


def test_gpus_that_are_asked_for_and_missing_are_refused():
    with pytest.raises(PoolError, match="need 1 GPUs, the cluster has 0"):
        plan_pools(32, 0, 1, 0, predict_gpus=1)


def test_the_sum_may_fit_where_no_machine_does():
    pools = plan_pools(16, 4, 0, 0, predict_gpus=2)
    check_placement(pools, [{"CPU": 8, "GPU": 2}, {"CPU": 8, "GPU": 2}])
    with pytest.raises(PoolError, match="1 CPU and 2 GPU left for a predict actor"):
        check_placement(pools, [{"CPU": 4, "GPU": 1}] * 4)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2)), min_size=1, max_size=4))
def test_what_is_placed_fits_on_the_machines(nodes):
    machines = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes]
    try:
        pools = plan_pools(sum(c for c, _ in nodes), sum(g for _, g in nodes), 0, 0)
        check_placement(pools, machines)
    except PoolError:
        return
    assert sum(c >= pools.predict_cpus and g >= pools.predict_gpus for c, g in nodes) >= 1
    assert max(c for c, _ in nodes) >= pools.task_cpus


SECONDS = st.fixed_dictionaries({stage.name: st.floats(0.001, 30) for stage in STAGES})


@given(st.integers(1, 512), st.integers(0, 64), SECONDS)
def test_a_measured_plan_fits_and_promises_what_the_cores_can_do(cpus, gpus, seconds):
    if gpus > cpus / 3:
        return
    pools = plan_pools(cpus, gpus, 0, 0, seconds=seconds)
    held = pools.predict_workers * pools.predict_cpus + pools.refine_workers * pools.refine_cpus
    assert held + pools.task_cpus <= cpus + 1e-9
    on_cpus = sum(seconds.values()) - (seconds["predict"] if gpus else 0)
    assert estimate(pools, cpus, seconds).images_per_second <= cpus / on_cpus * (1 + 1e-9)


@given(st.integers(2, 512), SECONDS)
def test_without_gpus_no_stage_is_slower_than_all_cores_together(cpus, seconds):
    """Where the stages share the cores, a pool that is too small would leave cores idle."""
    pools = plan_pools(cpus, 0, 0, 0, seconds=seconds)
    rate = cpus / sum(seconds.values())
    assert pools.predict_workers / seconds["predict"] >= rate * (1 - 1e-9)
    assert pools.refine_workers / seconds["refine"] >= rate * (1 - 1e-9)


def test_the_crf_gets_what_keeps_up_with_the_gpus_and_no_more():
    fast = {"decode": 0.01, "propose": 0.09, "predict": 0.5, "refine": 1.0}
    pools = plan_pools(64, 4, 0, 0, seconds=fast)  # four GPUs give 8 images a second: the CRF needs 8 processes
    assert (pools.predict_workers, pools.refine_workers) == (4, 8)
    assert estimate(pools, 64, fast).bound == "predict"
    slow = fast | {"predict": 0.01}  # 400 a second: the 60 CPUs left are the bound, and 10 / 11 of them are the CRF's
    pools = plan_pools(64, 4, 0, 0, seconds=slow)
    assert pools.refine_workers == 55
    assert estimate(pools, 64, slow).images_per_second == pytest.approx(55, rel=0.1)


@given(
    st.lists(st.integers(1, 8), min_size=1, max_size=5),
    st.integers(1, 4),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
)
def test_a_task_finds_room_wherever_the_actors_stand(cpus, predict, refine, random):
    """Three machines of one CPU, an actor on each: a task of one CPU would wait for ever."""
    machines = [{"CPU": float(cpu), "GPU": 0.0} for cpu in cpus]
    try:
        pools = check_placement(plan_pools(sum(cpus), 0, predict, refine), machines)
    except PoolError:
        return
    free = [float(cpu) for cpu in cpus]
    for share in [pools.predict_cpus] * predict + [pools.refine_cpus] * refine:
        room = [i for i, left in enumerate(free) if left >= share]
        if not room:
            return  # this order of placing does not fit all actors
        free[random.choice(room)] -= share
    assert max(free) >= pools.task_cpus - 1e-9


def test_small_machines_get_small_tasks():
    pools = Pools(1, 0.5, 0.0, 1, 0.25, 1.0)
    assert check_placement(pools, [{"CPU": 1.0}] * 3).task_cpus == 0.4
    assert check_placement(pools, [{"CPU": 2.0}]).task_cpus == 1.0


def test_a_clusters_machines_in_a_line():
    plain = {"CPU": 2.0, "memory": 1e9, "node:10.0.0.1": 1.0}
    assert machines_in_short([plain]) == "1 machine(s), 2 CPUs"
    with_gpus = {"CPU": 96.0, "GPU": 8.0, "accelerator_type:A100": 1.0}
    assert machines_in_short([plain, with_gpus, with_gpus]) == "3 machine(s), 194 CPUs, 16 GPUs (A100)"
    assert machines_in_short([{"CPU": 8.0, "GPU": 1.0}]) == "1 machine(s), 8 CPUs, 1 GPUs"
    assert machines_in_short([]) == "0 machine(s), 0 CPUs"
