"""Lower bounds: each is attained in a world made for it; tests/invariants holds that none is ever beaten."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hydrasim import Bus, Cluster, Device, Link, Shard, TrainingJob, Workload, simulate
from hydrasim.errors import HydraError
from hydrasim.mechanism import EFFECTS, Effects
from hydrasim.optimum.bounds import loaded_bytes, lower_bounds, stored_bytes
from hydrasim.optimum.solution import find_optimum
from hydrasim.policies import policies
from hydrasim.profile import StatedCosts
from tests.hydrasim.optimum.worlds import CurveCosts, curves
from tests.invariants.strategies import World, worlds
from tests.worlds import BLOCK, BYTE_A_SECOND, devices, fig6, heavy, job, workload


def bounds(jobs: Workload, cluster: Cluster, effects: Effects = "theory") -> dict[str, float]:
    return lower_bounds(jobs, cluster, StatedCosts(jobs, cluster), effects)


def best_s(jobs: Workload, cluster: Cluster, effects: Effects = "theory") -> float:
    """Return the best makespan that is found."""
    return find_optimum(jobs, cluster, effects=effects).makespan_s


def single(name: str, seconds: float, **fields: object) -> TrainingJob:
    """Return a job of one unit."""
    return TrainingJob(name, (Shard(0.0, seconds),), 1, **fields)


def test_the_bounds_of_fig6():
    # three jobs of 4 s each on two devices: no job in less than 4, 12 s of work in no less than 6
    assert bounds(fig6(), devices(2)) == {"longest_job": 4.0, "area": 6.0, "longest_jobs": 6.0, "whole_units": 6.0}
    assert best_s(fig6(), devices(2)) == 6.0


def test_the_longest_job_counts_from_its_arrival():
    jobs = workload(single("A", 2.0), single("B", 2.0, arrival_s=3.0))
    assert bounds(jobs, devices(2))["longest_job"] == 5.0 == best_s(jobs, devices(2))


def test_area_is_spread_over_as_many_devices_as_there_are_jobs():
    # two jobs cannot keep four devices busy: 8 s of work take 4
    jobs = workload(job("A", shards=2), job("B", shards=2))
    assert bounds(jobs, devices(4))["area"] == 4.0 == best_s(jobs, devices(4))


def test_area_knows_what_slow_devices_get_done():
    # speeds 2 and 1: 12 s of work on the reference, 3 a second
    cluster = Cluster((Device(1, speed=2.0), Device(1, speed=1.0)))
    jobs = workload(*(single(name, 4.0) for name in "ABC"))
    assert bounds(jobs, cluster)["area"] == 4.0 == best_s(jobs, cluster)


def test_few_long_jobs_bind_where_fast_devices_are_fewer_still():
    # speeds 4, 1, 1: the two long jobs, 10 s of work each, get 4 + 1 at most: 20 / 5; all 21 of them 21 / 6
    cluster = Cluster((Device(1, speed=4.0), Device(1), Device(1)))
    jobs = workload(job("A", seconds=0.5, minibatches=10), job("B", seconds=0.5, minibatches=10), single("C", 1.0))
    found = bounds(jobs, cluster)
    assert (found["longest_job"], found["longest_jobs"], found["area"]) == (2.5, 4.0, 3.5)


def test_what_arrives_late_has_less_time():
    # from 6 on three jobs of 2 s on two devices
    jobs = workload(single("A", 1.0), *(single(name, 2.0, arrival_s=6.0) for name in "BCD"))
    found = bounds(jobs, devices(2))
    assert (found["area"], found["longest_jobs"]) == (3.5, 9.0)


def test_whole_units_do_not_split():
    # three units of 3 s on two devices: the area is 4.5, yet one device runs two of them
    jobs = workload(*(single(name, 3.0) for name in "ABC"))
    found = bounds(jobs, devices(2))
    assert (found["area"], found["whole_units"]) == (4.5, 6.0)
    assert best_s(jobs, devices(2)) == 6.0


def test_whole_units_wait_for_what_comes_before_them():
    # the same, with 1 s before each and 1 s behind: F0 1, L1 3, B0 1
    shards = (Shard(1.0, 1.0), Shard(1.0, 2.0))
    jobs = workload(*(TrainingJob(name, shards, 1, activation_mode="keep") for name in "ABC"))
    assert bounds(jobs, devices(2))["whole_units"] == 1.0 + 6.0 + 1.0


def test_with_one_device_all_units_follow_each_other():
    assert bounds(fig6(), devices(1))["whole_units"] == 12.0


def test_very_many_units_are_not_looked_at_one_by_one():
    assert "whole_units" not in bounds(workload(job(minibatches=5000)), devices(2))


def ends_s(shard: Shard, *, fused: bool, **fields: object) -> float:
    jobs = workload(TrainingJob("A", (shard,), 1, fused=fused, activation_mode="keep", **fields))
    return bounds(jobs, devices(1, link=BYTE_A_SECOND), "transfers")["longest_job"]


def test_with_transfers_state_arrives_before_and_leaves_after():
    # h2d wwoo    . .        64 + 64 bytes in, at a byte a second
    # comp     L             2 s
    # d2h        wwoo        and out again
    assert ends_s(Shard(1.0, 1.0, BLOCK, BLOCK), fused=True) == 128 + 2 + 128


def test_an_unfused_first_unit_does_not_wait_for_optimizer_state():
    # h2d ww oo              the optimizer's half may arrive under F
    # comp   F B             so the bound counts the parameters alone before F
    assert ends_s(Shard(1.0, 1.0, BLOCK, BLOCK), fused=False) == 64 + 2 + 128


def test_a_slow_loader_counts_instead_of_a_quicker_load():
    assert ends_s(Shard(1.0, 1.0, BLOCK), fused=True, fetch_s=100.0) == 100 + 2 + 64


def test_bytes_that_do_not_exist_cost_no_latency():
    jobs = workload(job())
    assert bounds(jobs, devices(1, link=Link(latency_s=1.0)), "transfers")["longest_job"] == 2.0


def test_area_too_begins_with_a_load_and_ends_with_a_store():
    # one device, two jobs: the second's load and the first's store are hidden
    jobs = workload(heavy("A"), heavy("B"))
    cluster = devices(1, blocks=2, link=BYTE_A_SECOND)
    assert bounds(jobs, cluster, "transfers")["area"] == 64 + 128 + 64 == best_s(jobs, cluster, "transfers")


def test_what_does_not_fit_is_loaded_in_every_pass():
    # three shards of a block each, room for two: a forward of two finds both at best, a backward misses one
    large = heavy("A", shards=3, minibatches=5)
    assert loaded_bytes(large, 2 * BLOCK) == 5 * BLOCK
    assert loaded_bytes(large, 1 * BLOCK) == 5 * (1 + 2) * BLOCK
    assert loaded_bytes(large, 9 * BLOCK) == 3 * BLOCK  # once, and it stays


def test_what_does_not_fit_is_stored_after_every_update():
    large = heavy("A", shards=3, minibatches=5)
    assert stored_bytes(large, 2 * BLOCK) == (4 * 1 + 3) * BLOCK
    assert stored_bytes(large, 9 * BLOCK) == 3 * BLOCK


def test_loads_bind_where_links_are_slow():
    # four jobs that compute nothing, one device: four loads one after the other, and the last one's store
    jobs = workload(*(heavy(name, compute_s=0.0) for name in "ABCD"))
    cluster = devices(1, blocks=4, link=BYTE_A_SECOND)
    found = bounds(jobs, cluster, "transfers")
    assert found["loads"] == found["stores"] == 4 * 64 + 64 == best_s(jobs, cluster, "transfers")


def test_stores_bind_where_the_way_back_is_slow():
    jobs = workload(*(heavy(name, compute_s=0.0) for name in "ABCD"))
    cluster = Cluster.of(1, Device(4 * BLOCK, h2d=Link(64.0), d2h=BYTE_A_SECOND))
    assert bounds(jobs, cluster, "transfers")["stores"] == 1 + 4 * 64 == best_s(jobs, cluster, "transfers")


def test_a_bus_that_all_share_binds_from_contention_on():
    # two devices' loads of a block each, over one half-duplex bus that carries a byte a second, and back again
    link = replace(BYTE_A_SECOND, shared="root")
    cluster = Cluster((Device(BLOCK, h2d=link, d2h=link),) * 2, buses=(Bus("root", 1.0, "half"),))
    jobs = workload(heavy("A", compute_s=0.0), heavy("B", compute_s=0.0))
    assert "shared" not in bounds(jobs, cluster, "transfers")
    assert bounds(jobs, cluster, "contention")["shared"] == 4 * 64.0
    assert simulate(jobs, cluster, "task-parallel", effects="contention").makespan_s == 4 * 64.0


@pytest.mark.parametrize("effects", EFFECTS[:-1])
@pytest.mark.parametrize("policy", policies())
def test_no_policy_beats_a_bound(policy: str, effects: Effects):
    jobs = workload(heavy("A", shards=3, minibatches=2), heavy("B", minibatches=3), heavy("C", shards=2, blocks=2))
    cluster = devices(2, blocks=3, link=BYTE_A_SECOND)
    assert simulate(jobs, cluster, policy, effects=effects).makespan_s >= max(bounds(jobs, cluster, effects).values())


CURVE = [(1 * BLOCK, 1.0), (3 * BLOCK, 1.0), (6 * BLOCK, 6.0)]  # best at three blocks, which no power of two is


@pytest.mark.parametrize("blocks", [1, 3, 6])
@pytest.mark.parametrize("policy", policies())
def test_no_policy_beats_a_bound_where_the_best_rate_is_in_between(policy: str, blocks: int):
    jobs, cluster = workload(*(heavy(name, compute_s=0.0, blocks=blocks) for name in "ABCDEFGH")), devices(1, blocks=24)
    costs = CurveCosts(jobs, cluster, CURVE)
    made = simulate(jobs, cluster, policy, costs=costs, effects="transfers")
    assert made.makespan_s >= max(lower_bounds(jobs, cluster, costs, "transfers").values())


def test_loads_are_attained_where_the_best_rate_is_in_between():
    jobs, cluster = workload(*(heavy(name, compute_s=0.0, blocks=3) for name in "ABCDEFGH")), devices(1, blocks=24)
    costs = CurveCosts(jobs, cluster, CURVE)
    assert lower_bounds(jobs, cluster, costs, "transfers")["loads"] == 8 * 1.0 + 1.0
    assert simulate(jobs, cluster, "fifo", costs=costs, effects="transfers").makespan_s == 9.0


@settings(max_examples=60)
@given(world=worlds(), points=curves(), effects=st.sampled_from(EFFECTS[1:-1]))
def test_no_plan_beats_a_bound_on_measured_copies(world: World, points: list[tuple[int, float]], effects: Effects):
    costs = CurveCosts(world.workload, world.cluster, points)
    try:
        made = simulate(
            world.workload, world.cluster, world.policy, costs=costs, mechanism=world.mechanism, effects=effects
        )
    except HydraError:
        assume(False)
    for name, bound_s in lower_bounds(world.workload, world.cluster, costs, effects).items():
        assert bound_s <= made.makespan_s + 1e-9, name
