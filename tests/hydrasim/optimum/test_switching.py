"""Switch times in CP-SAT: exact in worlds made for it, and a relaxation of every simulation."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hydrasim import Cluster, Device, Link, Mechanism, Workload, simulate
from hydrasim.errors import HydraError
from hydrasim.optimum import cpsat
from hydrasim.optimum.moves import Moves
from hydrasim.optimum.problem import Found, guess_of, problem_of
from hydrasim.policies import policies
from hydrasim.profile import StatedCosts
from tests.hydrasim.optimum.worlds import two_in_turn
from tests.invariants.strategies import World, worlds
from tests.worlds import BLOCK, BYTE_A_SECOND, devices, heavy, workload


def solved(
    jobs: Workload, cluster: Cluster, *, prefetch: bool = True, limit_s: float = 5.0, guess: str = "fifo"
) -> Found:
    problem, costs = problem_of(jobs, cluster, StatedCosts(jobs, cluster)), StatedCosts(jobs, cluster)
    timeline = simulate(jobs, cluster, guess, effects="transfers", mechanism=Mechanism(prefetch=prefetch))
    moves = Moves(problem, jobs, cluster, costs, prefetch=prefetch)
    return cpsat.solve(problem, guess_of(problem, timeline), timeline.makespan_s, limit_s, moves)


def test_two_jobs_in_one_room():
    # h2d  A       B        load 64; two units of 10; B's load waits for A's store, as there is room for one state
    # comp   aa      bb
    # d2h      A       B    64 + 20 + 64 + 64 + 20 + 64
    found = solved(*two_in_turn(), guess="round-robin")
    assert (found.model.status, found.model.makespan_s, found.bound_s) == ("OPTIMAL", 296.0, 296.0)


def test_with_room_for_two_the_load_and_the_store_are_hidden():
    # h2d  A B       64, then 10 + 10 + 10 + 10 behind B's load at 128, B's store 64
    # comp   aa bb
    # d2h       A B
    jobs, _ = two_in_turn()
    assert solved(jobs, devices(1, blocks=2, link=BYTE_A_SECOND)).bound_s == 128 + 20 + 64


def test_without_prefetch_a_load_waits_for_the_unit_before():
    jobs, _ = two_in_turn()
    roomy = devices(1, blocks=2, link=BYTE_A_SECOND)
    assert solved(jobs, roomy, prefetch=False).bound_s == 64 + 20 + 64 + 20 + 64


def test_state_used_elsewhere_is_stored_and_loaded_first():
    # one job of one unit on each of two devices is no faster than on one: nothing makes it move
    jobs = workload(heavy("A", minibatches=2, compute_s=8.0))
    assert solved(jobs, devices(2, link=BYTE_A_SECOND)).bound_s == 64 + 16 + 64


def test_a_fast_device_is_worth_a_move_only_if_links_are_fast():
    # the slow device takes 32 s a unit, the fast one 8
    jobs = workload(heavy("A", minibatches=2, compute_s=32.0))
    cluster = Cluster((Device(BLOCK, h2d=Link(64.0), d2h=Link(64.0)), Device(BLOCK, speed=4.0, h2d=BYTE_A_SECOND)))
    assert solved(jobs, cluster).bound_s == min(1 + 64 + 1, 64 + 16)


def test_final_stores_share_a_lane():
    jobs = workload(*(heavy(name, compute_s=0.0) for name in "ABC"))
    assert solved(jobs, devices(1, blocks=3, link=BYTE_A_SECOND)).bound_s == 3 * 64 + 64


def test_two_searches_give_one_answer():
    jobs = workload(heavy("A", shards=2, minibatches=2), heavy("B", shards=3), heavy("C", minibatches=3))
    cluster = devices(2, blocks=2, link=BYTE_A_SECOND)
    assert solved(jobs, cluster, limit_s=0.1) == solved(jobs, cluster, limit_s=0.1)


@settings(max_examples=40)
@given(world=worlds(), policy=st.sampled_from(sorted(policies())))
def test_no_simulation_is_shorter_than_the_relaxation(world: World, policy: str):
    """A simulated run is a solution, so the search below its makespan is never infeasible, nor its bound above it."""
    jobs = Workload(tuple(replace(job, minibatches=1) for job in world.workload.jobs[:3]))
    problem = problem_of(jobs, world.cluster, StatedCosts(jobs, world.cluster))
    assume(len(problem.pieces) <= 16)
    costs, own = StatedCosts(jobs, world.cluster, pinned=world.mechanism.pinned), world.mechanism
    try:
        timeline = simulate(jobs, world.cluster, policy, costs=costs, mechanism=own, effects="transfers")
    except HydraError:
        assume(False)
    moves = Moves(problem, jobs, world.cluster, costs, prefetch=own.prefetch)
    found = cpsat.solve(problem, guess_of(problem, timeline), timeline.makespan_s, 0.2, moves)
    assert found.model.status in ("OPTIMAL", "FEASIBLE", "UNKNOWN")
    assert found.bound_s <= timeline.makespan_s + 1e-9


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("policy", policies())
def test_no_policy_beats_the_optimum(policy: str, blocks: int):
    jobs = workload(heavy("A", shards=2, compute_s=16.0), heavy("B", minibatches=2), heavy("C", compute_s=32.0))
    cluster = devices(2, blocks=blocks, link=BYTE_A_SECOND)
    found = solved(jobs, cluster, guess=policy)
    assert found.model.status == "OPTIMAL"
    assert simulate(jobs, cluster, policy, effects="transfers").makespan_s >= found.bound_s
