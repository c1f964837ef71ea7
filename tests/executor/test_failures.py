"""Whatever breaks, a run ends with one error that names job, unit and cause, and leaves nothing behind."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from executor import Checkpoints, CpuDevice, DevicePool, prepare, train
from executor.errors import ExecutionError, JobError
from hydrasim.command import Finished, Kind
from hydrasim.errors import HydraError
from hydrasim.planning import make_plan
from tests.executor.processes import alive, gone, marked, open_fds, wait_dead
from tests.executor.worlds import differences, expected, pairs, perceptron, small_job

ROOT = Path(__file__).resolve().parents[2]
DEVICES = [CpuDevice(1 << 20)]
PILOT_CALLS = 3  # of a layer or loss, on a copy of it: F, then B or L twice


@pytest.fixture(scope="module")
def pool():
    with DevicePool(DEVICES) as made:
        yield made


class RaisesAt(nn.Module):
    """Raises in a call that no pilot comes to."""

    def __init__(self, call=PILOT_CALLS + 2):
        super().__init__()
        self.calls_left = call

    def forward(self, x):
        self.calls_left -= 1
        if not self.calls_left:
            raise ZeroDivisionError("cannot go on")
        return x


class Hungry(RaisesAt):
    """Allocates a lot instead."""

    def forward(self, x):
        try:
            return super().forward(x)
        except ZeroDivisionError:
            return x + torch.zeros(1 << 20).sum()


class RaisingLoss(RaisesAt):
    def forward(self, output, target):
        return functional.mse_loss(super().forward(output), target)


class Data:
    """Yields these mini-batches whatever length it claims; an exception among them is raised."""

    def __init__(self, length, *batches):
        self.length, self.batches = length, batches

    def __len__(self):
        return self.length

    def __iter__(self):
        for batch in self.batches:
            if isinstance(batch, BaseException):
                raise batch
            yield batch


class Leaves(RaisesAt):
    def forward(self, x):
        try:
            return super().forward(x)
        except ZeroDivisionError:
            sys.exit(0)


class Speechless(Exception):
    def __str__(self):
        raise ValueError


class Suicide(RaisesAt):
    """Has its process killed, as the kernel does when memory runs out."""

    def forward(self, x):
        try:
            return super().forward(x)
        except ZeroDivisionError:
            os.kill(os.getpid(), signal.SIGKILL)


def with_layer(layer):
    return nn.Sequential(perceptron(4, 8), layer, perceptron(8, 2))


BATCH, LARGE = pairs(1)[0], pairs(1, batch=300)[0]
FAILURES = {
    "a layer raises": (
        {"model": with_layer(RaisesAt()), "steps": 5},
        "job 'A' failed in the compute of A/L1#4 on device 0: ZeroDivisionError: cannot go on",
    ),
    "a loss raises": (
        {"loss_fn": RaisingLoss(), "steps": 5},
        "job 'A' failed in the compute of A/L1#4 on device 0: ZeroDivisionError: cannot go on",
    ),
    "a layer takes too much memory": (
        {"model": with_layer(Hungry()), "steps": 5},
        r"job 'A' failed in the compute of A/L1#4 on device 0: BudgetExceeded: .* came to [\d,]+ bytes; .* is [\d,]+",
    ),
    "a worker is killed": (
        {"model": with_layer(Suicide()), "steps": 5},
        r"the worker of device 0 was killed by SIGKILL during the compute of A/L1#4 \(job 'A'\)",
    ),
    "a loader raises": (
        {"dataloader": Data(3, BATCH, BATCH, OSError("disk on fire"))},
        "job 'A' failed in the fetch of A/F0#2 in its loader: OSError: disk on fire",
    ),
    "a layer leaves": (
        {"model": with_layer(Leaves()), "steps": 5},
        "job 'A' failed in the compute of A/L1#4 on device 0: SystemExit: 0",
    ),
    "a loader leaves": (
        {"dataloader": Data(3, BATCH, BATCH, SystemExit(0))},
        "job 'A' failed in the fetch of A/F0#2 in its loader: SystemExit: 0",
    ),
    "a loader is interrupted": (
        {"dataloader": Data(3, BATCH, BATCH, KeyboardInterrupt())},
        "job 'A' failed in the fetch of A/F0#2 in its loader: KeyboardInterrupt",
    ),
    "a loader says nothing readable": (
        {"dataloader": Data(3, BATCH, BATCH, Speechless())},
        r"in its loader: Speechless: \(its message cannot be read\)",
    ),
    "a loader ends early": (
        {"dataloader": Data(3, BATCH, BATCH), "epochs": 2},
        "A/F0#2 in its loader: ValueError: the dataloader ended early, after 2 of 3 mini-batches",
    ),
    "a loader does not end": (
        {"dataloader": Data(2, BATCH, BATCH, BATCH), "epochs": 2},
        "A/F0#2 in its loader: ValueError: the dataloader yields more than the 2 mini-batches",
    ),
    "a larger mini-batch": (
        {"dataloader": [BATCH, LARGE]},
        r"A/F0#1 in its loader: ValueError: a mini-batch has \d+ bytes, the first had 64",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_ends_the_run_with_its_story_and_leaves_nothing(name, pool):
    fields, message = FAILURES[name]
    pool.close()
    gc.collect()
    before, jobs = open_fds(), [small_job(**fields), small_job("B")]
    with marked() as mark:
        with pytest.raises(ExecutionError, match=message):
            train(jobs, DEVICES, pool=pool, policy="sharded-lrtf", strict=True)
        assert gone(mark)
    gc.collect()
    assert open_fds() == before


@pytest.mark.parametrize("name", FAILURES)
def test_a_job_that_fails_is_set_aside_and_the_others_go_on(name, pool):
    """On one device, whose process counts calls, under chaos; others of its size take the regions that it leaves."""
    fields, message = FAILURES[name]
    bad, others = small_job(**fields), [small_job("B", 12), small_job("C", 12)]
    before = [parameter.clone() for parameter in bad.module.parameters()]
    answers = [expected(job) for job in others]
    options = {"policy": "random", "chaos_seed": len(name), "seed": len(message)}
    result = train(prepare([bad, *others], DEVICES), pool=pool, **options)
    assert [d for job, answer in zip(others, answers, strict=True) for d in differences(job, result, answer)] == []
    assert {name: job.status for name, job in result.jobs.items()} == {"A": "failed", "B": "finished", "C": "finished"}
    assert re.search(message, result.jobs["A"].error)
    assert all(torch.equal(a, b) for a, b in zip(before, bad.module.parameters(), strict=True))


def test_a_job_whose_loss_is_no_number_is_set_aside():
    class Diverging(nn.Module):
        def forward(self, x):
            return x / 0 if x.shape[0] == 2 else x

    data = [*pairs(3), (torch.zeros(2, 4), torch.zeros(2, 2)), *pairs(3)]
    bad, other = small_job(model=with_layer(Diverging()), dataloader=data), small_job("B", 12)
    answer = expected(other)
    result = train([bad, other], DEVICES)
    assert differences(other, result, answer) == []
    assert result.jobs["A"].status == "failed"
    assert result.jobs["A"].error == "job 'A': the loss of mini-batch 3 is nan"
    assert len(result.jobs["A"].losses) == 4


def test_a_callback_that_fails_sets_its_job_aside_and_is_called_for_others():
    told: list[tuple[str, int]] = []

    def callback(done) -> None:
        told.append((done.job, done.number))
        if (done.job, done.number) == ("A", 2):
            raise OSError("disk on fire")

    result = train([small_job("A", 6), small_job("B", 6)], DEVICES, callbacks=[callback])
    assert [job.status for job in result.jobs.values()] == ["failed", "finished"]
    assert "a callback failed after mini-batch 2 of job 'A': OSError: disk on fire" in result.jobs["A"].error
    assert [number for job, number in told if job == "B"] == list(range(6))
    assert max(number for job, number in told if job == "A") == 2


def test_a_failed_job_has_the_weights_of_its_last_checkpoint(tmp_path):
    bad = small_job(model=with_layer(RaisesAt()), steps=9)
    wanted = small_job(model=with_layer(nn.Identity()), steps=9, max_steps=4)
    answer = expected(wanted)
    result = train([bad, small_job("B")], DEVICES, checkpoints=Checkpoints(tmp_path, every=2))
    assert result.jobs["A"].status == "failed"
    mine, theirs = list(bad.module.parameters()), [answer[0][name] for name, _ in wanted.module.named_parameters()]
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_a_job_fails_under_a_plan_and_the_others_follow_it():
    bad, other = small_job(model=with_layer(RaisesAt()), steps=8), small_job("B", 12)
    answer = expected(other)
    prepared = prepare([bad, other], DEVICES * 2)
    plan, _ = make_plan(prepared.workload, prepared.cluster, "sharded-lrtf")
    result = train(prepared, plan=plan)
    assert differences(other, result, answer) == []
    assert result.jobs["A"].status == "failed"


def test_the_trace_of_the_users_code_comes_along(pool):
    with pytest.raises(ExecutionError) as caught:
        train([small_job(model=with_layer(RaisesAt()), steps=5)], DEVICES, pool=pool, strict=True)
    assert 'raise ZeroDivisionError("cannot go on")' in caught.value.worker_traceback


def test_a_loader_that_cannot_be_unpickled_there_is_told(pool):
    # Its failure once had no command to belong to, and became a KeyError in the parent.
    class Picky(Data):
        def __reduce__(self):
            return refuse, (os.getpid(), 2, BATCH, BATCH)

    def refuse(pid, *arguments):
        if os.getpid() != pid:
            raise ImportError("not here")
        return Picky(*arguments)

    with pytest.raises(ExecutionError, match="job 'A': its loader could not be set up: ImportError: not here"):
        train([small_job(dataloader=Picky(2, BATCH, BATCH))], DEVICES, pool=pool)


class Unpicklable(nn.Linear):
    """Can be copied for a pilot, but not sent anywhere."""

    def __init__(self):
        super().__init__(4, 2)
        self.lock = threading.Lock()

    def __deepcopy__(self, memo):
        return Unpicklable()


def test_a_model_that_cannot_travel_is_refused_before_anything_runs(pool):
    pool.close()
    with pytest.raises(JobError, match="job 'A': layer 0 cannot be sent .*: TypeError: cannot pickle"):
        train([small_job(model=nn.Sequential(Unpicklable()), cuts=())], DEVICES, pool=pool)
    assert pool.workers == []


def test_a_pool_serves_again_after_a_failure_and_after_a_death_while_idle(pool):
    with pytest.raises(HydraError):
        train([small_job(model=with_layer(RaisesAt()), steps=5)], DEVICES, pool=pool, strict=True)
    for _ in range(2):
        job = small_job()
        answer = expected(job)
        assert differences(job, train([job], DEVICES, pool=pool), answer) == []
        os.kill(pool.workers[0].pid, signal.SIGKILL)
        wait_dead(pool.workers[0].pid)


def test_a_worker_killed_from_outside_is_named_with_what_it_did(pool):
    def kill(event):
        if isinstance(event, Finished) and event.command.kind is Kind.COMPUTE and event.command.unit.minibatch == 1:
            os.kill(pool.workers[0].pid, signal.SIGKILL)

    with pytest.raises(ExecutionError, match="the worker of device 0 was killed by SIGKILL"):
        train([small_job(steps=50)], DEVICES, pool=pool, on_event=kill, recover=False)


def test_a_failure_leaves_the_users_models_as_they_were(pool):
    job, other = small_job(model=with_layer(RaisesAt()), steps=5), small_job("B")
    before = [parameter.clone() for parameter in (*job.module.parameters(), *other.module.parameters())]
    with pytest.raises(ExecutionError):
        train([job, other], DEVICES, pool=pool, strict=True)
    after = [*job.module.parameters(), *other.module.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


SCRIPT = """
    import signal, torch
    from executor import CpuDevice, TorchJob, train

    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore Ctrl-C

    layer = torch.nn.Linear(4, 2)
    batch = torch.ones(3, 4), torch.ones(3, 2)
    job = TorchJob("A", [layer], torch.nn.functional.mse_loss, [batch] * 1000,
                   lambda p: torch.optim.SGD(p, lr=0.1), epochs=1000)
    told = []

    def tell(event):
        if not told:
            told.append(print("running", flush=True))

    train([job], [CpuDevice(1 << 20)], on_event=tell)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
def test_a_stopped_script_leaves_no_process(number):
    # The script has no __main__ guard, and its process group gets no second signal.
    command, pipe = [sys.executable, "-c", textwrap.dedent(SCRIPT)], subprocess.PIPE
    with marked() as mark, subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as script:
        try:
            assert script.stdout.readline() == "running\n"
            assert len(alive(mark)) >= 4  # the script, a worker, the loaders' host, a loader
            script.send_signal(number)
            _, errors = script.communicate(timeout=60)
            assert script.returncode != 0
            assert gone(mark)
        finally:
            script.kill()  # or leaving the block would wait for it
    if number == signal.SIGINT:
        assert errors.count("KeyboardInterrupt") == 1


def test_a_run_that_ends_well_leaves_nothing_either():
    gc.collect()
    before = open_fds()
    with marked() as mark:
        train(prepare([small_job()], DEVICES))
        assert gone(mark)
    gc.collect()
    assert open_fds() == before
