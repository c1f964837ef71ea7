"""Policies side by side: exact rows on tiny worlds, and no crash for those that cannot run."""

from dataclasses import dataclass, replace

import pytest

from hydrasim import Bus, Cluster, Device, Link, Shard, TrainingJob, Workload, simulate
from hydrasim.compare import compare, naive_s, ratio
from hydrasim.errors import PolicyError
from hydrasim.planning import make_plan
from hydrasim.policies import Policy, policies
from hydrasim.presets import make_preset
from hydrasim.profile import StatedCosts


@dataclass(frozen=True)
class Lazy(Policy):
    """Never chooses."""

    def choose(self, device, view):
        return None


@dataclass(frozen=True)
class Broken(Policy):
    """Has a bug."""

    def choose(self, device, view):
        return {}[device]


FIG6 = make_preset("paper-fig6")
SHARD = Shard(1.0, 2.0, parameter_bytes=1024, optimizer_bytes=1024, output_bytes=64)
SPILLING = Workload((TrainingJob("A", (SHARD,) * 2, 4), TrainingJob("B", (SHARD,) * 2, 2)))
NARROW = Cluster.of(2, Device(4096, h2d=Link(2048.0), d2h=Link(2048.0)))


def test_fig6_rows():
    comparison = compare(
        FIG6.workload, FIG6.cluster, ["model-parallel", "task-parallel", "sharded-lrtf"], effects="theory"
    )
    assert [row.makespan_s for row in comparison.rows] == [12.0, 8.0, 6.0]
    assert [row.ratio_to_bound for row in comparison.rows] == [2.0, 8 / 6, 1.0]
    assert [row.utilization for row in comparison.rows] == [0.5, 0.75, 1.0]
    assert [row.work_conserving for row in comparison.rows] == [False, True, True]
    assert comparison.bounds == {"longest_job": 4.0, "area": 6.0, "longest_jobs": 6.0, "whole_units": 6.0}
    assert comparison.best.policy == "sharded-lrtf"
    assert comparison.worst_work_conserving.policy == "task-parallel"


def test_by_default_every_registered_policy_is_compared_and_told_of():
    told = []
    comparison = compare(FIG6.workload, FIG6.cluster, effects="theory", on_policy=told.append)
    assert [row.policy for row in comparison.rows] == list(policies())
    assert tuple(told) == comparison.rows
    idlers = {row.policy for row in comparison.rows if not row.work_conserving}
    assert idlers == {"model-parallel", "one-model-spilling"}


def test_with_transfers_the_plans_makespan_is_published():
    (row,) = compare(SPILLING, NARROW, ["resident-lrtf"]).rows
    _, timeline = make_plan(SPILLING, NARROW, "resident-lrtf")
    assert row.makespan_s == timeline.makespan_s
    assert row.moved_bytes == timeline.moved_bytes > 0
    assert row.num_loads == sum(span.kind == "load" for span in timeline.spans)


def test_the_seed_reaches_random_policies():
    def random_s(seed: int) -> float | None:
        return compare(FIG6.workload, FIG6.cluster, ["random"], effects="theory", seed=seed).best.makespan_s

    assert len({random_s(seed) for seed in range(8)}) > 1
    assert random_s(5) == random_s(5)


def test_a_policy_that_cannot_run_gives_a_row_with_its_error():
    comparison = compare(FIG6.workload, FIG6.cluster, [Lazy(), Broken(), "fifo"], effects="theory")
    lazy, broken, fifo = comparison.rows
    assert lazy.makespan_s is None
    assert "lazy chose nothing for any device" in lazy.error
    assert "broken failed to choose for device 0: KeyError: 0" in broken.error
    assert "test_compare.py" in broken.error
    assert comparison.best == fifo


def test_when_none_can_run_the_best_raises_the_reason():
    tiny = Cluster.of(1, Device(1024))
    with pytest.raises(PolicyError, match="no policy can run this workload; fifo: shard 0 of 'A' needs"):
        compare(SPILLING, tiny, ["fifo"]).best  # noqa: B018


def test_names_are_checked_before_anything_runs():
    with pytest.raises(PolicyError, match="no policy is named 'nope'"):
        compare(SPILLING, NARROW, ["fifo", "nope"])
    with pytest.raises(PolicyError, match="name at least one"):
        compare(SPILLING, NARROW, [])


def test_the_frame_has_a_row_a_policy():
    frame = compare(FIG6.workload, FIG6.cluster, ["fifo", "random"], effects="theory").to_frame()
    assert list(frame["policy"]) == ["fifo", "random"]
    assert "ratio_to_bound" in frame.columns


def test_no_makespan_is_below_a_bound():
    for row in compare(SPILLING, NARROW).rows:
        assert row.ratio_to_bound >= 1.0


def naive(workload: Workload, cluster: Cluster, **options: bool) -> float:
    return naive_s(workload, cluster, StatedCosts(workload, cluster), **options)


def test_naive_compute_is_the_area_or_the_longest_job():
    # A mini-batch of a job: F0 1 s, L1 3 s, B0 3 s (recompute) = 7 s.
    free = Cluster.of(2, Device(4096))
    assert naive(SPILLING, free) == 28.0  # A, four mini-batches; the area is 42 / 2
    assert naive(Workload((*SPILLING.jobs, TrainingJob("C", (SHARD,) * 2, 4))), free) == 35.0


def test_naive_bytes_load_what_each_unit_needs_and_store_each_update():
    # F0 loads 1024, L1 and B0 load 2048 each and store 2048 each: 5120 in, 4096 out a mini-batch.
    slow = Cluster.of(1, Device(4096, h2d=Link(64.0), d2h=Link(32.0)))
    job = Workload((TrainingJob("A", (SHARD,) * 2, 2),))
    assert naive(job, slow) == 2 * 4096 / 32
    assert naive(job, Cluster.of(1, Device(4096, h2d=Link(64.0)))) == 2 * 5120 / 64
    assert naive(job, slow, transfers=False) == 14.0


def test_naive_work_spreads_over_unequal_devices_by_speed():
    jobs = Workload(tuple(TrainingJob(name, (Shard(1.0, 2.0),), 1) for name in "ABC"))  # 3 s each
    unequal = Cluster((Device(1), Device(1, speed=0.5)))
    assert naive(jobs, unequal) == pytest.approx(9 / 1.5)


def test_naive_work_shares_what_devices_share():
    # one job of 4096 bytes out and 5120 in a mini-batch; two devices, of which each could copy half of it
    job = Workload((TrainingJob("A", (SHARD,) * 2, 2),))
    alone, over_a = Link(32.0), Link(32.0, shared="a")
    free, bound = (Device(4096, h2d=link, d2h=link) for link in (alone, over_a))
    loads_s, stores_s = 2 * 5120 / 32, 2 * 4096 / 32
    assert naive(job, Cluster((free,) * 2)) == loads_s / 2
    assert naive(job, Cluster((bound,) * 2, buses=(Bus("a", 32.0),))) == loads_s
    assert naive(job, Cluster((bound,) * 2, buses=(Bus("a", 32.0, "half"),))) == loads_s + stores_s
    assert naive(job, Cluster((replace(free, duplex="half"),) * 2)) == (loads_s + stores_s) / 2
    assert naive(job, Cluster((free,) * 2, host_bytes_per_s=32.0)) == loads_s + stores_s
    emulated = Cluster((Device(4096, on_host=True),) * 2, host_cores=1)
    assert naive(Workload((*job.jobs, replace(job.jobs[0], name="B"))), emulated) == 28.0  # not 28 / 2


def test_naive_counts_the_longest_job_from_its_arrival():
    late = Workload((TrainingJob("A", (SHARD,) * 2, 2, arrival_s=8.0),))
    assert naive(late, Cluster.of(2, Device(4096))) == 22.0


def test_a_world_that_takes_no_time_has_no_ratio():
    nothing = Workload((TrainingJob("A", (Shard(0.0, 0.0),), 1),))
    (row,) = compare(nothing, Cluster.of(1, Device(1)), ["fifo"], effects="theory").rows
    assert (row.makespan_s, row.ratio_to_bound) == (0.0, None)
    assert simulate(nothing, Cluster.of(1, Device(1)), "fifo", effects="theory").makespan_s == 0.0


def test_a_makespan_is_no_multiple_of_next_to_nothing():
    # 1 s over 5e-324 s is infinite, which JSON cannot say.
    assert [ratio(3.0, 2.0), ratio(1.0, 5e-324), ratio(1.0, 0.0)] == [1.5, None, None]


def test_luck_may_beat_a_bound_so_there_is_none():
    jobs = Workload((TrainingJob("A", (Shard(1.0, 1.0),), 1),))
    comparison = compare(jobs, Cluster((Device(64),), variation=0.5), ["fifo"], effects="noise")
    assert comparison.bound_s is None
    assert comparison.rows[0].ratio_to_bound is None
