"""The opposite of LRTF."""

from __future__ import annotations

from hydrasim import simulate
from tests.worlds import devices, job, units, workload


def test_the_job_nearest_its_end_goes_first():
    jobs = workload(job("A", minibatches=2), job("B", seconds=1.5))
    timeline = simulate(jobs, devices(1), "shortest-remaining-first", effects="theory")
    assert units(timeline) == ["B/L0#0", "A/L0#0", "A/L0#1"]
