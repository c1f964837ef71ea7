"""One job a device."""

from __future__ import annotations

from hydrasim import simulate
from tests.worlds import devices, job, units, workload


def test_a_device_keeps_its_job_and_then_takes_one_that_nobody_has_begun():
    jobs = workload(job("A", minibatches=3), job("B"), job("C"))
    for effects in ("theory", "transfers"):
        timeline = simulate(jobs, devices(2), "task-parallel", effects=effects)  # type: ignore[arg-type]
        assert units(timeline, device=0) == ["A/L0#0", "A/L0#1", "A/L0#2"]
        assert units(timeline, device=1) == ["B/L0#0", "C/L0#0"]


def test_a_job_is_never_shared():
    timeline = simulate(workload(job("A", shards=3)), devices(2), "task-parallel")
    assert units(timeline, device=1) == []
