"""Jobs take turns."""

from __future__ import annotations

from hydrasim import simulate
from tests.worlds import devices, job, units, workload


def test_jobs_take_turns_unit_by_unit():
    jobs = workload(job("A", minibatches=2), job("B", minibatches=2), job("C"))
    timeline = simulate(jobs, devices(1), "round-robin", effects="theory")
    assert units(timeline) == ["A/L0#0", "B/L0#0", "C/L0#0", "A/L0#1", "B/L0#1"]
