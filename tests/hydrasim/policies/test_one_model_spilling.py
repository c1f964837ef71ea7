"""One job at a time on one device."""

from __future__ import annotations

from hydrasim import simulate
from tests.worlds import devices, job, units, workload


def test_jobs_run_one_after_another_on_device_0():
    timeline = simulate(workload(*map(job, "AB")), devices(2), "one-model-spilling")
    assert units(timeline, device=0) == ["A/L0#0", "B/L0#0"]
    assert units(timeline, device=1) == []
