"""The paper's program on HiGHS: Fig. 6 proven, units put together, its size counted and refused."""

from __future__ import annotations

import pytest

from hydrasim import Cluster, Device, simulate
from hydrasim.errors import HydraError
from hydrasim.optimum import milp
from hydrasim.optimum.problem import guess_of, problem_of
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.presets import paper_fig7
from hydrasim.profile import StatedCosts
from tests.hydrasim.optimum.worlds import posed, seen, unfair
from tests.worlds import devices, fig6, job, workload


def test_fig6_takes_six():
    problem, guess, _ = posed(fig6(), devices(2), "model-parallel")
    found = milp.solve(problem, guess)
    assert found.model.status == "OPTIMAL"
    assert (found.model.makespan_s, found.bound_s) == pytest.approx((6.0, 6.0), rel=1e-6)
    plan = problem.plan(found.solutions[-1], fig6(), devices(2), "milp")
    assert simulate(fig6(), devices(2), FollowPlan(plan), effects="theory").makespan_s == 6.0


def test_left_the_start_to_it_the_solver_proves_the_same():
    problem, guess, guess_s = posed(*unfair())
    cold = milp.solve(problem, guess, time_limit_s=0.0, warm_start=False)
    warm = milp.solve(problem, guess, time_limit_s=0.0)
    assert (cold.model.makespan_s, warm.model.makespan_s) == (None, pytest.approx(guess_s))
    assert milp.solve(problem, guess, warm_start=False).bound_s == pytest.approx(4.0, rel=1e-6)


def test_a_cold_search_knows_no_plan(monkeypatch: pytest.MonkeyPatch):
    problem, guess, _ = posed(*unfair())
    monkeypatch.delattr(milp, "_in_order")
    monkeypatch.delattr(milp, "_longest_first")
    assert milp.solve(problem, guess, warm_start=False).model.makespan_s == pytest.approx(4.0, rel=1e-6)


def test_a_cold_search_may_find_anything_up_to_all_work_in_turn():
    cluster = Cluster((Device(1, speed=2.0), Device(1)))
    problem, _, _ = posed(workload(job("A", shards=2), job("B", arrival_s=1.0)), cluster)
    assert milp._in_turn_s(problem) == 1.0 + 4.0 + 2.0


def test_a_program_without_a_solution_is_our_mistake(monkeypatch: pytest.MonkeyPatch):
    problem, guess, _ = posed(*unfair())
    monkeypatch.setattr(milp, "_in_turn_s", lambda problem: 3.0)  # nothing fits
    with pytest.raises(HydraError, match=r"says that there is no plan, yet a policy made one; this is a bug"):
        milp.solve(problem, guess, warm_start=False)


def test_a_better_order_than_that_of_arrival():
    problem, guess, guess_s = posed(*unfair())
    assert guess_s == 6.0
    assert milp.solve(problem, guess).bound_s == pytest.approx(4.0, rel=1e-6)


def test_devices_of_other_speed_and_late_jobs():
    # speed 2  A A A B B       of 0.5 s: A ends its first two units at 1.5; B, there since 1, follows,
    # speed 1  . . . A A       and A goes on beside it
    cluster = Cluster((Device(1, speed=2.0), Device(1)))
    jobs = workload(job("A", shards=2), job("B", arrival_s=1.0))
    problem, guess, _ = posed(jobs, cluster)
    assert milp.solve(problem, guess).bound_s == pytest.approx(2.5, rel=1e-6)


def test_without_the_variable_that_the_paper_lacks_nothing_would_overlap():
    # six units on two devices overlap; on one device, where every unit occupies every device, they cannot
    jobs = workload(job("A", shards=2), job("B", shards=2))
    for count, expected_s in ((1, 8.0), (2, 4.0)):
        problem, guess, _ = posed(jobs, devices(count))
        assert milp.solve(problem, guess).bound_s == pytest.approx(expected_s, rel=1e-6)


def test_the_size_is_counted_before_it_is_built():
    problem, guess, _ = posed(fig6(), devices(2))
    size = milp.size_of(problem)
    # C, 12 starts, 24 places, 48 pairs of units of different jobs; 12 + 12 rows, two a pair and device
    assert size == milp.Size(12, 1 + 12 + 24 + 48, 24 + 2 * 2 * 48)
    assert str(size) == "12 pieces, 85 variables and 216 constraints"
    model = milp.solve(problem, guess).model
    assert (model.num_variables, model.num_constraints) == (85, 216)


def test_fig7_fits_only_when_its_units_are_put_together():
    world = paper_fig7(models=8, devices=4)
    costs = StatedCosts(world.workload, world.cluster)
    together = problem_of(world.workload, world.cluster, costs, milp.PIECES_PER_JOB)
    assert [len(chain) for chain in together.chains] == [40] * 8
    assert not milp.refusal(together)


def test_larger_ones_are_refused_with_the_estimate():
    world = paper_fig7(models=64, devices=8, units_scale=0.1)
    costs = StatedCosts(world.workload, world.cluster)
    problem = problem_of(world.workload, world.cluster, costs, milp.PIECES_PER_JOB)
    assert milp.refusal(problem) == (
        "the program would have 2,560 pieces, 3,248,641 variables and 51,614,720 constraints; at most 400,000 "
        "constraints are tried"
    )


def test_the_bound_of_pieces_put_together_is_no_bound_of_plans():
    jobs = workload(*(job(name, minibatches=4, seconds=0.5) for name in "ABC"))
    cluster = devices(2)
    problem = problem_of(jobs, cluster, StatedCosts(jobs, cluster), 1)
    found = milp.solve(problem, guess_of(problem, seen(jobs, cluster)))
    # three pieces of 4 s on two devices: 8, where units taken apart need 6
    assert found.model.makespan_s == pytest.approx(8.0, rel=1e-6)
    assert found.bound_s == 0.0
    assert "at most 1 pieces that stay whole" in found.model.statement
    plan = problem.plan(found.solutions[-1], jobs, cluster, "milp")
    assert simulate(jobs, cluster, FollowPlan(plan), effects="theory").makespan_s == 8.0


def test_without_time_the_guess_is_what_there_is():
    problem, guess, guess_s = posed(fig6(), devices(2), "model-parallel")
    found = milp.solve(problem, guess, 0.0)
    assert found.model.status in ("FEASIBLE", "UNKNOWN")
    assert 0.0 <= found.bound_s <= guess_s


def test_it_prints_nothing(capfd: pytest.CaptureFixture[str]):
    problem, guess, _ = posed(*unfair())
    milp.solve(problem, guess)
    assert capfd.readouterr().out == ""
