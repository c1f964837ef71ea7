"""The problem that solvers see: pieces, ticks, guesses and plans."""

from __future__ import annotations

import math

import pytest

from hydrasim import Cluster, Device, Shard, TrainingJob, simulate
from hydrasim.optimum.problem import Placed, guess_of, problem_of, tick_s, ticks
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.profile import StatedCosts
from tests.worlds import devices, fig6, job, workload


def test_every_unit_is_a_piece_in_the_order_of_its_job():
    jobs, two = fig6(), devices(2)
    problem = problem_of(jobs, two, StatedCosts(jobs, two))
    assert [str(piece.units[0]) for piece in problem.pieces[:4]] == ["A/F0#0", "A/F1#0", "A/B1#0", "A/B0#0"]
    assert problem.chains == ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11))
    assert problem.groups == ((0, 1),)


def test_devices_of_other_speed_are_no_group():
    cluster = Cluster((Device(1), Device(1, speed=2.0), Device(1)))
    jobs = workload(job())
    problem = problem_of(jobs, cluster, StatedCosts(jobs, cluster))
    assert problem.groups == ((0, 2), (1,))
    assert problem.pieces[0].seconds == (2.0, 1.0, 2.0)


@pytest.mark.parametrize("at_most", [1, 3, 7, 40, 100])
def test_pieces_put_together_keep_all_units_and_seconds(at_most: int):
    jobs = workload(job("A", shards=3, minibatches=9, seconds=0.5), job("B"))
    problem = problem_of(jobs, devices(2), StatedCosts(jobs, devices(2)), at_most)
    own = [problem.pieces[index] for index in problem.chains[0]]
    assert len(own) == min(at_most, 45)
    assert sum(len(piece.units) for piece in own) == 45
    assert sum(piece.seconds[0] for piece in own) == 9 * 6 * 0.5
    assert len(problem.chains[1]) == 1


def test_pieces_take_about_equally_long():
    # units of 1, 1, 1, 3 s: two pieces of 3 s
    chain = TrainingJob("A", (Shard(1.0, 3.0), Shard(0.5, 0.5)), 1, activation_mode="keep", fused=False)
    jobs = workload(chain)  # F0 1, F1 0.5, B1 0.5, B0 3
    problem = problem_of(jobs, devices(1), StatedCosts(jobs, devices(1)), 2)
    assert [piece.seconds[0] for piece in problem.pieces] == [2.0, 3.0]


def test_units_of_no_time_are_still_cut_into_pieces():
    jobs = workload(job("A", shards=2, minibatches=2, seconds=0.0))
    assert len(problem_of(jobs, devices(1), StatedCosts(jobs, devices(1)), 2).pieces) == 2


@pytest.mark.parametrize(
    ("seconds", "tick"), [([1.5, 0.25], 0.25), ([0.06, 0.12, 0.9], 0.06), ([2.0, 4.0], 2.0), ([0.0], 8 / (1 << 18))]
)
def test_a_tick_measures_all_seconds(seconds: list[float], tick: float):
    assert tick_s(seconds, 8.0) == pytest.approx(tick)


def test_seconds_without_a_common_measure_are_counted_coarsely():
    tick = tick_s([math.pi, math.e], 1000.0)
    assert tick == 1000.0 / (1 << 18)
    assert ticks(math.pi, tick) * tick <= math.pi  # rounded down, so that a bound stays one
    assert ticks(0.3, 0.1) == 3  # but for what floats cannot say


def test_a_guess_begins_on_the_first_of_equal_devices():
    jobs, two = fig6(), devices(2)
    problem = problem_of(jobs, two, StatedCosts(jobs, two))
    guess = guess_of(problem, simulate(jobs, two, "task-parallel", effects="theory"))
    assert guess[0] == Placed(0, 0, 0.0)
    assert [item.device for item in guess] == [0] * 4 + [1] * 4 + [guess[8].device] * 4


def test_a_plan_keeps_chains_in_order_where_units_take_no_time():
    # all four units at time 0, on alternating devices: any other order of equals would have units wait in a circle
    jobs, two = workload(job("A", shards=2, seconds=0.0, fused=False), job("B", shards=2, seconds=0.0)), devices(2)
    problem = problem_of(jobs, two, StatedCosts(jobs, two))
    placed = [Placed(index, (index + 1) % 2, 0.0) for index in reversed(range(len(problem.pieces)))]
    plan = problem.plan(placed, jobs, two, "test")
    assert plan.policy == "test"
    assert simulate(jobs, two, FollowPlan(plan), effects="theory").makespan_s == 0.0
