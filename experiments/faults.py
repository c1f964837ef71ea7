"""Whether a run survives what is killed in it: workers and loaders, at instants uniform over the run.

    python -m experiments.faults [--faults 200] [--in-place] -o results/faults

Three jobs train on two emulated devices with slow links, so that loads and stores take time. Once undisturbed, held
against the plain loop; then again and again, each time with one process killed, held against the undisturbed run bit
by bit. --in-place has states stored where they lie, not beside, and must go wrong: so the campaign would see it.
"""

from __future__ import annotations

import os
import random
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from executor import CpuDevice, DevicePool, RunResult, TorchJob, prepare, train
from executor.compare_state import identical
from executor.errors import ExecutionError
from executor.host_store import HostStore
from executor.prepare import Prepared
from executor.process import children_of
from executor.reference import train_plain
from experiments.faults_report import write_report
from experiments.report import step_progress
from hydrasim.command import Command, DeviceLost, Event, Kind
from hydrasim.disk import make_folder
from hydrasim.errors import HydraError

_WIDTH, _BATCH, _MINIBATCHES = 48, 8, 12
_LINK_BYTES_PER_S = 20e6
_MEMORY_BYTES = 450_000  # holds all state of job B, which is stored late, and none of the others'
_PATIENCE_S, _MOMENT_S = 60.0, 5.0
_POLICIES = ("sharded-lrtf", "resident-lrtf", "round-robin", "random")
_LOADER_SHARE = 0.15  # of the faults


@dataclass
class Trial:
    """One run with one fault. victim: "worker 0" or a job's loader. struck: it was killed before the run was over.

    under_way: what it was doing, by lane.

    wrong: what differs from the undisturbed run. leaked: descriptors and processes more than before.
    """

    number: int
    policy: str
    victim: str
    at_s: float
    struck: bool = False
    under_way: tuple[str, ...] = ()
    makespan_s: float = 0.0
    wrong: tuple[str, ...] = ()
    error: str = ""
    hung: bool = False
    leaked: int = 0


def jobs() -> list[TorchJob]:
    """Return three jobs with dropout, clipping and evaluation among them, the same at every call."""
    return [_job("A", 10, dropout=0.1), _job("B", 3, clip_norm=0.5), _job("C", 10, epochs=2, evaluates=True)]


def _job(name: str, depth: int, *, dropout: float = 0.0, evaluates: bool = False, **fields: object) -> TorchJob:
    seed = ord(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        block = [nn.Linear(_WIDTH, 2 * _WIDTH), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * _WIDTH, _WIDTH)]
        layers = [nn.Sequential(*block), *(nn.Sequential(nn.Linear(_WIDTH, _WIDTH), nn.Tanh()) for _ in range(depth))]
        inputs, targets = torch.randn(_MINIBATCHES * _BATCH, _WIDTH), torch.randn(_MINIBATCHES * _BATCH, _WIDTH)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=_BATCH, shuffle=True)
    return TorchJob(
        name,
        nn.Sequential(*layers),
        functional.mse_loss,
        loader,
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        seed=seed,
        evaluate_on=DataLoader(TensorDataset(inputs[:16], targets[:16]), batch_size=_BATCH) if evaluates else None,
        **fields,  # type: ignore[arg-type]
    )


class Campaign:
    """Runs of the same jobs, undisturbed first."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._devices = [CpuDevice(_MEMORY_BYTES, _LINK_BYTES_PER_S)] * 2
        self.pool = DevicePool(self._devices)
        self._answer = self._undisturbed()
        prepared = self._prepared()
        self.makespan_s = {
            policy: train(prepared, pool=self.pool, policy=policy, update_models=False).makespan_s
            for policy in _POLICIES
        }
        self._open = _descriptors() + self._processes()

    def _prepared(self) -> Prepared:
        return prepare(jobs(), self._devices)

    def _undisturbed(self) -> dict[str, torch.Tensor]:
        """Return what training comes to.

        Raises:
            HydraError: it is not what the plain loop comes to.
        """
        prepared = self._prepared()
        result = train(prepared, pool=self.pool)
        for part, plain in zip(prepared.partitions, jobs(), strict=True):
            options = {
                name: value for name, value in vars(plain.step_options).items() if name not in ("scaling", "scale")
            }
            train_plain(
                plain.module, plain.loss_fn, plain.dataloader, plain.optimizer, epochs=plain.epochs, seed=plain.seed,
                **({} if plain.evaluate_on is None else {"evaluate": _evaluating(plain)}), **options,
            )  # fmt: skip
            mine = dict(part.job.module.named_parameters())
            if wrong := identical(mine, dict(plain.module.named_parameters())):
                raise HydraError(f"undisturbed, job {plain.name!r} is not what the plain loop trains: {wrong[0]}.")
        return _tensors(prepared, result)

    def run(self, number: int) -> Trial:
        """Run once more, and kill something on the way."""
        rng = self._rng
        victim = rng.choice("ABC") + "'s loader" if rng.random() < _LOADER_SHARE else f"worker {rng.randrange(2)}"
        policy = rng.choice(_POLICIES)
        trial = Trial(number, policy, victim, rng.uniform(0.0, self.makespan_s[policy]))
        thread = threading.Thread(target=self._try, args=(trial,), daemon=True)
        thread.start()
        thread.join(_PATIENCE_S)
        if thread.is_alive():
            trial.hung = True
            self.pool.close()
            thread.join(_PATIENCE_S)
        trial.leaked = self._leaked()
        return trial

    def _leaked(self) -> int:
        """Return how many descriptors and processes are left that should not; what ends by itself gets a moment."""
        until_s = time.monotonic() + _MOMENT_S
        while (left := self._processes() + _descriptors() - self._open) > 0 and time.monotonic() < until_s:
            time.sleep(0.05)
        return max(0, left)

    def _try(self, trial: Trial) -> None:
        prepared, commands, lost = self._prepared(), list[Command](), list[DeviceLost]()
        killer = _Killer(self.pool, trial)

        def note(event: Event) -> None:
            killer.start()
            if isinstance(event, DeviceLost):
                lost.append(event)

        try:
            result = train(prepared, pool=self.pool, policy=trial.policy, commands=commands, on_event=note)
        except HydraError as reason:
            trial.error, trial.struck = str(reason), True
            return
        finally:
            killer.join()
        trial.makespan_s, trial.struck = result.makespan_s, bool(result.faults)
        trial.wrong = tuple(identical(_tensors(prepared, result), self._answer))
        if lost:
            trial.under_way = _under_way(result, commands, lost[0])
        elif result.faults:
            trial.under_way = ("fetch",) if "awaited" in result.faults[0] else ()

    def _processes(self) -> int:
        """Return how many processes the pool has, loaders included."""
        self.pool.start()
        return len(_descendants(os.getpid()))


class _Killer:
    """Kills a trial's victim so long after the run has begun."""

    def __init__(self, pool: DevicePool, trial: Trial) -> None:
        self._pool, self._trial = pool, trial
        self._timer = threading.Timer(trial.at_s, self._kill)
        self._has_begun = False

    def start(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._timer.start()

    def join(self) -> None:
        self._timer.cancel()
        if self._has_begun:
            self._timer.join()

    def _kill(self) -> None:
        if self._trial.victim.startswith("worker"):
            self._pool.workers[int(self._trial.victim[-1])].end()
        else:
            loaders = self._pool.loader_pids
            with_index = "ABC".index(self._trial.victim[0])
            if with_index < len(loaders):
                os.kill(loaders[with_index], signal.SIGKILL)


def _under_way(result: RunResult, commands: list[Command], lost: DeviceLost) -> tuple[str, ...]:
    """Return what a lost device was doing: of each lane its first command without an end, if that could have begun."""
    ends = {span.number: span.end_s for span in result.timeline.spans}
    found: dict[object, Command] = {}
    for command in commands:
        if command.device == lost.device and command.number not in ends:
            found.setdefault(command.lane, command)
    ready = [c for c in found.values() if all(ends.get(number, lost.at_s + 1) <= lost.at_s for number in c.after)]
    return tuple("commit" if c.kind is Kind.STORE and c.block and c.block.kind == "w" else c.kind.value for c in ready)


def _tensors(prepared: Prepared, result: RunResult) -> dict[str, torch.Tensor]:
    """Return all that training came to: weights, optimizer state, losses and metrics."""
    found: dict[str, torch.Tensor] = {}
    for part in prepared.partitions:
        name, job = part.job.name, result.jobs[part.job.name]
        found |= {f"{name}: {key}": value.detach().clone() for key, value in part.job.module.state_dict().items()}
        for parameter, state in job.optimizer_state.items():
            found |= {f"{name}: {parameter}: {key}": value for key, value in state.items()}
        found[f"{name}: losses"] = torch.tensor([*job.losses, *job.metrics], dtype=torch.float64)
    return found


def _evaluating(job: TorchJob) -> object:
    from executor.reference_evaluation import evaluate_plain

    return lambda model: evaluate_plain(model, job.metric_fn, job.evaluate_on)


@contextmanager
def in_place() -> Iterator[None]:
    """Have states stored where they lie, so that a store that is cut off leaves them torn."""
    own = HostStore.spare, HostStore.commit, HostStore.give_back
    HostStore.spare = lambda store, key: store.location[key]  # type: ignore[method-assign]
    HostStore.commit = HostStore.give_back = lambda *_: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        HostStore.spare, HostStore.commit, HostStore.give_back = own  # type: ignore[method-assign]


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _descendants(pid: int) -> list[int]:
    """Return the processes that a process started, and theirs."""
    children = children_of(pid)
    return children + [below for child in children for below in _descendants(child)]


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the report.")] = Path("results/faults"),
    faults: Annotated[int, typer.Option(min=1, help="How many runs, with one fault each.")] = 200,
    seed: Annotated[int, typer.Option(help="Of victims, policies and instants.")] = 0,
    torn: Annotated[
        bool, typer.Option("--in-place", help="States are stored where they lie: this must go wrong.")
    ] = False,
) -> None:
    """Kill workers and loaders at instants uniform over a run; every run must end in the same bits.

    Exit code 1: one did not, hung, or left something behind; with --in-place: none did.
    """
    command = shlex.join(["python", "-m", "experiments.faults", *sys.argv[1:]])
    torch.set_num_threads(1)
    try:
        make_folder(output)
        started_s = time.monotonic()
        campaign = Campaign(seed)
        trials = []
        with step_progress(faults, "faults", quiet=False) as advance, in_place() if torn else nullcontext():
            for number in range(faults):
                trials.append(campaign.run(number))
                if advance is not None:
                    advance(1)
        campaign.pool.close()
        found = write_report(trials, output, command, campaign.makespan_s, time.monotonic() - started_s, in_place=torn)
    except (HydraError, ExecutionError) as reason:
        typer.echo(str(reason), err=True)
        raise typer.Exit(2) from None
    typer.echo((output / "report.md").read_text())
    bad = found["num_wrong"] + found["num_hung"] + found["num_leaked"] + found["num_failed"]
    if bool(bad) is not torn:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
