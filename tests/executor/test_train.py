"""What goes in and what comes out of a whole run."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from executor import CpuDevice, DevicePool, prepare, train
from executor.compare_state import identical
from executor.errors import ExecutionError
from hydrasim.command import Command, Kind
from hydrasim.mechanism import PAPER, Mechanism
from hydrasim.planning import make_plan
from hydrasim.workload import Phase
from tests.executor.worlds import Tokens, differences, expected, pairs, perceptron, small_job, transformer


def check(jobs, pool, **options):
    answers = [expected(job) for job in jobs]
    result = train(jobs, pool.devices, pool=pool, **options)
    assert sum((differences(job, result, answer) for job, answer in zip(jobs, answers, strict=True)), []) == []
    return result


def test_weights_come_back_into_the_users_module(pools):
    job = small_job()
    pointers = [parameter.data_ptr() for parameter in job.module.parameters()]
    before = job.model[0][0].weight.clone()
    check([job], pools[1])
    assert not torch.equal(job.model[0][0].weight, before)
    assert [parameter.data_ptr() for parameter in job.module.parameters()] == pointers
    assert all(parameter.is_leaf and parameter.grad is None for parameter in job.module.parameters())


def test_models_are_left_alone_on_demand(pools):
    job = small_job()
    before = {name: tensor.clone() for name, tensor in job.module.state_dict().items()}
    result = train([job], pools[1].devices, pool=pools[1], update_models=False)
    assert identical(job.module.state_dict(), before) == []
    assert len(result.jobs["A"].losses) == 2


def test_a_run_leaves_random_state_loader_and_optimizer_alone(pools):
    generator = torch.Generator().manual_seed(4)
    loader = DataLoader(Tokens(6, noisy=True), batch_size=2, shuffle=True, generator=generator)
    model = transformer(16, 0.5)
    optimizer = torch.optim.AdamW(model.parameters())
    job = small_job(model=model, loss_fn=functional.cross_entropy, dataloader=loader, optimizer=optimizer)
    before = generator.get_state(), torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    train([job], pools[1].devices, pool=pools[1])
    assert torch.equal(generator.get_state(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert (random.getstate(), numpy.random.get_state()[1].tolist()) == before[2:]
    assert not optimizer.state


def test_a_plan_decides_which_activations_are_kept(pools):
    job = small_job(steps=3, activation_mode="keep")
    answer = expected(job)
    prepared = prepare([job], pools[1].devices)
    plan, _ = make_plan(prepared.workload, prepared.cluster, "fifo")
    edited = [
        replace(step, mode="recompute" if step.unit.minibatch == 1 and step.unit.shard == 0 else step.mode)
        for step in plan.devices[0]
    ]
    commands: list[Command] = []
    plan = replace(plan, devices=(tuple(replace(step, offset=None, evict=()) for step in edited),))
    result = train(prepared, plan=plan, pool=pools[1], commands=commands)
    modes = {str(c.unit): c.mode for c in commands if c.kind is Kind.COMPUTE and c.unit.phase is Phase.BACKWARD}
    assert modes == {"A/B0#0": "keep", "A/B0#1": "recompute", "A/B0#2": "keep"}
    assert differences(job, result, answer) == []


def test_a_result_says_what_it_took(pools):
    result = train([small_job(steps=3)], pools[2].devices, pool=pools[2])
    job = result.jobs["A"]
    assert (job.name, job.status, job.error, len(job.losses)) == ("A", "finished", "", 3)
    assert result.timeline.header["label"] == "emulated"
    assert len(result.peak_bytes) == 2
    assert all(
        0 <= peak <= device.memory_bytes for peak, device in zip(result.peak_bytes, pools[2].devices, strict=True)
    )
    assert max(result.peak_bytes) > 0  # the other device had nothing to do
    assert result.host_bytes > 0
    assert result.makespan_s > 0


def test_prepared_jobs_can_be_limited(pools):
    prepared = prepare([small_job(steps=4)], pools[1].devices).limited(2)
    assert len(train(prepared, pool=pools[1], update_models=False).jobs["A"].losses) == 2


class Residual(nn.Module):
    """Hands its input on beside what it made of it."""

    def forward(self, x):
        x = x[0] if isinstance(x, tuple) else x
        return x, torch.tanh(x)


class Join(nn.Module):
    def forward(self, boundary):
        return boundary[0] * boundary[1] + boundary[0]


class Expanding(nn.Module):
    """Its gradient arrives as one value seen many times, with strides of 0."""

    def forward(self, x):
        return x.sum(1, keepdim=True)


class Concatenated(nn.Module):
    """Its gradient arrives as a slice of a larger tensor."""

    def forward(self, x):
        return torch.cat([x, x.tanh()], 1)


class Sliced(nn.Module):
    """Hands on every other column, without copying them."""

    def forward(self, x):
        return x[:, ::2]


class Bias(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.value = nn.Parameter(torch.randn(*shape))

    def forward(self, x):
        return x * self.value


BOUNDARIES = {
    "residual": [nn.Linear(4, 8), Residual(), Join(), nn.Linear(8, 2)],
    "expanded gradient": [Bias(37, 101), Expanding(), nn.Linear(1, 2)],
    "sliced gradient": [Bias(37, 50), Concatenated(), nn.Linear(100, 2)],
    "strided output": [Bias(37, 101), Sliced(), nn.LayerNorm(51), nn.Linear(51, 2)],
    "transposed output": [nn.Linear(4, 8), nn.Flatten(), nn.Unflatten(1, (2, 4)), nn.Flatten(), nn.Linear(8, 2)],
    "no gradient": [nn.Linear(4, 8).requires_grad_(False), nn.Tanh(), nn.Linear(8, 2)],
    "a module used twice": [nn.Linear(4, 4), *[nn.Tanh()] * 2, nn.Linear(4, 2)],
}


@pytest.mark.parametrize("name", BOUNDARIES)
def test_boundaries_of_every_kind_are_exact(name, pools):
    torch.manual_seed(1)
    model = nn.Sequential(*BOUNDARIES[name])
    wide = isinstance(model[0], Bias)
    data = pairs(3, model[0].value.shape[1], 2, batch=37) if wide else pairs(3)
    check([small_job(model=model, dataloader=data, cuts=tuple(range(1, len(model))))], pools[2])


def test_a_module_used_twice_in_a_row_counts_twice(pools):
    tanh = nn.Tanh()
    check([small_job(model=nn.Sequential(nn.Linear(4, 4), tanh, nn.Linear(4, 2), tanh))], pools[1])


OPTIMIZERS = {
    "groups by dimension": lambda parameters: torch.optim.AdamW(
        [{"params": [p for p in parameters if p.ndim == 2], "weight_decay": 0.5}]
    ),
    "adagrad makes state at once": lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.5),
    "adafactor": torch.optim.Adafactor,
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "amsgrad": lambda p: torch.optim.AdamW(p, amsgrad=True),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_of_every_kind_are_exact(name, pools):
    check([small_job(steps=4, optimizer=OPTIMIZERS[name])], pools[1])


def test_an_optimizer_that_was_used_before_goes_on_where_it_was(pools):
    # Its state was once left behind, and training began anew.
    model = perceptron(4, 8, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for inputs, targets in pairs(2):
        functional.mse_loss(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    check([small_job(model=model, optimizer=optimizer)], pools[2])


def test_targets_may_be_nothing(pools):
    data = [(inputs, None) for inputs, _ in pairs(2)]
    check([small_job(dataloader=data, loss_fn=lambda output, _: output.square().mean())], pools[1])


def test_one_shard_on_one_device_may_store_through(pools):
    # Three stores of the only shard can be under way at once; the host store once had room for two.
    check([small_job(steps=20, cuts=())], pools[1], mechanism=Mechanism(write_back="through"))
    check([small_job(steps=20, cuts=())], pools[2], mechanism=PAPER)


def test_a_run_from_another_thread_is_as_good(pools):
    def run():
        check([small_job()], pools[1])
        ended.append(True)

    ended = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ended
    check([small_job()], pools[1])


def test_a_bf16_model_is_exact(pools):
    model = perceptron(4, 8, 2).to(torch.bfloat16)
    data = [(x.bfloat16(), y.bfloat16()) for x, y in pairs(3)]
    check([small_job(model=model, dataloader=data, optimizer=lambda p: torch.optim.AdamW(p, lr=0.1))], pools[1])


ARENA_AND_WORKING, SLACK = 64 << 20, 8 << 20  # slack: thread stacks, operators' scratch, code touched late


def anonymous_bytes(pid):
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon"))


def test_a_workers_memory_stays_within_its_device_measured_from_outside(monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "262144")  # or malloc keeps some of what was freed
    devices = [CpuDevice(ARENA_AND_WORKING)]
    jobs = [
        small_job(name, 3, perceptron(*[1024] * 7), dataloader=pairs(3, 1024, 1024, batch=256), cuts=None,
                  optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
        for name in "AB"
    ]  # fmt: skip
    prepared = prepare(jobs, devices)
    assert sum(shard.state_bytes for job in prepared.workload.jobs for shard in job.shards) > ARENA_AND_WORKING
    with DevicePool(devices) as pool:
        train([small_job()], devices, pool=pool)  # everything is loaded once
        pid, samples, over = pool.workers[0].pid, [], threading.Event()

        def sample():
            while not over.is_set():
                samples.append(anonymous_bytes(pid))
                time.sleep(0.005)

        idle = anonymous_bytes(pid)
        watcher = threading.Thread(target=sample)
        watcher.start()
        result = train(prepared, pool=pool)
        over.set()
        watcher.join()
    assert result.peak_bytes[0] <= ARENA_AND_WORKING
    assert max(samples) - idle <= ARENA_AND_WORKING + SLACK
    assert max(samples) - idle > ARENA_AND_WORKING / 2  # or the measurement saw nothing


class Outside(nn.Module):
    """A model as users write them: a stack of blocks within a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(4, 8), nn.Linear(8, 2)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.2)) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_a_module_with_a_forward_of_its_own_is_cut_and_trained(pools):
    torch.manual_seed(0)
    job = small_job(model=Outside(), cuts=(2, 4))
    answer = expected(job)
    result = train([job], pools[1].devices, pool=pools[1])
    assert differences(job, result, answer) == []


def test_the_best_job_is_the_one_with_the_least_loss(pools):
    nan = [(torch.full((3, 4), float("nan")), torch.zeros(3, 2))] * 2
    jobs = [
        small_job("slow", optimizer=lambda p: torch.optim.SGD(p, lr=1e-6), steps=6),
        small_job("quick", optimizer=lambda p: torch.optim.SGD(p, lr=0.5), steps=6),
        small_job("lost", dataloader=nan),
    ]
    result = train(jobs, pools[1].devices, pool=pools[1])
    means = {name: sum(job.losses[-3:]) / 3 for name, job in result.jobs.items()}
    assert result.best(3) is result.jobs[min(("slow", "quick"), key=means.__getitem__)]
    with pytest.raises(ExecutionError, match="no job has a number as the mean of its last 1 values by 'loss'"):
        replace(result, jobs={"lost": result.jobs["lost"]}).best()


def test_the_best_job_may_go_by_its_metric(pools):
    rates = {"slow": 1e-6, "quick": 0.5}
    jobs = [
        small_job(name, optimizer=partial(torch.optim.SGD, lr=rate), epochs=3, evaluate_on=pairs(1))
        for name, rate in rates.items()
    ]
    result = train(jobs, pools[1].devices, pool=pools[1])
    ends = {name: job.metrics[-1] for name, job in result.jobs.items()}
    assert result.best(by="metric") is result.jobs[min(ends, key=ends.__getitem__)]
    assert result.best(by="metric", greatest=True) is result.jobs[max(ends, key=ends.__getitem__)]
    with pytest.raises(ExecutionError, match="by 'accuracy'"):
        result.best(by="accuracy")
