"""Sharded-LRTF, Algorithm 2 of the paper."""

from __future__ import annotations

from dataclasses import replace

from hydrasim import simulate
from hydrasim.policies.sharded_lrtf import ShardedLRTF
from hydrasim.profile import StatedCosts
from tests.worlds import devices, job, units, workload


def run(*jobs: object, policy: ShardedLRTF | None = None) -> list[str]:
    return units(simulate(workload(*jobs), devices(1), policy or ShardedLRTF(), effects="theory"))  # type: ignore[arg-type]


def test_the_longest_remaining_time_goes_first():
    # A has 2 x 2 s left, B 3 s: A until it has 2 left, then B
    assert run(job("A", minibatches=2), job("B", seconds=1.5)) == ["A/L0#0", "B/L0#0", "A/L0#1"]


def test_ties_go_to_the_first_candidate_even_with_nothing_left_after_it():
    assert run(job("A"), job("B")) == ["A/L0#0", "B/L0#0"]
    assert run(job("A", seconds=0.0), job("B", seconds=0.0)) == ["A/L0#0", "B/L0#0"]


def test_what_is_left_of_a_minibatch_counts_unless_switched_off():
    # A: F0 1, L1 2, B0 1; B: one unit of 3.5. With A/F0 done, A has 3 left of its 4
    jobs = job("A", shards=2), job("B", seconds=1.75)
    assert run(*jobs) == ["A/F0#0", "B/L0#0", "A/L1#0", "A/B0#0"]
    assert run(*jobs, policy=ShardedLRTF(within_minibatch=False)) == ["A/F0#0", "A/L1#0", "A/B0#0", "B/L0#0"]


def test_online_estimates_take_over_from_beliefs_once_a_minibatch_is_done():
    # believed: A's mini-batch 2 s, B's 5 s; in truth B takes 0.5 s. B first (5 > 4); then, online, B has one
    # mini-batch of 0.5 s left and A two of 2 s; by belief, B still has 5 s left
    believed = workload(job("A", minibatches=2), job("B", minibatches=2, seconds=2.5))
    true = workload(believed.jobs[0], replace(believed.jobs[1], shards=job(seconds=0.25).shards))

    def order(policy: ShardedLRTF) -> str:
        beliefs = StatedCosts(believed, devices(1))
        timeline = simulate(true, devices(1), policy, beliefs=beliefs, effects="theory")
        return "".join(unit[0] for unit in units(timeline))

    assert order(ShardedLRTF()) == "BBAA"
    assert order(ShardedLRTF(within_minibatch=False, online_minibatch_s=True)) == "BAAB"
