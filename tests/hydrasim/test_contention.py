"""Sharing of links and cores, against closed forms, and its inverse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hydrasim import Cluster, Device, Link, Timeline, simulate
from hydrasim.contention import CORES, Contention, uncontended_s
from hydrasim.profile import StatedCosts
from hydrasim.workload import Workload
from tests.worlds import BLOCK, BYTE_A_SECOND, Script, heavy, job, times, workload


def behind_one_root_complex(count: int, blocks: int = 4) -> Cluster:
    device = Device(blocks * BLOCK, h2d=BYTE_A_SECOND, d2h=BYTE_A_SECOND, root_complex="pcie0")
    return Cluster.of(count, device)


def emulated(num_devices: int, num_cores: int) -> Cluster:
    return replace(Cluster.of(num_devices, Device(1 << 20, on_host=True)), host_cores=num_cores)


def each_on_its_own(jobs: Workload) -> Script:
    return Script({str(u): index for index, j in enumerate(jobs.jobs) for u in _units(j)})


def _units(one: object) -> list[str]:
    return [f"{one.name}/L0#{n}" for n in range(one.num_minibatches)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_equal_copies_that_start_together_share_a_link_equally(count: int):
    jobs = workload(*(heavy(f"j{index}", compute_s=1.0) for index in range(count)))
    timeline = simulate(jobs, behind_one_root_complex(count), each_on_its_own(jobs))
    assert times(timeline, "load") == [(0.0, 64.0 * count)] * count


def test_a_copy_goes_on_alone_once_the_other_is_over():
    # gpu0 h2d  A A A    A has two blocks and B one; both at half speed until B is over at 128,
    # gpu1 h2d  B B .    when A has one block left and the link to itself
    jobs = workload(heavy("A", blocks=2, compute_s=1.0), heavy("B", compute_s=1.0))
    timeline = simulate(jobs, behind_one_root_complex(2), each_on_its_own(jobs))
    assert times(timeline, "load", "A/L0#0") == [(0.0, 192.0)]
    assert times(timeline, "load", "B/L0#0") == [(0.0, 128.0)]


def test_without_the_effect_nobody_shares():
    jobs = workload(heavy("A"), heavy("B"))
    timeline = simulate(jobs, behind_one_root_complex(2), each_on_its_own(jobs), effects="transfers")
    assert times(timeline, "load") == [(0.0, 64.0)] * 2


@pytest.mark.parametrize(("num_devices", "num_cores", "slowdown"), [(2, 2, 1.0), (2, 1, 2.0), (4, 1, 4.0), (3, 2, 1.5)])
def test_emulated_devices_share_the_cores(num_devices: int, num_cores: int, slowdown: float):
    jobs = workload(*(job(f"j{index}") for index in range(num_devices)))  # a unit of 2 s each
    timeline = simulate(jobs, emulated(num_devices, num_cores), each_on_its_own(jobs))
    assert [end for _, end in times(timeline, "compute")] == pytest.approx([2 * slowdown] * num_devices, abs=1e-12)


def test_loads_do_not_slow_stores_nor_other_root_complexes():
    a, b = (Device(64, h2d=Link(1.0), d2h=Link(1.0), root_complex=name) for name in "ab")
    contention = Contention(Cluster((a, a, b)))
    assert contention.resource_of(0, "load") == contention.resource_of(1, "load") != contention.resource_of(0, "store")
    assert contention.resource_of(2, "load") is None


def test_copies_at_memory_speed_take_a_core_and_throttled_ones_do_not():
    at_memory_speed = Device(64, on_host=True)
    throttled = replace(at_memory_speed, h2d=Link(1.0), d2h=Link(1.0))
    contention = Contention(Cluster((at_memory_speed, throttled), host_cores=1))
    assert contention.resource_of(0, "load") == contention.resource_of(0, "compute") == CORES
    assert contention.resource_of(1, "load") is None
    assert contention.resource_of(1, "compute") == contention.resource_of(-1, "fetch") == CORES


def test_links_as_fast_as_memory_share_no_root_complex():
    contention = Contention(Cluster((Device(64, root_complex="a"),) * 2))
    assert contention.resource_of(0, "load") is None


def test_a_real_device_computes_and_loads_beside_the_host():
    contention = Contention(Cluster((Device(64),), host_cores=1))
    assert contention.resource_of(0, "load") is contention.resource_of(0, "store") is None
    assert contention.resource_of(-1, "fetch") is None
    assert contention.share(contention.resource_of(0, "compute"), 8) == 1.0


class Slowed(StatedCosts):
    """Stated costs, but A's units take twice as long, and B's as long as ever, while all others compute."""

    def slowdown(self, job: str) -> float:
        return {"A": 2.0, "B": 1.0, "C": 3.0}[job]


def test_units_take_longer_while_other_devices_compute():
    # gpu0  A A A .     alone A takes 2: beside B, for 2 s, it does half of it
    # gpu1  B B . .
    jobs = workload(job("A"), job("B"))
    cluster = Cluster.of(2, Device(64))
    timeline = simulate(jobs, cluster, each_on_its_own(jobs), costs=Slowed(jobs, cluster))
    assert times(timeline, "compute", "A/L0#0") == [(0.0, 3.0)]
    assert times(timeline, "compute", "B/L0#0") == [(0.0, 2.0)]


def test_with_half_of_the_others_computing_the_slowdown_is_half():
    # one of C's two possible neighbours computes: 1 + (3 - 1) / 2 = 2 times as long, until B is over at 2
    jobs = workload(job("C"), job("B"))
    cluster = Cluster.of(3, Device(64))
    timeline = simulate(jobs, cluster, each_on_its_own(jobs), costs=Slowed(jobs, cluster))
    assert times(timeline, "compute", "C/L0#0") == [(0.0, 3.0)]


@pytest.mark.parametrize("policy", ["sharded-lrtf", "random", "task-parallel"])
def test_what_a_run_shows_gives_back_what_it_was_charged(policy: str):
    seconds = {"A": 64.0, "B": 96.0, "C": 40.0}
    jobs = workload(*(heavy(name, minibatches=3, compute_s=s, blocks=2, shards=3) for name, s in seconds.items()))
    device = Device(12 * BLOCK, h2d=BYTE_A_SECOND, d2h=BYTE_A_SECOND, root_complex="a", on_host=True)
    cluster = Cluster((device,) * 3, host_cores=2)
    timeline = simulate(jobs, cluster, policy)
    alone_s = uncontended_s(timeline, cluster)
    assert timeline.makespan_s > simulate(jobs, cluster, policy, effects="transfers").makespan_s
    for span in timeline.spans:
        if span.kind == "compute":
            shard = jobs.job(span.job).shards[0]
            wanted = {"F": shard.forward_s, "L": shard.forward_s + shard.backward_s, "B": shard.backward_s}
            assert alone_s[span.number] == pytest.approx(wanted[span.unit.partition("/")[2][0]], abs=1e-9)
        elif span.kind in ("load", "store"):
            assert alone_s[span.number] == pytest.approx(span.nbytes, abs=1e-9)


def test_a_timeline_of_nothing_shared_is_left_as_it_is():
    jobs = workload(heavy("A"), heavy("B"))
    cluster = Cluster.of(2, Device(4 * BLOCK, h2d=BYTE_A_SECOND))
    timeline: Timeline = simulate(jobs, cluster, "fifo")
    ready_s = timeline.ready_s()
    assert uncontended_s(timeline, cluster) == {s.number: s.end_s - ready_s[s.number] for s in timeline.spans}
