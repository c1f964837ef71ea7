"""Each device runs its list."""

from __future__ import annotations

from hydrasim import Plan, ShardUnit, simulate
from hydrasim.plan import Step
from hydrasim.policies.follow_plan import FollowPlan
from tests.worlds import devices, job, units, workload


def test_each_device_runs_its_list_in_order():
    jobs = workload(*map(job, "ABC"))
    lists = (("C/L0#0", "A/L0#0"), ("B/L0#0",))
    plan = Plan(tuple(tuple(Step(ShardUnit.parse(u)) for u in steps) for steps in lists), jobs.digest, "")
    timeline = simulate(jobs, devices(2), FollowPlan(plan))
    assert [tuple(units(timeline, device)) for device in (0, 1)] == list(lists)
