"""What commands are charged: checked seconds, and noise that keeps its mean and its place."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hydrasim import Bus, Cluster, Device, Link, Phase, ShardUnit, simulate
from hydrasim.charging import charging, checked_s, noisy
from hydrasim.cluster import Disk
from hydrasim.command import HOST, Command, Kind, Lane
from hydrasim.errors import ProfileError
from hydrasim.profile import StatedCosts
from tests.worlds import BYTE_A_SECOND, Script, devices, heavy, job, spans, workload

UNIT = ShardUnit("A", Phase.FORWARD, 0, 0)
COMPUTE = Command(0, Kind.COMPUTE, 0, Lane.COMPUTE, UNIT)


class Varied(StatedCosts):
    """Stated costs of a variation that the stated cluster would refuse."""

    def variation(self, command: Command) -> float:
        return 11.0


def test_the_disk_is_charged_what_the_slowest_thing_on_the_way_lets_through():
    read = Command(0, Kind.READ, HOST, Lane.DISK, UNIT, nbytes=8)
    write = replace(read, kind=Kind.WRITE)
    disk = Disk(Link(4.0, latency_s=0.5), Link(2.0, shared="a"))
    cluster = Cluster((Device(1),), disk=disk, buses=(Bus("a", 1.0),))
    costs = StatedCosts(workload(job()), cluster)
    assert [charging(costs, cluster)(command) for command in (read, write)] == [2.5, 8.0]
    assert charging(costs, replace(cluster, host_bytes_per_s=2.0))(read) == 4.5


@pytest.mark.parametrize("seconds", [-1.0, 1e13, float("inf"), float("nan")])
def test_what_is_no_time_is_refused(seconds: float):
    assert checked_s(COMPUTE, 1.0) == 1.0
    with pytest.raises(ProfileError, match=f"compute A/F0#0 takes {seconds} s".replace("+", r"\+")):
        checked_s(COMPUTE, seconds)


def test_noise_keeps_the_mean_and_has_the_stated_variation():
    jobs, cluster = workload(job()), replace(devices(1), variation=0.25)
    seconds = noisy(lambda _: 2.0, StatedCosts(jobs, cluster), 0)
    found = [seconds(COMPUTE) for _ in range(20_000)]
    mean = sum(found) / len(found)
    deviation = (sum((value - mean) ** 2 for value in found) / len(found)) ** 0.5
    assert mean == pytest.approx(2.0, rel=0.01)
    assert deviation / mean == pytest.approx(0.25, rel=0.03)
    assert min(found) > 0


def test_without_variation_noise_is_silent():
    jobs, cluster = workload(heavy("A", shards=3), heavy("B")), devices(2, link=BYTE_A_SECOND)
    silent, calm = (simulate(jobs, cluster, "sharded-lrtf", effects=rung) for rung in ("noise", "overheads"))
    assert silent.spans == calm.spans


def test_a_lane_meets_the_same_luck_whatever_happens_elsewhere():
    # gpu 0 runs A whether B runs on gpu 1, for however long, or not at all
    cluster = replace(devices(2, link=BYTE_A_SECOND), variation=0.2)
    script = Script({f"B/L0#{n}": 1 for n in range(9)})
    found = []
    for others in ((), (heavy("B"),), (heavy("B", minibatches=9, compute_s=4.0),)):
        timeline = simulate(workload(heavy("A", minibatches=3), *others), cluster, script, effects="noise")
        found.append([span.duration_s for span in spans(timeline, "compute") if span.job == "A"])
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    assert found[0] == pytest.approx(found[2], rel=1e-12)
    assert len({round(seconds, 9) for seconds in found[0]}) == 3


def test_the_seed_draws_the_noise():
    jobs, cluster = workload(heavy("A", minibatches=3)), replace(devices(1, link=BYTE_A_SECOND), variation=0.2)
    first, again, other = (simulate(jobs, cluster, "fifo", effects="noise", seed=seed) for seed in (1, 1, 2))
    assert first.spans == again.spans
    assert first.makespan_s != other.makespan_s


def test_a_variation_beyond_reason_is_refused():
    costs = Varied(workload(job()), devices(1))
    with pytest.raises(ProfileError, match=r"A/F0#0 varies by 11.0 of its mean; it must be from 0 to 10.0"):
        noisy(lambda _: 1.0, costs, 0)(COMPUTE)
