"""Runs that end in the middle go on from their checkpoints, with the bits of one that never ended."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from executor import Checkpoints, Control, CpuDevice, DevicePool, Suspended, prepare, train
from executor.checkpoint import checkpoints_in
from executor.errors import CheckpointError, ExecutionError
from hydrasim.command import Finished, Kind
from hydrasim.workload import ShardUnit
from tests.executor.processes import gone, marked
from tests.executor.worlds import DATA, differences, expected, perceptron, small_job, transformer

pytestmark = pytest.mark.usefixtures("one_thread")
ROOMY, TIGHT = [CpuDevice(160_000)] * 2, [CpuDevice(96_000)] * 2
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pool():
    with DevicePool(ROOMY) as pool:
        yield pool


class Ended(Exception):
    """What ends a run in the middle."""


def ending(job: str, number: int):
    """Return a callback that ends a run when a job has trained on so many mini-batches."""

    def check(done) -> None:
        if (done.job, done.number) == (job, number):
            raise Ended

    return check


def attention(name: str, seed: int, **fields):
    options = {
        "loss_fn": functional.cross_entropy,
        "dataloader": DATA["noisy"](30),
        "optimizer": lambda p: torch.optim.AdamW(p, lr=0.01),
        "cuts": (2,),
    }
    return small_job(name, model=transformer(dropout=0.1, seed=seed), seed=seed, **(options | fields))


def normed(name: str, seed: int, **fields):
    """A job whose forwards change statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))
    return small_job(name, 15, model=model, seed=seed, cuts=(3,), **fields)


def end_early(jobs, devices, checkpoints: Checkpoints, after: tuple[str, int], **options) -> None:
    with pytest.raises(ExecutionError, match="Ended"):
        train(prepare(jobs, devices), checkpoints=checkpoints, callbacks=[ending(*after)], strict=True, **options)


def resume(jobs, devices, checkpoints: Checkpoints, **options):
    """Go on with jobs that are as they were at first; hold all that they became against the plain loop."""
    answers = [expected(job) for job in jobs]
    result = train(prepare(jobs, devices), checkpoints=checkpoints, resume=True, **options)
    assert [d for job, answer in zip(jobs, answers, strict=True) for d in differences(job, result, answer)] == []
    return result


WHAT = {
    "plain": {},
    "clipped": {"clip_norm": 0.1, "accumulate": 2},
    "updated on the host": {"update_on": "host"},
    "scaled": {
        "autocast": torch.bfloat16,
        "grad_scaler": torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2),
    },
    "scheduled": {"scheduler": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 15)},
    "momentum": {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)},
}


@pytest.mark.parametrize("fields", WHAT.values(), ids=WHAT)
def test_what_people_train_goes_on_with_the_same_bits(fields, tmp_path, pool):
    def jobs():
        return [attention("A", 1, **fields), attention("B", 2, **fields), normed("C", 3)]

    checkpoints = Checkpoints(tmp_path, every=3)
    end_early(jobs()[:2], ROOMY, checkpoints, ("B", 9), pool=pool)
    assert checkpoints_in(checkpoints.of("A"))
    result = resume(jobs(), ROOMY, checkpoints, pool=pool)  # C joins them, and begins at its beginning
    assert {job.status for job in result.jobs.values()} == {"finished"}


@pytest.mark.parametrize("data", DATA)
def test_data_goes_on_where_it_was(data, tmp_path, pool):
    """Of three epochs of 7 mini-batches, each evaluated on 3, in the middle of one, and at the ends of others."""

    def jobs():
        data_of = {"dataloader": DATA[data](14), "evaluate_on": DATA[data](6), "epochs": 3}
        return [normed("A", 1), attention("B", 2, **data_of), attention("C", 3, **data_of)]

    checkpoints = Checkpoints(tmp_path, every=2)
    end_early(jobs(), ROOMY, checkpoints, ("B", 6), pool=pool)
    end_early(jobs(), ROOMY, checkpoints, ("B", 10), pool=pool, resume=True)
    newest = checkpoints.newest("B")
    assert newest is not None
    assert newest.facts.minibatch > 7 + 3  # in the second epoch
    resume(jobs(), ROOMY, checkpoints, pool=pool)


def test_a_job_goes_on_in_other_shards_on_other_devices_under_another_policy(tmp_path):
    checkpoints = Checkpoints(tmp_path, every=5)
    end_early([attention("A", 1), attention("B", 2)], ROOMY, checkpoints, ("A", 11), policy="sharded-lrtf")
    others = [attention("A", 1, cuts=(1, 3, 4)), attention("B", 2, cuts=None, activation_mode="recompute")]
    resume(others, [CpuDevice(110_000)], checkpoints, policy="random", chaos_seed=2)


def test_a_run_that_has_ended_has_nothing_left_to_do(tmp_path, pool):
    checkpoints = Checkpoints(tmp_path)
    train(prepare([attention("A", 1), attention("B", 2)], ROOMY), checkpoints=checkpoints, pool=pool)
    assert [path.name for path in checkpoints_in(checkpoints.of("A"))] == ["00000015"]
    result = resume([attention("A", 1), attention("B", 2)], ROOMY, checkpoints, pool=pool)
    assert result.timeline.spans == ()


def test_checkpoints_change_nothing_and_the_newest_stay(tmp_path):
    jobs = [attention("A", 1), small_job("B", 30)]
    answers = [expected(job) for job in jobs]
    result = train(prepare(jobs, TIGHT), checkpoints=Checkpoints(tmp_path, every=2, keep=3), chaos_seed=4)
    assert [d for job, answer in zip(jobs, answers, strict=True) for d in differences(job, result, answer)] == []
    assert [path.name for path in checkpoints_in(tmp_path / "B")] == ["00000030", "00000028", "00000026"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["A", "B"]
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_others_compute_while_a_job_is_saved(tmp_path, pool):
    """A job's next mini-batch waits for its checkpoint; whoever else is ready does not."""
    jobs = [attention("A", 1), attention("B", 2), attention("C", 3)]
    result = train(prepare(jobs, ROOMY), checkpoints=Checkpoints(tmp_path, every=1), pool=pool)
    spans = result.timeline.spans
    saves = [span for span in spans if span.kind == "save"]
    assert len(saves) == 45
    for save in saves:
        number = ShardUnit.parse(save.unit).minibatch
        mine = [span for span in spans if span.kind == "compute" and span.job == save.job]
        later = [span for span in mine if ShardUnit.parse(span.unit).minibatch > number]
        assert all(span.start_s >= save.end_s for span in later)
    computes = [span for span in spans if span.kind == "compute"]
    assert any(c.start_s < s.end_s and s.start_s < c.end_s for s in saves for c in computes if c.job != s.job)


def test_a_job_whose_device_is_lost_goes_on_from_its_checkpoint(tmp_path):
    restored: list[int] = []
    with DevicePool(ROOMY[:1]) as pool:

        def note(event) -> None:
            if not isinstance(event, Finished):
                return
            if event.command.kind is Kind.RESTORE:
                restored.append(event.command.unit.minibatch)
            if event.command.kind is Kind.COMPUTE and str(event.command.unit) == "A/B0#7" and not restored:
                pool.workers[0].end()

        job = small_job("A", 12)
        answer = expected(job)
        prepared = prepare([job], ROOMY[:1])
        result = train(prepared, pool=pool, on_event=note, checkpoints=Checkpoints(tmp_path, every=3))
    assert restored == [6]
    assert differences(job, result, answer) == []


def test_a_job_whose_checkpoint_is_damaged_when_it_is_to_go_back_there_is_set_aside(tmp_path):
    """Its device is lost with its newest state, and somebody has meddled with what was saved."""
    before = [parameter.clone() for parameter in small_job("A", 12).module.parameters()]
    job, other = small_job("A", 12), small_job("B", 12)
    answer = expected(other)
    with DevicePool(ROOMY[:1]) as pool:

        def note(event) -> None:
            ended = isinstance(event, Finished) and event.command.kind is Kind.COMPUTE
            if ended and str(event.command.unit) == "A/B0#7" and not pool.workers[0].has_ended:
                (tmp_path / "A" / "00000006" / "model-00001-of-00002.safetensors").write_bytes(b"no")
                pool.workers[0].end()

        prepared = prepare([job, other], ROOMY[:1])
        result = train(prepared, pool=pool, on_event=note, checkpoints=Checkpoints(tmp_path, every=3))
    assert result.jobs["A"].status == "failed"
    assert "model-00001-of-00002.safetensors is not as it was written" in result.jobs["A"].error
    assert all(torch.equal(a, b) for a, b in zip(before, job.module.parameters(), strict=True))
    assert differences(other, result, answer) == []


def test_a_loader_that_is_killed_before_a_save_saves_when_it_is_back(tmp_path, pool):
    kills = 0

    def note(event) -> None:
        """Kill the loader before it is asked to save, so that the request finds it dead, or is lost with it."""
        nonlocal kills
        is_last = isinstance(event, Finished) and str(event.command.unit) == "A/B0#1"
        if is_last and event.command.kind is Kind.COMPUTE and not kills:
            kills += 1
            os.kill(pool.loader_pids[0], signal.SIGKILL)

    job = small_job("A", 4)
    answer = expected(job)
    result = train(prepare([job], ROOMY), pool=pool, on_event=note, checkpoints=Checkpoints(tmp_path, every=2))
    assert differences(job, result, answer) == []
    assert len(result.faults) == 1
    assert [path.name for path in checkpoints_in(tmp_path / "A")] == ["00000004", "00000002"]


class Limiting(torch.utils.data.Dataset):
    """Has its process write no more than a kilobyte a file, which is as if the disk were full."""

    def __init__(self) -> None:
        self.parent = os.getpid()

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int):
        if os.getpid() != self.parent and index == 7:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        return torch.full((4,), float(index)), torch.ones(2)


def test_a_checkpoint_that_cannot_be_written_sets_its_job_aside_as_the_last_one_has_it(tmp_path, pool):
    bad = small_job("A", dataloader=torch.utils.data.DataLoader(Limiting(), batch_size=2))
    wanted = small_job("A", dataloader=torch.utils.data.DataLoader(Limiting(), batch_size=2), max_steps=2)
    other, answer = small_job("B", 6), expected(wanted)
    wanted_other = expected(other)
    checkpoints = Checkpoints(tmp_path, every=2)
    result = train(prepare([bad, other], ROOMY), checkpoints=checkpoints, pool=pool)
    assert result.jobs["A"].status == "failed"
    assert re.search("cannot write the checkpoint .*00000004: .*File too large", result.jobs["A"].error)
    assert [path.name for path in (tmp_path / "A").iterdir()] == ["00000002"]
    mine = dict(bad.module.named_parameters())
    assert all(torch.equal(mine[name], answer[0][name]) for name in mine)
    assert differences(other, result, wanted_other) == []


def test_ctrl_c_ends_with_checkpoints_at_which_the_jobs_go_on(tmp_path, pool):
    def jobs():
        return [attention("A", 1), attention("B", 2, accumulate=4), small_job("C", 30)]

    def interrupt(done) -> None:
        if (done.job, done.number) == ("A", 5):
            os.kill(os.getpid(), signal.SIGINT)

    before, checkpoints = signal.getsignal(signal.SIGINT), Checkpoints(tmp_path)
    with pytest.raises(Suspended) as caught:
        train(prepare(jobs(), ROOMY), checkpoints=checkpoints, callbacks=[interrupt], pool=pool)
    assert signal.getsignal(signal.SIGINT) is before
    result = caught.value.result
    assert result.jobs["A"].status == "suspended"
    assert 6 <= len(result.jobs["A"].losses) < 15
    assert len(result.jobs["B"].losses) % 4 == 0
    resume(jobs(), ROOMY, checkpoints, pool=pool)


def test_without_checkpoints_ctrl_c_ends_the_run_at_once():
    def interrupt(done) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with marked() as mark:
        with pytest.raises(KeyboardInterrupt) as caught:
            train([small_job("A", 20)], ROOMY, callbacks=[interrupt])
        assert not isinstance(caught.value, Suspended)
        assert gone(mark)


def test_a_job_that_was_stopped_stays_stopped(tmp_path, pool):
    checkpoints = Checkpoints(tmp_path, every=2)

    def stop(done) -> bool:
        return (done.job, done.number) == ("A", 4)

    jobs = [small_job("A", 12), small_job("B", 12)]
    train(prepare(jobs, ROOMY), checkpoints=checkpoints, callbacks=[stop], pool=pool)
    job = small_job("A", 12)
    result = train(prepare([job], ROOMY), checkpoints=checkpoints, resume=True, pool=pool)
    assert result.jobs["A"].status == "stopped"
    num_trained = len(result.jobs["A"].losses)
    assert 5 <= num_trained < 12
    assert differences(job, result, expected(small_job("A", 12, max_steps=num_trained))) == []


def test_a_job_is_stopped_by_a_control_right_after_it_was_saved(tmp_path, pool):
    control = Control()

    def stop(done) -> None:
        if (done.job, done.number) == ("A", 3):
            control.stop("A")

    checkpoints = Checkpoints(tmp_path, every=1)
    job = prepare([small_job("A", 12)], ROOMY)
    train(job, checkpoints=checkpoints, callbacks=[stop], control=control, pool=pool)
    newest = checkpoints.newest("A")
    assert newest is not None
    assert newest.facts.status == "stopped"
    assert len(newest.numbers("losses")) == newest.facts.minibatch < 12


PARENT = """
import os, signal, sys
from pathlib import Path
import torch
from executor import Checkpoints, CpuDevice, prepare, train
from tests.executor.test_saving import attention

torch.set_num_threads(1)

def die(done):
    if (done.job, done.number) == ("A", int(sys.argv[2])):
        os.kill(os.getpid(), signal.SIGKILL)

jobs = [attention("A", 1), attention("B", 2)]
devices = [CpuDevice(160_000)] * 2
train(prepare(jobs, devices), checkpoints=Checkpoints(Path(sys.argv[1]), every=2), callbacks=[die])
"""


@pytest.mark.parametrize("number", [9])
def test_the_parent_is_killed_and_nothing_is_left_but_what_the_next_one_goes_on_from(number, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with marked() as mark:
        environment["HYDRASIM_TEST_MARK"] = mark
        command = [sys.executable, "-c", textwrap.dedent(PARENT), str(tmp_path), str(number)]
        ended = subprocess.run(command, env=environment, cwd=ROOT, check=False)
        assert ended.returncode == -signal.SIGKILL
        assert gone(mark)
    resume([attention("A", 1), attention("B", 2)], ROOMY, Checkpoints(tmp_path, every=2))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pool) -> Checkpoints:
    """Checkpoints of four mini-batches."""
    checkpoints = Checkpoints(tmp_path_factory.mktemp("checkpoints"))
    train(prepare([small_job("A", 4)], ROOMY), checkpoints=checkpoints, pool=pool)
    return checkpoints


def test_what_is_there_is_not_trained_over(trained):
    with pytest.raises(CheckpointError, match="has checkpoints of a job 'A'; resume it, or give another folder"):
        train([small_job("A", 4)], ROOMY, checkpoints=trained)


OTHERS = {
    "optimizer is SGD": {"optimizer": torch.optim.AdamW},
    "minibatches is 4": {"dataloader": small_job("A", 5).dataloader},
    "accumulate is 1": {"accumulate": 2},
    "F32 of": {"model": perceptron(4, 9, 2)},
    "lacks": {"model": perceptron(4, 8, 8, 2)},
    "has trained for more": {"max_steps": 3},
}


@pytest.mark.parametrize(("message", "fields"), OTHERS.items(), ids=OTHERS)
def test_checkpoints_of_another_job_are_refused(message, fields, trained):
    with pytest.raises((CheckpointError, ValueError), match=message):
        train([small_job("A", 4, **fields)], ROOMY, checkpoints=trained, resume=True)


def test_a_job_goes_back_to_the_end_of_an_epoch_with_the_orders_that_follow(tmp_path):
    """The epoch begun since is none of its; a generator of its own draws the next one's order again."""
    restored: list[int] = []
    with DevicePool(ROOMY[:1]) as pool:

        def note(event) -> None:
            if not isinstance(event, Finished):
                return
            if event.command.kind is Kind.RESTORE:
                restored.append(event.command.unit.minibatch)
            if event.command.kind is Kind.COMPUTE and str(event.command.unit) == "A/B0#10" and not restored:
                pool.workers[0].end()

        data = torch.utils.data.TensorDataset(torch.arange(16.0).view(4, 4) / 9, torch.ones(4, 2))
        generator = torch.Generator().manual_seed(9)
        loader = torch.utils.data.DataLoader(data, batch_size=2, shuffle=True, generator=generator)
        job = small_job("A", dataloader=loader, epochs=6)
        answer = expected(job)
        result = train(prepare([job], ROOMY[:1]), pool=pool, on_event=note, checkpoints=Checkpoints(tmp_path, every=4))
    assert restored == [8]
    assert differences(job, result, answer) == []
