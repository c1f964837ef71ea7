"""A job that is added to a run is treated, and trained, as one that was known from the beginning and arrives then."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from executor import Control, CpuDevice, DevicePool, MinibatchDone, prepare, train
from executor.errors import ExecutionError, JobError
from hydrasim.cluster import Cluster, Device, Disk, Link
from hydrasim.command import JobAdded
from hydrasim.errors import HostMemoryTooSmall, PlanError, ShardTooLarge, WorkloadError
from hydrasim.loop import run
from hydrasim.mechanism import MECHANISMS, OURS
from hydrasim.orchestrator import Orchestrator
from hydrasim.planning import make_plan
from hydrasim.policies import make_policy
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.profile import StatedCosts
from hydrasim.simulator import sim_backend, simulate
from hydrasim.workload import Shard, TrainingJob, Workload
from tests.executor.worlds import DATA, differences, expected, perceptron, small_job, transformer

SHARD = Shard(1.0, 2.0, parameter_bytes=64, optimizer_bytes=128, output_bytes=64)
TWO = Workload(tuple(TrainingJob(name, (SHARD,) * 3, 6, input_bytes=64, fetch_s=0.1) for name in "AB"))
MORE = TrainingJob("C", (dataclasses.replace(SHARD, forward_s=0.5),) * 2, 5, input_bytes=64, fetch_s=0.1)


def cluster(num_devices: int = 2, **fields: object) -> Cluster:
    return Cluster((Device(1280),) * num_devices, **fields)


def simulate_adding(at_s, policy, mechanism=OURS, *, on=None, effects="overheads"):
    """Simulate TWO, to which MORE is added at a moment; the simulated world knows what it will cost."""
    whole, on = Workload((*TWO.jobs, MORE)), on or cluster()
    orchestrator = Orchestrator(
        TWO, on, make_policy(policy), StatedCosts(TWO, on), mechanism=mechanism, effects=effects
    )
    added = [JobAdded("C", at_s, MORE)]
    backend = sim_backend(whole, on, StatedCosts(whole, on), effects, happenings=added)
    return run(orchestrator, backend, seed=0, costs="stated")


@pytest.mark.parametrize("effects", ["theory", "overheads"])
@pytest.mark.parametrize("mechanism", MECHANISMS.values(), ids=MECHANISMS)
@pytest.mark.parametrize("policy", ["sharded-lrtf", "resident-lrtf", "round-robin", "random", "task-parallel"])
@pytest.mark.parametrize("at_s", [0.5, 20.0])
def test_adding_comes_to_the_same_as_arriving(at_s, policy, mechanism, effects):
    known = Workload((*TWO.jobs, dataclasses.replace(MORE, arrival_s=at_s)))
    arriving = simulate(known, cluster(), policy, mechanism=mechanism, effects=effects)
    assert simulate_adding(at_s, policy, mechanism, effects=effects).spans == arriving.spans


def test_devices_that_a_mechanism_left_alone_are_used_once_there_are_jobs_for_them():
    capped = dataclasses.replace(OURS, cap_devices=True)
    timeline = simulate_adding(5.0, "fifo", capped, on=cluster(3))
    used = {device: min(s.start_s for s in timeline.spans if s.device == device and s.kind == "compute")
            for device in range(3)}  # fmt: skip
    assert max(used[0], used[1]) < 5.0 <= used[2]


def test_what_is_added_needs_a_name_of_its_own_and_room_and_nobodys_plan():
    orchestrator = Orchestrator(TWO, cluster(), make_policy("fifo"), StatedCosts(TWO, cluster()))
    with pytest.raises(WorkloadError, match="two jobs are named 'A'"):
        orchestrator.heed(JobAdded("A", 0.0, TWO.jobs[0]))
    large = dataclasses.replace(MORE, shards=(dataclasses.replace(SHARD, parameter_bytes=4096),))
    with pytest.raises(ShardTooLarge, match="shard 0 of 'C' needs"):
        orchestrator.heed(JobAdded("C", 0.0, large))
    assert list(orchestrator.progress) == ["A", "B"] == [job.name for job in orchestrator.workload.jobs]
    plan, _ = make_plan(TWO, cluster(), "fifo")
    followed = Orchestrator(TWO, cluster(), FollowPlan(plan), StatedCosts(TWO, cluster()))
    with pytest.raises(PlanError, match="a plan says what every unit does"):
        followed.heed(JobAdded("C", 0.0, MORE))


@pytest.mark.parametrize("with_disk", [False, True])
def test_what_is_added_must_find_room_in_host_memory_at_once(with_disk):
    small = cluster(host_memory_bytes=2200, disk=Disk(Link(1e3), Link(1e3)) if with_disk else None)
    orchestrator = Orchestrator(TWO, small, make_policy("fifo"), StatedCosts(TWO, small))
    assert not orchestrator.residency.host.pages
    with pytest.raises(HostMemoryTooSmall, match="job 'C' cannot be added: with it the jobs need"):
        orchestrator.heed(JobAdded("C", 0.0, MORE))


@pytest.fixture(scope="module")
def pool():
    with DevicePool([CpuDevice(160_000)] * 2) as pool:
        yield pool


def adam(parameters):
    return torch.optim.AdamW(parameters, lr=0.01)


NEWCOMERS = {
    "same": lambda: small_job("C", 4),
    "dropout, shuffled": lambda: small_job(
        "C", model=transformer(dropout=0.1), loss_fn=functional.cross_entropy, dataloader=DATA["noisy"](8),
        optimizer=adam, cuts=(2,), seed=3,
    ),
    "updates on the host": lambda: small_job("C", 4, optimizer=adam, update_on="host"),
    "updates in units": lambda: small_job("C", 6, optimizer=adam, accumulate=2, clip_norm=0.1),
    "evaluated": lambda: small_job("C", 4, evaluate_on=small_job().dataloader, epochs=2),
    "no cuts": lambda: small_job("C", 4, model=perceptron(4, 8, 8, 2), cuts=None),
}  # fmt: skip


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("chaos_seed", [None, 3])
@pytest.mark.parametrize("newcomer", NEWCOMERS.values(), ids=NEWCOMERS)
@pytest.mark.parametrize("last", [False, True], ids=["in the middle", "at the end"])
def test_a_callback_adds_a_job_and_all_end_in_the_same_bits(last, newcomer, chaos_seed, pool):
    jobs, more, control = [small_job("A", 5), small_job("B", 3)], newcomer(), Control()
    answers = [expected(job) for job in (*jobs, more)]
    seen = []

    def add(done: MinibatchDone) -> None:
        seen.append(done.job)
        if "C" not in seen and len(seen) == (8 if last else 1):
            control.add(more)

    result = train(prepare(jobs, pool.devices, reserve_bytes=60_000), pool=pool, callbacks=[add], control=control,
                   chaos_seed=chaos_seed)  # fmt: skip
    assert [
        d for job, answer in zip((*jobs, more), answers, strict=True) for d in differences(job, result, answer)
    ] == []
    assert [result.jobs[name].status for name in "ABC"] == ["finished"] * 3
    assert result.timeline.header["num_devices"] == 2


@pytest.mark.usefixtures("one_thread")
def test_an_evaluation_that_ends_the_run_may_add_the_next_job_and_so_on(pool):
    control, names = Control(), iter("CDE")
    made = []

    class Next:
        def __call__(self, done):
            pass

        def on_evaluation(self, done):
            if (name := next(names, None)) is not None:
                made.append(small_job(name, 2, evaluate_on=small_job().dataloader, seed=len(made)))
                answers.append(expected(made[-1]))
                control.add(made[-1])

    answers: list = []
    result = train([small_job("A", evaluate_on=small_job().dataloader)], pool.devices, pool=pool, callbacks=[Next()],
                   control=control)  # fmt: skip
    assert list(result.jobs) == ["A", "C", "D", "E"]
    assert [d for job, answer in zip(made, answers, strict=True) for d in differences(job, result, answer)] == []


class Table(nn.Module):
    """A layer with 16,000 bytes of constants."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.ones(1000, 4))
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x + self.table[0])


@pytest.mark.usefixtures("one_thread")
def test_what_does_not_fit_is_refused_with_numbers_and_the_run_goes_on(pool):
    control, refusals = Control(), []
    shared = small_job("A")

    wrong = {
        "no cuts of it do with": small_job("C", model=perceptron(4, 8000, 2), cuts=None),
        "16,000 of constant": small_job("C", model=nn.Sequential(Table()), cuts=()),
        "two jobs are named 'A'": small_job("A"),
        "train the same model": small_job("C", model=shared.module),
    }

    def add(done: MinibatchDone) -> None:
        for text, job in wrong.items() if not refusals else ():
            with pytest.raises((ShardTooLarge, JobError), match=text):
                control.add(job)
            refusals.append(text)

    result = train([shared], pool.devices, pool=pool, callbacks=[add], control=control)
    assert refusals == list(wrong)
    assert list(result.jobs) == ["A"]
    with pytest.raises(ExecutionError, match="no run is under way to add 'C' to"):
        control.add(small_job("C"))


@pytest.mark.usefixtures("one_thread")
def test_a_reserve_is_for_constant_tensors_and_is_used_up(pool):
    control, found = Control(), []

    more = [small_job(name, model=nn.Sequential(Table()), cuts=()) for name in "CD"]
    answer = expected(more[0])

    def add(done: MinibatchDone) -> None:
        if not found:
            control.add(more[0])
            with pytest.raises(
                ShardTooLarge, match="prepare the run with more reserve_bytes|Prepare the run with more"
            ):
                control.add(more[1])
            found.append(True)

    prepared = prepare([small_job("A")], pool.devices, reserve_bytes=20_000)
    assert prepared.cluster.devices[0].memory_bytes == 140_000
    result = train(prepared, pool=pool, callbacks=[add], control=control)
    assert differences(more[0], result, answer) == []
    assert max(result.peak_bytes) <= 160_000 - 16_000
