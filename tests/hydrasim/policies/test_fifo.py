"""First in, first out."""

from __future__ import annotations

from hydrasim import simulate
from tests.worlds import devices, job, units, workload


def test_the_job_submitted_first_runs_to_its_end_first():
    timeline = simulate(workload(job("B", minibatches=2), job("A")), devices(1), "fifo", effects="theory")
    assert units(timeline) == ["B/L0#0", "B/L0#1", "A/L0#0"]
