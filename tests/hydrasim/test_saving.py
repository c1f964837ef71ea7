"""When jobs are saved, what waits for it, and where they go on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hydrasim import Cluster, Device, Link, Shard, TrainingJob, Workload, simulate
from hydrasim.cluster import Disk
from hydrasim.command import Command, DeviceBack, DeviceLost, JobStopped, JobSuspended, Kind
from hydrasim.errors import HydraError
from hydrasim.mechanism import OURS
from hydrasim.orchestrator import Orchestrator
from hydrasim.policies import make_policy
from hydrasim.profile import StatedCosts
from hydrasim.workload import ShardUnit

RECOVERING = replace(OURS, recoverable=True)


def job(name: str = "A", minibatches: int = 10, **fields) -> TrainingJob:
    shards = (Shard(1.0, 2.0, 1000, 1000, 100, 100),) * 3
    return TrainingJob(name, shards, minibatches, **fields)


def cluster(count: int = 1, write: float = 1e3) -> Cluster:
    link = Link(1e4)
    disk = Disk(read=Link(write), write=Link(write))
    return replace(Cluster.of(count, Device(100_000, h2d=link, d2h=link)), disk=disk)


def saves(commands: list[Command]) -> list[tuple[str, int]]:
    return [(c.unit.job, c.unit.minibatch) for c in commands if c.kind is Kind.SAVE]


def run(*jobs: TrainingJob, every: int | None = 4, happenings=(), policy: str = "resident-lrtf", count: int = 1):
    commands: list[Command] = []
    mechanism = replace(RECOVERING, checkpoint_every=every)
    timeline = simulate(
        Workload(jobs), cluster(count), policy, mechanism=mechanism, commands=commands, happenings=happenings
    )
    return timeline, commands


@pytest.mark.parametrize(
    ("fields", "every", "wanted"),
    [
        ({}, 4, [3, 7, 9]),
        ({}, 1, list(range(10))),
        ({}, 100, [9]),
        ({}, None, []),
        ({"accumulate": 3, "update_units": True}, 4, [5, 8, 9]),
        ({"minibatches": 4, "epochs": 2, "evaluation_minibatches": 2}, 3, [2, 7, 11]),
    ],
)
def test_a_job_is_saved_with_the_step_that_completes_the_interval_and_at_its_end(fields, every, wanted):
    _, commands = run(job(**fields), every=every)
    assert saves(commands) == [("A", minibatch) for minibatch in wanted]


def test_the_next_mini_batch_waits_and_another_job_fills_the_gap():
    timeline, _ = run(job("A"), job("B"))
    spans = {(span.kind, span.unit): span for span in timeline.spans}
    save, after = spans["save", "A/B0#3"], spans["compute", "A/F0#4"]
    assert save.end_s - save.start_s >= 6.0  # 3 shards of 2,000 bytes at 1,000 a second, and B may be saved as well
    assert after.start_s >= save.end_s
    between = [s for s in timeline.spans if s.kind == "compute" and save.start_s < s.end_s and s.start_s < save.end_s]
    assert {span.job for span in between} == {"B"}


def test_state_that_stays_on_a_device_goes_home_first():
    _, commands = run(job("A"))
    saved = next(command for command in commands if command.kind is Kind.SAVE)
    stores = [c for c in commands if c.kind is Kind.STORE and c.block.kind == "w" and c.number < saved.number]
    assert {c.block.shard for c in stores} == {0, 1, 2}
    assert {c.number for c in stores} <= set(saved.after)


def test_a_job_whose_state_is_lost_goes_on_from_its_checkpoint():
    lost = [DeviceLost(0, 80.0), DeviceBack(0, 80.0)]
    _, commands = run(job("A"), happenings=lost)
    [restore] = [command for command in commands if command.kind is Kind.RESTORE]
    [before] = [minibatch for _, minibatch in saves([c for c in commands if c.number < restore.number])][-1:]
    assert restore.unit.minibatch == before + 1 > 0
    again = [c.unit for c in commands if c.kind is Kind.COMPUTE and c.number > restore.number]
    assert again[0] == ShardUnit("A", again[0].phase, 0, before + 1)


def test_a_save_that_waits_for_a_lost_device_is_withdrawn():
    timeline, _ = run(job("A"))
    save = next(span for span in timeline.spans if span.kind == "save")
    store = max(s.start_s for s in timeline.spans if s.kind == "store" and s.end_s <= save.start_s)
    lost = [DeviceLost(0, store + 1e-3), DeviceBack(0, store + 1e-3)]
    timeline, commands = run(job("A"), happenings=lost)
    assert saves(commands)[:2] == [("A", 3), ("A", 3)]
    assert [span.unit for span in timeline.spans if span.kind == "save"] == ["A/B0#3", "A/B0#7", "A/B0#9"]


def test_a_job_that_is_stopped_is_saved_where_it_ends():
    _, commands = run(job("A"), happenings=[JobStopped("A", 15.0)])
    assert saves(commands) == [("A", 1)]


def test_a_job_that_is_suspended_ends_where_it_can_go_on():
    _, commands = run(job("A", accumulate=4, update_units=True), every=100, happenings=[JobSuspended("A", 15.0)])
    assert saves(commands) == [("A", 3)]
    evaluated = job("A", 2, epochs=3, evaluation_minibatches=4)
    timeline, commands = run(evaluated, every=100, happenings=[JobSuspended("A", 21.0)])
    assert saves(commands) == [("A", 5)]
    assert sum(span.kind == "compute" for span in timeline.spans) == 2 * 5 + 4 * 3


def begun(minibatch: int, *, plan=None, host_memory_bytes: int | None = None) -> Orchestrator:
    workload = Workload((job("A"), job("B")))
    machine = replace(cluster(), host_memory_bytes=host_memory_bytes)
    policy = make_policy("fifo") if plan is None else plan
    costs = StatedCosts(workload, machine)
    mechanism = replace(RECOVERING, checkpoint_every=4)
    return Orchestrator(workload, machine, policy, costs, mechanism=mechanism, begun={"A": minibatch})


def test_a_job_goes_on_at_the_mini_batch_of_its_checkpoint():
    brain = begun(7)
    a, b = brain.progress["A"], brain.progress["B"]
    assert a.remaining_s == pytest.approx(b.remaining_s * 3 / 10)
    assert [str(unit) for unit in a.front()] == ["A/F0#7"]
    fetches = {c.unit.job: c.unit.minibatch for c in brain.start() if c.kind is Kind.FETCH}
    assert fetches == {"A": 7, "B": 0}


def test_a_job_that_has_ended_is_done():
    brain = begun(10)
    assert brain.progress["A"].finished
    assert brain.num_jobs_done == 1


def test_what_cannot_go_on_is_refused():
    with pytest.raises(HydraError, match="job 'A' cannot go on at mini-batch 11 of 10"):
        begun(11)
    with pytest.raises(HydraError, match="checkpoints take host memory for all state"):
        begun(0, host_memory_bytes=9_000)
    with pytest.raises(HydraError, match="checkpoint_every is 0"):
        replace(OURS, checkpoint_every=0)
