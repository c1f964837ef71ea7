"""The best plan, what is proven of it, and that simulator and files take it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hydrasim import Mechanism, Plan, simulate
from hydrasim.errors import HydraError, ShardTooLarge
from hydrasim.mechanism import Effects
from hydrasim.optimum import SolverName, cpsat, find_optimum, milp, solution
from hydrasim.optimum.solution import sound_bound_s
from hydrasim.policies import policies
from hydrasim.policies.follow_plan import FollowPlan
from tests.hydrasim.optimum.worlds import two_in_turn, worth_waiting
from tests.worlds import BYTE_A_SECOND, devices, fig6, heavy, workload


def test_a_policy_that_meets_a_bound_needs_no_solver():
    found = find_optimum(fig6(), devices(2))
    assert (found.status, found.makespan_s, found.bound_s, found.gap_fraction) == ("OPTIMAL", 6.0, 6.0, 0.0)
    assert found.model.status == "NOT NEEDED"
    assert found.plan.policy == found.warm_start == "resident-lrtf"
    assert set(found.policies_s) == set(policies())


@pytest.mark.parametrize("solver", ["cp-sat", "milp"])
def test_a_solver_waits_where_no_policy_does(solver: SolverName):
    # gpu0 A A A C C C         B, the longest, comes at 1: a device that waits for it ends at 5;
    # gpu1 . B B B B           policies begin A and C at once, and B at 3
    found = find_optimum(*worth_waiting(), solver=solver)
    assert set(found.policies_s.values()) >= {7.0}
    assert (min(found.policies_s.values()), found.makespan_s, found.status) == (7.0, 6.0, "OPTIMAL")
    assert found.bound_s == pytest.approx(6.0, rel=1e-6)
    assert found.plan.policy == solver
    assert found.model.status == "OPTIMAL"


@pytest.mark.parametrize("solver", ["cp-sat", "milp"])
def test_the_published_makespan_is_that_of_following_the_plan(solver: SolverName, tmp_path: Path):
    jobs, cluster = worth_waiting()
    found = find_optimum(jobs, cluster, solver=solver)
    found.plan.write(tmp_path / "plan.json")
    followed = simulate(jobs, cluster, FollowPlan(Plan.read(tmp_path / "plan.json")), effects="theory")
    assert followed.makespan_s == found.makespan_s == found.plan.makespan_s == 6.0


def test_with_transfers_the_plan_says_where_state_lies():
    jobs, cluster = two_in_turn()
    found = find_optimum(jobs, cluster, effects="transfers")
    assert (found.status, found.makespan_s, found.bound_s) == ("OPTIMAL", 296.0, 296.0)
    assert all(step.offset == 0 for step in found.plan.devices[0])
    followed = simulate(jobs, cluster, FollowPlan(found.plan), effects="transfers")
    assert followed.makespan_s == 296.0


def test_a_gap_that_is_left_is_told():
    # eight jobs on three devices that hold one state, in next to no time
    jobs = workload(*(heavy(name, shards=2, compute_s=16.0 + index) for index, name in enumerate("ABCDE")))
    found = find_optimum(jobs, devices(3, blocks=1, link=BYTE_A_SECOND), effects="transfers", time_limit_s=0.01)
    assert found.status == "FEASIBLE"
    assert 0 < found.gap_fraction < 1
    assert found.bound_s == max(found.bounds.values())
    assert found.makespan_s <= found.warm_start_s == min(found.policies_s.values())


def test_two_searches_give_one_plan():
    jobs = workload(heavy("A", shards=2), heavy("B", shards=2), heavy("C", minibatches=2))
    cluster = devices(2, blocks=2, link=BYTE_A_SECOND)
    first, second = (find_optimum(jobs, cluster, effects="transfers", time_limit_s=0.5) for _ in range(2))
    assert first == second


def test_polishing_keeps_to_the_limit_too(monkeypatch: pytest.MonkeyPatch):
    # each trial simulates all units once; a hundredth of a second of the limit is 50 of them
    jobs = workload(*(heavy(name, shards=2, compute_s=16.0 + index) for index, name in enumerate("ABCDE")))
    given: list[int] = []

    def polish(plan: Plan, makespan_s: object, bound_s: float, num_trials: int) -> Plan:
        given.append(num_trials)
        return plan

    monkeypatch.setattr(solution, "polish", polish)
    for limit_s in (0.01, 0.02):
        find_optimum(jobs, devices(3, blocks=1, link=BYTE_A_SECOND), effects="transfers", time_limit_s=limit_s)
    assert given == [50 // jobs.num_units, 100 // jobs.num_units]


def test_the_mechanism_counts():
    jobs, _ = two_in_turn()
    cluster = devices(1, blocks=2, link=BYTE_A_SECOND)
    found = find_optimum(jobs, cluster, effects="transfers", mechanism=Mechanism(prefetch=False))
    assert (found.status, found.makespan_s) == ("OPTIMAL", 64.0 + 20 + 64 + 20 + 64)


@pytest.mark.parametrize("solver", ["cp-sat", "milp"])
def test_what_is_too_large_for_the_solver_still_has_plan_bound_and_gap(
    solver: SolverName, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cpsat, "MAX_INTERVALS", 2)
    monkeypatch.setattr(milp, "MAX_CONSTRAINTS", 2)
    found = find_optimum(*worth_waiting(), solver=solver)
    assert (found.status, found.makespan_s, found.bound_s) == ("FEASIBLE", 7.0, max(found.bounds.values()))
    assert found.model.status == "REFUSED"
    assert "at most 2" in found.model.statement
    if solver == "milp":
        assert (found.model.num_pieces, found.model.num_variables, found.model.num_constraints) == (3, 13, 18)
    assert found.plan.policy == found.warm_start
    assert solver not in found.bounds


def test_what_is_too_large_may_be_proven_all_the_same(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cpsat, "MAX_INTERVALS", 2)
    assert find_optimum(fig6(), devices(2)).status == "OPTIMAL"


@pytest.mark.parametrize("effects", ["theory", "transfers"])
def test_a_bound_above_a_makespan_is_our_mistake(effects: Effects, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(solution, "lower_bounds", lambda *_: {"area": 6.5})
    with pytest.raises(HydraError, match=r"'area' says .* less than 6.5 s, yet one takes 6.0 s; this is a bug"):
        find_optimum(fig6(), devices(2), effects=effects)


def test_a_solver_s_bound_above_its_own_plan_is_our_mistake(monkeypatch: pytest.MonkeyPatch):
    proves, right = cpsat.solve, 6.0
    monkeypatch.setattr(cpsat, "solve", lambda *given: replace(proves(*given), bound_s=right + 0.5))
    with pytest.raises(HydraError, match=r"'cp-sat' says .* less than 6.5 s, yet one takes 6.0 s; this is a bug"):
        find_optimum(*worth_waiting())


def test_a_bound_may_be_above_by_rounding():
    assert sound_bound_s({"area": 6.0 + 1e-7, "longest_job": 2.0}, 6.0) == 6.0


def test_noise_has_no_optimum():
    with pytest.raises(HydraError, match="under noise a plan may beat any bound by luck"):
        find_optimum(fig6(), devices(2), effects="noise")


def test_the_papers_program_knows_no_transfers():
    with pytest.raises(HydraError, match="knows no transfers; ask for it with effects theory, or for cp-sat"):
        find_optimum(fig6(), devices(2), effects="transfers", solver="milp")


def test_jobs_that_cannot_run_at_all_say_why():
    with pytest.raises(ShardTooLarge, match="shard 0 of 'A' needs 128 bytes"):
        find_optimum(workload(heavy("A", blocks=2)), devices(1, blocks=1), effects="transfers")
