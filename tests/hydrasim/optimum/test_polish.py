"""Moving one unit at a time."""

from __future__ import annotations

from hydrasim import Plan, simulate
from hydrasim.errors import PlanError
from hydrasim.optimum.polish import polish
from hydrasim.policies.follow_plan import FollowPlan
from tests.hydrasim.optimum.worlds import seen, unfair


def test_a_unit_moves_to_where_the_plan_gets_shorter():
    jobs, cluster = unfair()
    first = Plan.of(seen(jobs, cluster), jobs, cluster)  # A and C, B: 6 s

    def makespan_s(plan: Plan) -> float:
        return simulate(jobs, cluster, FollowPlan(plan), effects="theory").makespan_s

    assert makespan_s(first) == 6.0
    assert makespan_s(polish(first, makespan_s, 0.0, 100)) == 4.0


def test_it_stops_at_the_bound_and_after_so_many_trials():
    jobs, cluster = unfair()
    first = Plan.of(seen(jobs, cluster), jobs, cluster)
    trials: list[Plan] = []

    def never_better(plan: Plan) -> float:
        trials.append(plan)
        return 6.0

    assert polish(first, never_better, 0.0, 3) is first
    assert len(trials) == 1 + 3
    trials.clear()
    assert polish(first, never_better, 6.0, 3) is first
    assert len(trials) == 1


def test_every_neighbour_is_another_plan_of_the_same_units():
    jobs, cluster = unfair()
    first = Plan.of(seen(jobs, cluster), jobs, cluster)
    tried: list[Plan] = []

    def refuse(plan: Plan) -> float:
        tried.append(plan)
        if plan is not first:
            raise PlanError("its units wait for each other")
        return 6.0

    assert polish(first, refuse, 0.0, 1000) is first
    plans = {tuple(tuple(str(step.unit) for step in steps) for steps in plan.devices) for plan in tried}
    assert len(plans) > 5
    assert {len(set(plan[0] + plan[1])) for plan in plans} == {3}
