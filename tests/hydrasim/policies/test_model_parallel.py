"""One job at a time, its shards spread over the devices."""

from __future__ import annotations

from hydrasim import simulate
from tests.worlds import devices, job, units, workload


def test_contiguous_shards_share_a_device():
    # four shards on two devices: 0 and 1 on the first, 2 and 3 on the second
    timeline = simulate(workload(job("A", shards=4)), devices(2), "model-parallel", effects="theory")
    assert units(timeline, device=0) == ["A/F0#0", "A/F1#0", "A/B1#0", "A/B0#0"]
    assert units(timeline, device=1) == ["A/F2#0", "A/L3#0", "A/B2#0"]


def test_the_second_job_waits_for_the_first():
    timeline = simulate(
        workload(job("A", shards=2), job("B", shards=2)), devices(2), "model-parallel", effects="theory"
    )
    assert [unit[0] for unit in units(timeline)] == ["A"] * 3 + ["B"] * 3
