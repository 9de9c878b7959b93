"""Pool sizes: every plan leaves room for tasks, and what does not fit is refused with the arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.pools import PoolError, check_placement, plan_pools


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
    with pytest.raises(PoolError, match=r"4 predict x 0.5 \+ 1 refine x 0.25 CPUs leave -0.25 of the cluster's 2"):
        plan_pools(2, 0, 4, 0)


def test_more_predict_actors_than_gpus_are_refused():
    with pytest.raises(PoolError, match=r"3 predict worker\(s\) x 1 GPU need 3 GPUs, the cluster has 2"):
        plan_pools(32, 2, 3, 0)


def test_several_actors_may_share_a_gpu():
    pools = plan_pools(32, 4, 0, 0, predict_gpus=0.5)
    assert (pools.predict_workers, pools.predict_gpus) == (8, 0.5)
    check_placement(pools, [{"CPU": 8, "GPU": 1}] * 4)


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
