"""Replay: recorded durations in, the recorded makespan out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hydrasim import Bus, Cluster, Device, simulate
from hydrasim.errors import TimelineError
from hydrasim.planning import make_plan
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.replay import replay
from tests.invariants.strategies import PerturbedCosts
from tests.worlds import BLOCK, BYTE_A_SECOND, heavy, workload

JOBS = workload(*(heavy(name, minibatches=2, shards=3, blocks=2) for name in "ABC"))
CLUSTER = Cluster.of(2, Device(6 * BLOCK, h2d=BYTE_A_SECOND, d2h=BYTE_A_SECOND))


@pytest.mark.parametrize("seed", range(5))
def test_a_run_in_another_world_is_reproduced_to_the_last_bit(seed: int):
    plan, predicted = make_plan(JOBS, CLUSTER, "sharded-lrtf")
    happened = simulate(JOBS, CLUSTER, FollowPlan(plan), costs=PerturbedCosts(seed))
    assert happened.makespan_s != predicted.makespan_s
    replayed = replay(JOBS, CLUSTER, plan, happened)
    assert replayed.makespan_s == happened.makespan_s
    assert replayed.header["label"] == "simulated"
    assert replayed.header["replay_of"] == "simulated"


def test_sharing_is_in_the_durations_already():
    device = CLUSTER.devices[0]
    over_a = replace(device, h2d=replace(device.h2d, shared="a"), d2h=replace(device.d2h, shared="a"))
    shared = Cluster((over_a,) * 2, buses=(Bus("a", device.h2d.bytes_per_s),))
    plan, happened = make_plan(JOBS, shared, "random")
    assert replay(JOBS, shared, plan, happened).makespan_s == pytest.approx(happened.makespan_s, rel=1e-12)


def test_jobs_arrive_when_they_did():
    late = workload(*(replace(one, arrival_s=when) for one, when in zip(JOBS.jobs, (0.0, 100.0, 1e4), strict=True)))
    plan, _ = make_plan(late, CLUSTER, "sharded-lrtf")
    happened = simulate(late, CLUSTER, FollowPlan(plan), costs=PerturbedCosts(0))
    assert replay(late, CLUSTER, plan, happened).makespan_s == happened.makespan_s > 1e4


def test_a_run_of_another_plan_is_refused():
    plan, _ = make_plan(JOBS, CLUSTER, "sharded-lrtf")
    _, other = make_plan(JOBS, CLUSTER, "one-model-spilling")
    with pytest.raises(TimelineError, match=r"replay its own plan|was it cut short"):
        replay(JOBS, CLUSTER, plan, other)


def test_a_run_that_was_cut_short_is_refused():
    plan, happened = make_plan(JOBS, CLUSTER, "fifo")
    with pytest.raises(TimelineError, match="was it cut short"):
        replay(JOBS, CLUSTER, plan, replace(happened, spans=happened.spans[:-1]))


def test_a_run_that_did_more_is_refused():
    plan, happened = make_plan(JOBS, CLUSTER, "fifo")
    more = replace(happened.spans[-1], number=len(happened.spans))
    with pytest.raises(TimelineError, match="has 1 commands that the plan does not"):
        replay(JOBS, CLUSTER, plan, replace(happened, spans=(*happened.spans, more)))
