"""Updates in host memory train to the plain loop's bits, whatever the optimizer, its options and the devices do."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from executor import CpuDevice, DevicePool, prepare, train
from executor.errors import ExecutionError, JobError
from executor.profiler import profile
from hydrasim.command import Kind, normal_form
from hydrasim.planning import make_plan
from hydrasim.profile import Profile
from hydrasim.simulator import simulate
from hydrasim.workload import ShardUnit
from tests.executor.worlds import DATA, differences, expected, small_job, transformer

ADAMW = partial(torch.optim.AdamW, lr=0.01)
OPTIONS = {
    "AdamW": {"optimizer": ADAMW},
    "SGD with momentum": {"optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9)},
    "Adafactor": {"optimizer": partial(torch.optim.Adafactor, lr=0.01)},
    "clipped by norm": {"optimizer": ADAMW, "clip_norm": 0.1},
    "clipped by value": {"optimizer": ADAMW, "clip_value": 0.01},
    "accumulated": {"optimizer": ADAMW, "accumulate": 2, "clip_norm": 0.5},
    "scheduled": {
        "optimizer": ADAMW,
        "accumulate": 2,
        "scheduler": partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=3),
    },
}


def jobs(**options):
    made = {"loss_fn": functional.cross_entropy, "update_on": "host"} | options
    return [
        small_job("A", model=transformer(20, 0.1, 0), dataloader=DATA["shuffled"](10), cuts=(1, 2, 3, 4), **made),
        small_job("B", model=transformer(20, 0.0, 1), dataloader=DATA["shuffled"](6), cuts=(2,), seed=1, **made),
    ]


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("name", OPTIONS)
def test_updates_in_host_memory_are_the_plain_loops(name, devices, pools):
    made, pool = jobs(**OPTIONS[name]), pools[devices]
    answers = [expected(job) for job in made]
    commands = []
    result = train(made, pool.devices, pool=pool, chaos_seed=3, commands=commands)
    assert sum((differences(job, result, answer) for job, answer in zip(made, answers, strict=True)), []) == []
    steps = {job.name: len(job.dataloader) * job.epochs // job.accumulate for job in made}
    workload = prepare(made, pool.devices).workload
    assert sum(command.kind is Kind.UPDATE for command in commands) == sum(
        steps[job.name] for job in workload.jobs for shard in job.shards if shard.gradient_bytes
    )
    largest = max(shard.parameter_bytes for job in workload.jobs for shard in job.shards)
    moved = [c.nbytes for c in commands if c.kind is Kind.LOAD and c.block is not None and c.block.kind == "w"]
    assert max(moved) <= largest + 64, "the optimizer's state came along"


def test_simulator_and_executor_follow_a_plan_to_the_byte(pools):
    made, pool = jobs(**OPTIONS["clipped by norm"]), pools[2]
    prepared = prepare(made, pool.devices)
    simulated, live = [], []
    plan, _ = make_plan(prepared.workload, prepared.cluster, "resident-lrtf", commands=simulated)
    train(prepared, plan=plan, commands=live, pool=pool)
    assert normal_form(live) == normal_form(simulated)


def test_updates_are_profiled_and_charged(pools, tmp_path):
    made, pool = jobs(**OPTIONS["AdamW"]), pools[1]
    prepared = prepare(made, pool.devices)
    measured = profile(prepared, rounds=1, minibatches=2, pool=pool, path=tmp_path / "profile.json")
    assert Profile.read(tmp_path / "profile.json") == measured
    learning = {
        (job.name, index) for job in prepared.workload.jobs for index, s in enumerate(job.shards) if s.gradient_bytes
    }
    assert {(job, shard) for job, _, shard in measured.updates} == learning
    timeline = simulate(prepared.workload, prepared.cluster, "fifo", costs=measured.costs(prepared.cluster))
    for span in (span for span in timeline.spans if span.kind == Kind.UPDATE.value):
        unit = ShardUnit.parse(span.unit)
        assert span.duration_s >= 0.999 * measured.updates[unit[:3]].mean_s > 0


class Breaks(torch.optim.SGD):
    """Raises in its second step, or ends its process."""

    def __init__(self, parameters, how):
        super().__init__(parameters, lr=0.1)
        self.how, self.steps_left = how, 10

    def step(self, closure=None):
        self.steps_left -= 1
        if not self.steps_left:
            self.how()
        return super().step(closure)


def end():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise ZeroDivisionError("no step")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (fail, r"job 'A' failed in the update of A/U\d#\d+ in host memory: ZeroDivisionError: no step"),
        (end, "the process that updates in host memory was killed by SIGKILL"),
    ],
)
def test_what_breaks_there_is_told(how, message):
    job = small_job("A", update_on="host", steps=12, optimizer=partial(Breaks, how=how))
    with pytest.raises(ExecutionError, match=message):
        train([job], [CpuDevice(1 << 20)], strict=True, recover=False)


@pytest.mark.parametrize("after", [30, 61, 120])
def test_another_process_takes_the_steps_of_one_that_was_killed(after):
    fields = {"update_on": "host", "steps": 12, "optimizer": partial(torch.optim.AdamW, lr=0.01)}
    jobs = [small_job("A", **fields), small_job("B", clip_norm=0.1, **fields)]
    answers = [expected(job) for job in jobs]
    devices, count = [CpuDevice(1 << 20)] * 2, 0
    with DevicePool(devices) as pool:

        def note(event) -> None:
            nonlocal count
            count += 1
            if count == after:
                pool.updater.end()

        result = train(prepare(jobs, devices), pool=pool, on_event=note)
    assert [d for job, answer in zip(jobs, answers, strict=True) for d in differences(job, result, answer)] == []
    assert result.faults == ("the process that updates in host memory was killed by SIGKILL.",)


def test_what_only_a_device_can_update_is_refused():
    normed = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    with pytest.raises(JobError, match=r"buffers that forwards change, as BatchNorm's; its updates must be on devices"):
        prepare([small_job("A", model=normed, update_on="host")], [CpuDevice(1 << 20)])
    first, last = nn.Linear(4, 4), nn.Linear(4, 4)
    last.weight = first.weight
    tied = nn.Sequential(first, nn.ReLU(), last, nn.Linear(4, 2))
    with pytest.raises(JobError, match="weights tied across shards; its updates must be on devices"):
        prepare([small_job("A", model=tied, cuts=(1, 2), update_on="host")], [CpuDevice(1 << 20)])
