"""A job that fails gives up what it holds at once, and the others do as if it had never been theirs to wait for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hydrasim import Cluster, Device, Link, Shard, TrainingJob, Workload, simulate
from hydrasim.command import Command, DeviceBack, DeviceLost, JobFailed, JobStopped, Kind
from hydrasim.mechanism import OURS
from hydrasim.planning import make_plan
from hydrasim.policies.follow_plan import FollowPlan

ERROR = ValueError("no")
RECOVERING = replace(OURS, recoverable=True, checkpoint_every=3)


def job(name: str, minibatches: int = 8, **fields) -> TrainingJob:
    shards = (Shard(1.0, 2.0, 1000, 1000, 100, 100),) * 3
    return TrainingJob(name, shards, minibatches, **fields)


def cluster(count: int = 2, memory_bytes: int = 9_000) -> Cluster:
    link = Link(1e3)
    return Cluster.of(count, Device(memory_bytes, h2d=link, d2h=link))


def run(*jobs: TrainingJob, happenings=(), policy="sharded-lrtf", machine: Cluster | None = None, mechanism=RECOVERING):
    commands: list[Command] = []
    timeline = simulate(
        Workload(jobs), machine or cluster(), policy, mechanism=mechanism, commands=commands, happenings=happenings
    )
    return timeline, commands


@pytest.mark.parametrize("at_s", [0.0, 1.0, 7.3, 20.0, 55.5, 70.0])
@pytest.mark.parametrize("policy", ["sharded-lrtf", "resident-lrtf", "model-parallel", "task-parallel"])
def test_nothing_of_it_begins_and_the_others_are_trained_to_their_end(policy, at_s):
    jobs = job("A", 12), job("B"), job("C")
    timeline, commands = run(*jobs, happenings=[JobFailed("A", at_s, ERROR)], policy=policy)
    for other in "BC":
        assert sum(s.kind == "compute" and s.job == other for s in timeline.spans) == 8 * 5
    assert all(span.start_s <= at_s for span in timeline.spans if span.kind == "compute" and span.job == "A")
    assert not [c for c in commands if c.kind is Kind.SAVE and c.unit.job == "A" and c.unit.minibatch == 11]


def test_the_others_end_sooner_than_beside_it():
    jobs = job("A", 12), job("B"), job("C")
    alone, _ = run(*jobs[1:])
    beside, _ = run(*jobs)
    failed, _ = run(*jobs, happenings=[JobFailed("A", 10.0, ERROR)])
    assert alone.makespan_s < failed.makespan_s < beside.makespan_s


def test_other_jobs_state_that_was_making_room_for_it_still_goes_home():
    """An eviction's store serves the unit that wants the room; it is the evicted job's data all the same."""
    jobs = job("A"), job("B")
    mechanism = replace(RECOVERING, write_back="lazy", checkpoint_every=None)
    _, commands = run(*jobs, machine=cluster(1, 7_000), mechanism=mechanism)
    stores = [c for c in commands if c.kind is Kind.STORE and c.block.job == "B" and c.unit.job == "A"]
    assert stores
    assert {command.owner for command in stores} == {"B"}


def test_a_job_fails_that_was_about_to_begin_again():
    happenings = [DeviceLost(0, 30.0), JobFailed("A", 30.0, ERROR), DeviceBack(0, 31.0)]
    timeline, _ = run(job("A"), job("B"), happenings=happenings, policy="resident-lrtf")
    assert sum(s.kind == "compute" and s.job == "B" for s in timeline.spans) >= 8 * 5


def test_what_befalls_it_afterwards_does_not():
    late = [JobFailed("A", 10.0, ERROR), JobFailed("A", 12.0, ERROR), JobStopped("A", 13.0)]
    timeline, _ = run(job("A"), job("B"), happenings=late)
    again, _ = run(job("A"), job("B"), happenings=late[:1])
    assert timeline.makespan_s == again.makespan_s


def test_a_plan_is_followed_without_it():
    workload, machine = Workload((job("A"), job("B"), job("C"))), cluster()
    plan, _ = make_plan(workload, machine, "sharded-lrtf")
    timeline = simulate(workload, machine, FollowPlan(plan), happenings=[JobFailed("A", 20.0, ERROR)])
    for other in "BC":
        assert sum(s.kind == "compute" and s.job == other for s in timeline.spans) == 8 * 5
