"""A job that is told to stop ends with a whole mini-batch, one that is paused rests; the others do not notice."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import pytest
import torch

from executor import CpuDevice, EarlyStopping, MinibatchDone, prepare, train
from hydrasim.cluster import Cluster, Device
from hydrasim.command import JobPaused, JobResumed, JobStopped
from hydrasim.errors import PlanError, StallError, WorkloadError
from hydrasim.mechanism import MECHANISMS
from hydrasim.planning import make_plan
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.simulator import simulate
from hydrasim.workload import Phase, Shard, ShardUnit, TrainingJob, Workload
from tests.executor.test_ties import language_job
from tests.executor.worlds import differences, expected, small_job

SHARD = Shard(1.0, 2.0, parameter_bytes=64, optimizer_bytes=128, output_bytes=64)
NUM_SHARDS, NUM_MINIBATCHES = 3, 6


def workload(**fields: object) -> Workload:
    return Workload(tuple(TrainingJob(name, (SHARD,) * NUM_SHARDS, NUM_MINIBATCHES, **fields) for name in "AB"))


def cluster(num_devices: int = 2) -> Cluster:
    return Cluster((Device(1280),) * num_devices)


def minibatches(timeline, job: str) -> dict[int, int]:
    """Return the number of units of each of a job's mini-batches that ran."""
    counts: dict[int, int] = defaultdict(int)
    for span in timeline.spans:
        unit = ShardUnit.parse(span.unit)
        if span.kind == "compute" and unit.job == job:
            counts[unit.minibatch] += 1
    return dict(counts)


def newest_state_is_home(timeline, job: str, update_units: bool = False) -> bool:
    """Whether every shard's state is stored after the last unit that changes it."""
    updating = {Phase.UPDATE} if update_units else {Phase.BACKWARD, Phase.LOSS}
    updated, stored = {}, {}
    for span in timeline.spans:
        unit = ShardUnit.parse(span.unit)
        if unit.job == job and span.kind == "compute" and unit.phase in updating:
            updated[unit.shard] = max(updated.get(unit.shard, 0.0), span.end_s)
        if span.kind == "store" and span.block and span.block.startswith(f"{job}/w"):
            shard = int(span.block.removeprefix(f"{job}/w"))
            stored[shard] = max(stored.get(shard, 0.0), span.start_s)
    return all(stored.get(shard, -1.0) >= end_s for shard, end_s in updated.items())


@pytest.mark.parametrize("mechanism", MECHANISMS.values(), ids=MECHANISMS)
@pytest.mark.parametrize("policy", ["sharded-lrtf", "resident-lrtf", "random"])
@pytest.mark.parametrize("fields", [{}, {"update_units": True, "accumulate": 2}, {"fused": False}], ids=str)
@pytest.mark.parametrize("at_s", [0.5, 20.0, 33.3])
def test_a_stopped_job_ends_with_a_whole_minibatch(at_s, fields, policy, mechanism):
    world = workload(**fields)
    timeline = simulate(world, cluster(), policy, mechanism=mechanism, happenings=[JobStopped("A", at_s)])
    found = minibatches(timeline, "A")
    assert 0 < len(found) < NUM_MINIBATCHES
    assert sorted(found) == list(range(len(found)))
    job = dataclasses.replace(world.job("A"), minibatches=len(found))
    assert sum(found.values()) == job.num_units
    assert minibatches(timeline, "B") == minibatches(simulate(world, cluster(), policy, mechanism=mechanism), "B")
    assert all(newest_state_is_home(timeline, name, job.update_units) for name in "AB")


def test_a_job_that_has_not_begun_never_does_and_one_that_has_ended_stays_as_it_is():
    late = Workload((workload().jobs[0], dataclasses.replace(workload().jobs[1], arrival_s=10.0)))
    timeline = simulate(late, cluster(), "fifo", happenings=[JobStopped("B", 5.0)])
    assert minibatches(timeline, "B") == {}
    assert len(minibatches(timeline, "A")) == NUM_MINIBATCHES
    whole = simulate(workload(), cluster(), "fifo")
    assert simulate(workload(), cluster(), "fifo", happenings=[JobStopped("A", whole.makespan_s)]).spans == whole.spans


def test_a_stop_that_makes_no_sense_is_refused():
    with pytest.raises(WorkloadError, match="no job is named 'C'"):
        simulate(workload(), cluster(), "fifo", happenings=[JobStopped("C", 1.0)])
    with pytest.raises(WorkloadError, match="job 'A' is told at -1"):
        simulate(workload(), cluster(), "fifo", happenings=[JobStopped("A", -1)])
    plan, _ = make_plan(workload(), cluster(), "fifo")
    with pytest.raises(PlanError, match="a plan says what every unit does"):
        simulate(workload(), cluster(), FollowPlan(plan), happenings=[JobStopped("A", 1.0)])


@pytest.mark.parametrize("mechanism", MECHANISMS.values(), ids=MECHANISMS)
@pytest.mark.parametrize("policy", ["sharded-lrtf", "resident-lrtf", "random"])
def test_a_paused_job_begins_nothing_until_it_is_resumed(policy, mechanism):
    pause, resume = JobPaused("A", 10.0), JobResumed("A", 200.0)
    timeline = simulate(workload(), cluster(), policy, mechanism=mechanism, happenings=[pause, resume])
    begun_s = sorted(s.issued_s for s in timeline.spans if s.kind == "compute" and s.unit.startswith("A/"))
    assert begun_s[0] < pause.at_s
    assert not [at_s for at_s in begun_s if pause.at_s < at_s < resume.at_s]
    for name in "AB":
        assert minibatches(timeline, name) == minibatches(simulate(workload(), cluster(), policy), name)
        assert newest_state_is_home(timeline, name)
    ends_s = [s.end_s for s in timeline.spans if s.unit.startswith("B/")]
    assert max(ends_s) < resume.at_s


def test_a_job_paused_before_it_begins_and_then_stopped_never_does():
    told = [JobPaused("A", 0.0), JobStopped("A", 500.0)]
    timeline = simulate(workload(), cluster(), "fifo", happenings=told)
    assert minibatches(timeline, "A") == {}
    assert len(minibatches(timeline, "B")) == NUM_MINIBATCHES


def test_a_resting_job_may_be_stopped_and_then_ends_its_minibatch():
    told = [JobPaused("A", 3.5), JobStopped("A", 500.0)]
    timeline = simulate(workload(), cluster(), "fifo", happenings=told)
    assert len(minibatches(timeline, "A")) == 1
    assert max(span.start_s for span in timeline.spans if span.unit.startswith("A/")) >= 500.0
    assert len(minibatches(timeline, "B")) == NUM_MINIBATCHES


def test_a_run_whose_jobs_all_rest_for_ever_says_so():
    with pytest.raises(StallError):
        simulate(workload(), cluster(), "fifo", happenings=[JobPaused("A", 1.0), JobPaused("B", 1.0)])


def stop_a(done: MinibatchDone) -> bool:
    return done.job == "A" and done.number == 2


@pytest.mark.parametrize("fields", [{}, {"accumulate": 2, "clip_norm": 0.1}], ids=str)
@pytest.mark.parametrize("memory_bytes", [60_000, 4_000_000])
def test_a_job_stopped_by_a_callback_is_what_so_many_steps_make_of_it(memory_bytes, fields, one_thread):
    jobs = [language_job(name, seed, clip_value=0.5, **fields) for seed, name in enumerate("AB")]
    unstopped = expected(jobs[1])
    initial = [language_job("A", 0, clip_value=0.5, max_steps=steps, **fields) for steps in range(1, 10)]
    result = train(prepare(jobs, [CpuDevice(memory_bytes)] * 2), policy="random", seed=3, callbacks=[stop_a])
    steps = len(result.jobs["A"].losses)
    assert 3 <= steps <= 4  # one more may have been bound
    assert (result.jobs["A"].status, result.jobs["B"].status) == ("stopped", "finished")
    assert differences(jobs[1], result, unstopped) == []
    assert differences(jobs[0], result, expected(initial[steps - 1])) == []


def test_early_stopping_waits_for_its_patience():
    stopping = EarlyStopping(patience=2, min_delta=0.1)
    losses = [3.0, 2.0, 1.95, 1.8, 1.75, 1.74]  # falls by at least 0.1 at 1 and at 3
    assert [stopping(MinibatchDone("A", n, 9, loss, 0.0)) for n, loss in enumerate(losses)] == [False] * 5 + [True]
    assert not stopping(MinibatchDone("B", 5, 9, 5.0, 0.0))


def test_early_stopping_ends_a_job_that_does_not_learn():
    job = small_job("A", 12, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    job = dataclasses.replace(job, dataloader=job.dataloader[:1] * 12)
    result = train([job], [CpuDevice(160_000)], callbacks=[EarlyStopping(patience=3)])
    assert 4 <= len(result.jobs["A"].losses) <= 5
