"""Workers are killed at any moment; the run goes on, and what is trained is the same to the bit."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from executor import Control, CpuDevice, DevicePool, MinibatchDone, prepare, train
from executor.errors import ExecutionError
from executor.process import children_of
from hydrasim.command import DeviceBack, DeviceLost, Finished, Kind
from tests.executor.processes import gone, marked
from tests.executor.worlds import DATA, differences, expected, perceptron, small_job, transformer

pytestmark = pytest.mark.usefixtures("one_thread")
ROOMY, TIGHT = [CpuDevice(160_000)] * 2, [CpuDevice(96_000)] * 2


@pytest.fixture(scope="module")
def pool():
    with DevicePool(ROOMY) as pool:
        yield pool


def adam(parameters):
    return torch.optim.AdamW(parameters, lr=0.01)


def attention(name: str, seed: int, **fields):
    options = {"loss_fn": functional.cross_entropy, "dataloader": DATA["noisy"](30), "optimizer": adam, "cuts": (2,)}
    return small_job(name, model=transformer(dropout=0.1, seed=seed), seed=seed, **(options | fields))


def killer(pool, *kills: tuple[int, int]):
    """Return a callback for events that kills a device's worker after so many of them."""
    count = 0

    def note(event) -> None:
        nonlocal count
        count += 1
        for after, device in kills:
            if count == after:
                pool.workers[device].end()

    return note


def check(jobs, pool, devices, *kills, **options):
    """Train jobs while workers are killed; hold all that they became against the plain loop; return the result."""
    answers = [expected(job) for job in jobs]
    result = train(prepare(jobs, devices), pool=pool, on_event=killer(pool, *kills), **options)
    assert [d for job, answer in zip(jobs, answers, strict=True) for d in differences(job, result, answer)] == []
    assert {job.status for job in result.jobs.values()} == {"finished"}
    return result


@pytest.mark.parametrize("seed", range(6))
def test_a_worker_is_killed_at_any_moment(seed, pool):
    rng = random.Random(seed)
    jobs = [attention("A", 1), attention("B", 2, activation_mode="recompute"), small_job("C", 30)]
    policy = rng.choice(["sharded-lrtf", "resident-lrtf", "random"])
    result = check(jobs, pool, ROOMY, (rng.randrange(10, 500), rng.randrange(2)), policy=policy)
    [story] = result.faults
    assert "was killed by SIGKILL" in story


WHAT = {
    "clipped": {"clip_norm": 0.1, "accumulate": 2},
    "updated on the host": {"update_on": "host"},
    "scaled": {
        "autocast": torch.bfloat16,
        "grad_scaler": torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2),
    },
    "evaluated": {"evaluate_on": DATA["in order"](6), "epochs": 2},
    "shuffled by workers": {"dataloader": DATA["a worker"](30)},
}


@pytest.mark.parametrize("fields", WHAT.values(), ids=WHAT)
def test_what_people_train_survives_two_kills_in_little_memory(fields):
    jobs = [attention("A", 1, **fields), attention("B", 2, **fields)]
    with DevicePool(TIGHT) as pool:
        check(jobs, pool, TIGHT, (57, 0), (200, 1), chaos_seed=3)


def test_the_only_device_is_lost_and_comes_back():
    with DevicePool(ROOMY[:1]) as pool:
        events: list = []

        def note(event) -> None:
            if isinstance(event, DeviceLost | DeviceBack):
                events.append(type(event))
            kill(event)

        kill = killer(pool, (40, 0), (100, 0))
        job = attention("A", 1)
        answer = expected(job)
        result = train(prepare([job], ROOMY[:1]), pool=pool, on_event=note)
        assert differences(job, result, answer) == []
        assert events == [DeviceLost, DeviceBack] * 2
        assert len(result.faults) == 2


def test_all_devices_are_lost_at_once_and_callbacks_hear_of_each_minibatch_once(pool):
    told: list[tuple[str, int]] = []
    jobs = [attention("A", 1), small_job("B", 30)]
    callbacks = [lambda done: told.append((done.job, done.number))]
    check(jobs, pool, ROOMY, (60, 0), (60, 1), callbacks=callbacks)
    assert sorted(told) == sorted({*told})
    assert len(told) == 15 + 30


def test_a_job_may_be_added_while_a_device_is_away(pool):
    control, more = Control(), small_job("C", 6)
    answer = expected(more)

    def add(done: MinibatchDone) -> None:
        if (done.job, done.number) == ("A", 5):
            pool.workers[0].end()
        if (done.job, done.number) == ("A", 8):
            control.add(more)

    jobs = [small_job("A", 200), small_job("B", 20)]
    result = train(prepare(jobs, ROOMY, reserve_bytes=1000), pool=pool, callbacks=[add], control=control)
    assert differences(more, result, answer) == []


class Deadly(nn.Module):
    """Ends its process whenever it sees the second mini-batch's first number, but not in the pilot."""

    def __init__(self, parent: int) -> None:
        super().__init__()
        self.parent = parent

    def forward(self, x):
        if os.getpid() != self.parent and not self.training:
            os.kill(os.getpid(), signal.SIGKILL)
        return x


def test_a_unit_that_kills_whoever_runs_it_ends_the_run_with_its_name(pool):
    model = nn.Sequential(perceptron(4, 8), Deadly(os.getpid()), perceptron(8, 2))
    job = small_job(model=model, evaluate_on=small_job().dataloader, epochs=2)
    with marked() as mark:
        with pytest.raises(ExecutionError, match=r"was killed by SIGKILL during the compute of A/E1#2 \(job 'A'\)"):
            train([job], ROOMY, strict=True)
        assert gone(mark)


def test_a_kill_between_a_units_end_and_its_stores_costs_that_unit_again(pool):
    computes: list[str] = []

    def note(event) -> None:
        if isinstance(event, Finished) and event.command.kind is Kind.COMPUTE:
            computes.append(str(event.command.unit))
            if computes.count("A/F0#3") == 1 and computes[-1] == "A/F0#3":
                pool.workers[event.command.device].end()

    job = small_job("A", 6)
    answer = expected(job)
    result = train(prepare([job], ROOMY), pool=pool, on_event=note, chaos_seed=1)
    assert differences(job, result, answer) == []
    assert set(computes) == {f"A/{unit}#{n}" for n in range(6) for unit in ("F0", "L1", "B0")}


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("after", [13, 47, 90])
def test_a_killed_loader_is_replaced_and_goes_on_in_its_order(after, data, pool):
    count = 0

    def note(event) -> None:
        nonlocal count
        count += 1
        if count == after:
            os.kill(pool.loader_pids[0], signal.SIGKILL)

    fields = {"dataloader": DATA[data](14), "evaluate_on": DATA[data](6), "epochs": 3}
    jobs = [attention("A", 1, **fields), small_job("B", 6)]
    answers = [expected(job) for job in jobs]
    result = train(prepare(jobs, ROOMY), pool=pool, on_event=note)
    assert [d for job, answer in zip(jobs, answers, strict=True) for d in differences(job, result, answer)] == []
    assert len(result.faults) == 1
    assert "job 'A': its loader process ended" in result.faults[0]


def test_workers_of_a_data_loader_end_with_it(pool):
    workers: list[int] = []

    def note(event) -> None:
        if not workers:
            workers.extend(children_of(pool.loader_pids[0]))
            if workers:
                os.kill(pool.loader_pids[0], signal.SIGKILL)

    job = attention("A", 1, dataloader=DATA["a worker"](30))
    answer = expected(job)
    result = train(prepare([job], ROOMY), pool=pool, on_event=note)
    assert differences(job, result, answer) == []
    until_s = time.monotonic() + 20
    while (left := [pid for pid in workers if Path(f"/proc/{pid}").exists()]) and time.monotonic() < until_s:
        time.sleep(0.02)
    assert workers
    assert not left


class Leaving(torch.utils.data.Dataset):
    """Ends its process at one of its items."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int):
        if index == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.ones(4), torch.ones(2)


def test_a_loader_that_always_ends_at_one_mini_batch_ends_the_run():
    job = small_job(dataloader=torch.utils.data.DataLoader(Leaving(), batch_size=2))
    with marked() as mark:
        with pytest.raises(ExecutionError, match="job 'A': its loader process ended while a mini-batch was awaited"):
            train([job], ROOMY, strict=True)
        assert gone(mark)
