"""CP-SAT without switch times: proven optima, the same answer each time, and what it refuses."""

from __future__ import annotations

import math
from random import Random

import pytest

from hydrasim import Cluster, Device, Shard, TrainingJob, Workload, simulate
from hydrasim.errors import HydraError
from hydrasim.optimum import cpsat
from hydrasim.optimum.problem import Problem, problem_of
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.profile import StatedCosts
from tests.hydrasim.optimum.worlds import posed, unfair
from tests.worlds import devices, fig6, job, workload


def test_fig6_takes_six():
    problem, guess, guess_s = posed(fig6(), devices(2), "model-parallel")
    assert guess_s == 12.0
    found = cpsat.solve(problem, guess, guess_s, 10.0)
    assert (found.model.status, found.model.makespan_s, found.bound_s) == ("OPTIMAL", 6.0, 6.0)
    assert found.model.num_pieces == 12


def test_a_better_order_than_that_of_arrival():
    jobs, cluster = unfair()
    problem, guess, guess_s = posed(jobs, cluster)
    found = cpsat.solve(problem, guess, guess_s, 10.0)
    assert (guess_s, found.model.makespan_s, found.bound_s) == (6.0, 4.0, 4.0)
    plan = problem.plan(found.solutions[-1], jobs, cluster, "cp-sat")
    assert simulate(jobs, cluster, FollowPlan(plan), effects="theory").makespan_s == 4.0


def test_jobs_that_arrive_late_begin_late():
    jobs = workload(job("A"), job("B", arrival_s=5.0))
    problem, guess, guess_s = posed(jobs, devices(1))
    assert cpsat.solve(problem, guess, guess_s, 10.0).bound_s == 7.0


def test_a_slow_device_may_be_worth_its_while():
    # speeds 4 and 1, five units of 4 s: the fast one runs four of them by 4, the slow one the fifth
    cluster = Cluster((Device(1, speed=4.0), Device(1)))
    jobs = workload(*(TrainingJob(name, (Shard(0.0, 4.0),), 1) for name in "ABCDE"))
    problem, guess, guess_s = posed(jobs, cluster)
    assert cpsat.solve(problem, guess, guess_s, 10.0).model.makespan_s == 4.0


def random_world(seed: int, num_units: int = 30) -> tuple[Workload, Cluster]:
    rng = Random(seed)
    jobs = []
    while sum(made.num_units for made in jobs) < num_units:
        shards = tuple(Shard(rng.uniform(0, 2), rng.uniform(0, 2)) for _ in range(rng.randint(1, 3)))
        jobs.append(TrainingJob(f"j{len(jobs)}", shards, rng.randint(1, 3)))
    return Workload(tuple(jobs)), Cluster((Device(1), Device(1), Device(1, speed=rng.choice([1.0, 1.7]))))


@pytest.mark.parametrize("seed", range(4))
def test_a_bound_holds_for_seconds_that_no_tick_measures(seed: int):
    jobs, cluster = random_world(seed)
    problem, guess, guess_s = posed(jobs, cluster, "sharded-lrtf")
    found = cpsat.solve(problem, guess, guess_s, 5.0)
    plan = problem.plan(found.solutions[-1], jobs, cluster, "cp-sat")
    simulated_s = simulate(jobs, cluster, FollowPlan(plan), effects="theory").makespan_s
    assert found.bound_s <= simulated_s <= guess_s + 1e-9
    assert simulated_s <= found.model.makespan_s + jobs.num_units * found.model.resolution_s


def test_two_searches_give_one_answer():
    problem, guess, guess_s = posed(*random_world(1, num_units=60))
    first, second = (cpsat.solve(problem, guess, guess_s, 0.05) for _ in range(2))
    assert first == second


def test_a_search_without_time_still_says_what_it_knows():
    problem, guess, guess_s = posed(*random_world(1, num_units=60))
    found = cpsat.solve(problem, guess, guess_s, 0.0)
    assert found.model.status in ("FEASIBLE", "UNKNOWN")
    assert 0 <= found.bound_s <= guess_s
    assert not math.isnan(found.bound_s)


def test_too_many_units_are_refused_with_their_number():
    jobs = workload(job("A", minibatches=10_001))
    problem = problem_of(jobs, devices(2), StatedCosts(jobs, devices(2)))
    assert cpsat.refusal(problem, switching=False) == (
        "CP-SAT would get 10,001 intervals (10,001 units on 1 kinds of devices); without switch times at most 10,000 "
        "are tried"
    )


def test_with_switch_times_far_fewer_are_tried():
    jobs = workload(job("A", minibatches=151))
    problem = problem_of(jobs, devices(2), StatedCosts(jobs, devices(2)))
    assert not cpsat.refusal(problem, switching=False)
    assert "302 intervals (151 units on 2 devices), and 22,800 ordered pairs" in cpsat.refusal(problem, switching=True)


def independent_optimum_s(problem: Problem) -> float:
    """Solve the same problem as a flexible job shop, by another's model."""
    from pyjobshop import Model

    model = Model()
    machines = [model.add_machine() for _ in range(problem.num_devices)]
    for chain in problem.chains:
        order = model.add_job(release_date=int(4 * problem.pieces[chain[0]].release_s))
        tasks = [model.add_task(job=order) for _ in chain]
        for task, index in zip(tasks, chain, strict=True):
            for machine, seconds in zip(machines, problem.pieces[index].seconds, strict=True):
                model.add_mode(task, machine, int(4 * seconds))
        for before, after in zip(tasks, tasks[1:], strict=False):
            model.add_end_before_start(before, after)
    result = model.solve(time_limit=30, num_workers=1, display=False)
    assert result.status.value == "Optimal"
    return result.objective / 4


@pytest.mark.parametrize("seed", range(6))
def test_pyjobshop_finds_the_same_optimum(seed: int):
    rng = Random(seed)
    jobs = workload(
        *(
            TrainingJob(
                name,
                tuple(Shard(rng.randint(0, 8) / 2, rng.randint(0, 8) / 2) for _ in range(rng.randint(1, 3))),
                rng.randint(1, 2),
                arrival_s=rng.choice([0.0, 0.0, 2.5]),
            )
            for name in "ABCDE"[: rng.randint(3, 5)]
        )
    )
    cluster = Cluster(tuple(Device(1, speed=rng.choice([1.0, 2.0])) for _ in range(rng.randint(2, 3))))
    problem, guess, guess_s = posed(jobs, cluster, "shortest-remaining-first")
    found = cpsat.solve(problem, guess, guess_s, 20.0)
    assert found.model.status == "OPTIMAL"
    assert found.bound_s == independent_optimum_s(problem)


def test_a_program_without_a_solution_is_our_mistake():
    # the guess takes 4 s, so plans of at most 3 s are none
    problem, guess, _ = posed(*unfair(), "resident-lrtf")
    model = cpsat.CpModel(problem, guess, 0.0, None)
    model.model.add(model.makespan <= model.ticks(3.0))
    with pytest.raises(HydraError, match=r"says that there is no plan, yet a policy made one; this is a bug"):
        model.solve(5.0, None)
