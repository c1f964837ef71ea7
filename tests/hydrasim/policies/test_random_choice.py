"""A random eligible unit."""

from __future__ import annotations

from hydrasim import simulate
from tests.worlds import devices, job, units, workload


def test_every_eligible_unit_is_drawn_under_some_seed():
    jobs = workload(*map(job, "ABC"))
    first = {units(simulate(jobs, devices(1), "random", effects="theory", seed=seed))[0] for seed in range(20)}
    assert first == {"A/L0#0", "B/L0#0", "C/L0#0"}
