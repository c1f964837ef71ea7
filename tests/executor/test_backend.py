"""One plan, two backends, one command list; and only what ended counts."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from multiprocessing import Pipe
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from executor import CpuDevice, DevicePool, prepare, train
from executor.backend import TorchBackend
from executor.errors import ExecutionError
from executor.host_store import HostStore
from executor.messages import Broken
from executor.process import Child
from hydrasim.cluster import Cluster, Device
from hydrasim.command import JobFailed, Lane, normal_form
from hydrasim.dataflow import state_keys
from hydrasim.mechanism import MECHANISMS
from hydrasim.plan import Plan
from hydrasim.planning import make_plan
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.simulator import simulate
from hydrasim.workload import Shard, TrainingJob, Workload
from tests.executor.worlds import DATA, differences, expected, small_job, transformer

WORLDS = {
    "unequal lengths": [("A", (2,), 3), ("B", (), 2)],
    "unequal cuts": [("A", (1, 2, 3, 4), 2), ("B", (3,), 2), ("C", (2,), 1)],
}


def make_jobs(world):
    return [
        small_job(
            name, model=transformer(20, 0.1, seed), loss_fn=functional.cross_entropy, seed=seed, cuts=cuts,
            dataloader=DATA["shuffled"](2 * steps), optimizer=lambda p: torch.optim.AdamW(p, lr=0.01),
        )
        for seed, (name, cuts, steps) in enumerate(WORLDS[world])
    ]  # fmt: skip


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("prefetch", [True, False], ids=["prefetch", "no prefetch"])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_under_a_plan_simulator_and_devices_get_the_same_commands(world, devices, prefetch, mechanism, pools):
    jobs, pool = make_jobs(world), pools[devices]
    answers = [expected(job) for job in jobs]
    prepared = prepare(jobs, pool.devices)
    machine = replace(MECHANISMS[mechanism], prefetch=prefetch)
    plan = Plan.of(
        simulate(prepared.workload, prepared.cluster, "random", mechanism=machine, seed=5), prepared.workload,
        prepared.cluster,
    )  # fmt: skip
    simulated, live = [], []
    simulate(prepared.workload, prepared.cluster, FollowPlan(plan), mechanism=machine, commands=simulated)
    result = train(prepared, plan=plan, mechanism=machine, commands=live, pool=pool)
    assert normal_form(live) == normal_form(simulated)
    assert sum((differences(job, result, answer) for job, answer in zip(jobs, answers, strict=True)), []) == []


def test_a_plan_with_its_memory_filled_in_is_followed_to_the_byte(pools):
    jobs, pool = make_jobs("unequal lengths"), pools[2]
    prepared = prepare(jobs, pool.devices)
    simulated, live = [], []
    plan, _ = make_plan(prepared.workload, prepared.cluster, "resident-lrtf", commands=simulated)
    assert plan.devices[0][0].offset is not None
    train(prepared, plan=plan, commands=live, pool=pool)
    assert normal_form(live) == normal_form(simulated)


def test_every_command_becomes_one_span(pools):
    commands = []
    result = train([small_job(steps=3)], pools[1].devices, commands=commands, pool=pools[1])
    assert sorted(span.number for span in result.timeline.spans) == [command.number for command in commands]


def test_predecessors_end_before_a_command_starts(pools):
    jobs = make_jobs("unequal cuts")
    spans = {span.number: span for span in train(jobs, pools[2].devices, pool=pools[2]).timeline.spans}
    for span in spans.values():
        assert all(spans[number].end_s <= span.start_s for number in span.after)


@pytest.mark.parametrize("strict", [False, True])
def test_a_loader_that_fails_while_nothing_is_asked_of_it_is_told(strict):
    # Torch raises in a loader when a process of its DataLoader is killed; it once became a KeyError in the parent.
    own, other = Pipe()
    workload = Workload((TrainingJob("A", (Shard(1.0, 1.0),), 1),))
    store = SimpleNamespace(location={key: 0 for job in workload.jobs for key in state_keys(job)})
    closed: list[str] = []
    stage = SimpleNamespace(
        pool=SimpleNamespace(workers=[], updater=None, close_loader=closed.append),
        store=store,
        label="",
        recovers=False,
        begun={},
        scales=lambda _: False,
    )
    other.send([Broken(7, "fetch", "RuntimeError: DataLoader worker (pid 1) is killed")])
    story = "job 'A': its loader failed while idle: RuntimeError: Data"
    with closing(TorchBackend(workload, stage, {"A": own}, strict=strict)) as backend:  # type: ignore[arg-type]
        if strict:
            with pytest.raises(ExecutionError, match=story):
                backend.next_event()
            return
        event = backend.next_event()
    assert isinstance(event, JobFailed)
    assert story in str(event.error)
    assert closed == ["A"]


def test_a_killed_worker_is_told_by_what_it_did_though_the_reports_before_are_lost():
    # A unit that ends and the next, which kills the process, can both come before the report of the first is sent.
    job = TrainingJob("A", (Shard(1.0, 1.0),), 2)
    commands = []
    simulate(Workload((job,)), Cluster.of(1, Device(1 << 20)), "fifo", commands=commands)
    first, second = [command for command in commands if command.lane is Lane.COMPUTE][:2]
    devices = [CpuDevice(1 << 20)]
    with closing(HostStore(prepare([small_job()], devices))) as store, DevicePool(devices) as pool:
        pool.workers.append(Child("executor.worker"))
        loader, _other = Pipe()
        stage = SimpleNamespace(
            pool=pool, store=store, label="emulated", recovers=False, begun={}, scales=lambda job: False
        )
        with closing(TorchBackend(Workload((job,)), stage, {"A": loader})) as backend:
            backend.submit([first, second])
            store.write_doing(second)
            pool.workers[0].process.kill()
            with pytest.raises(ExecutionError, match=f"killed by SIGKILL during the compute of {second.unit} "):
                backend.next_event()
