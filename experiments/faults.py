"""Whether a run survives what is killed in it: any process but its own, at instants uniform over the run.

    python -m experiments.faults [--faults 200] [--in-place] -o results/faults

Four jobs train on two emulated devices with slow links, so that loads and stores take time, one of them with updates in
host memory; all are saved every other mini-batch. Once undisturbed, held against the plain loop; then again and again,
each time with one process killed, held against the undisturbed run bit by bit. --in-place has states stored where they
lie, not beside, and must go wrong: so the campaign would see it.
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
from tempfile import TemporaryDirectory
from typing import Annotated

import torch
import typer

from executor import Checkpoints, CpuDevice, DevicePool, RunResult, TorchJob, prepare, train
from executor.compare_state import identical
from executor.errors import ExecutionError
from executor.host_store import HostStore
from executor.prepare import Prepared
from executor.process import children_of
from executor.reference import train_plain
from experiments.fault_jobs import NAMES, jobs
from experiments.faults_report import write_report
from experiments.report import step_progress
from hydrasim.command import Command, DeviceLost, Event, Finished, Kind
from hydrasim.disk import make_folder
from hydrasim.errors import HydraError

_LINK_BYTES_PER_S = 20e6
_MEMORY_BYTES = 800_000  # holds all state of job B, which is stored late, and none of the others'
_SAVED_EVERY = 2
_PATIENCE_S, _MOMENT_S = 60.0, 5.0
_POLICIES = ("sharded-lrtf", "resident-lrtf", "round-robin", "random")
_LOADER_SHARE, _UPDATER_SHARE = 0.25, 0.05  # of the faults


@dataclass
class Trial:
    """One run with one fault. victim: "worker 0", a job's loader, or "updater". struck: it was killed during the run.

    under_way: what it was doing, by lane. wrong: what differs from the undisturbed run, a last checkpoint that is
    missing included. leaked: descriptors and processes more than before.
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


class Campaign:
    """Runs of the same jobs, undisturbed first."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._devices = [CpuDevice(_MEMORY_BYTES, _LINK_BYTES_PER_S)] * 2
        self.pool = DevicePool(self._devices)
        self._answer = self._undisturbed()
        prepared = self._prepared()
        self.makespan_s = {
            policy: train(prepared, pool=self.pool, policy=policy, update_models=False, strict=True).makespan_s
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
        result = train(prepared, pool=self.pool, strict=True)
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
        draw = rng.random()
        victim = "updater" if draw < _UPDATER_SHARE else f"worker {rng.randrange(2)}"
        if _UPDATER_SHARE <= draw < _UPDATER_SHARE + _LOADER_SHARE:
            victim = f"{rng.choice(NAMES)}'s loader"
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
            if isinstance(event, Finished):
                killer.start(event.end_s)
            if isinstance(event, DeviceLost):
                lost.append(event)

        with TemporaryDirectory(prefix="hydrasim-faults-") as folder:
            checkpoints = Checkpoints(Path(folder), every=_SAVED_EVERY)
            try:
                result = train(
                    prepared, pool=self.pool, policy=trial.policy, commands=commands, on_event=note, strict=True,
                    checkpoints=checkpoints,
                )  # fmt: skip
            except HydraError as reason:
                trial.error, trial.struck = str(reason), True
                return
            finally:
                killer.join()
            missing = _unsaved(prepared, checkpoints)
        trial.makespan_s, trial.struck = result.makespan_s, bool(result.faults)
        trial.wrong = (*identical(_tensors(prepared, result), self._answer), *missing)
        if lost:
            trial.under_way = _under_way(result, commands, lost[0])
        elif result.faults:
            trial.under_way = asked_of(result, trial.victim, killer.killed_s)

    def _processes(self) -> int:
        """Return how many processes the pool has, loaders included."""
        self.pool.start()
        return len(_descendants(os.getpid()))


class _Killer:
    """Kills a trial's victim so long after the run has begun. killed_s: when, on the run's clock, nearly."""

    def __init__(self, pool: DevicePool, trial: Trial) -> None:
        self._pool, self._trial = pool, trial
        self._timer = threading.Timer(trial.at_s, self._kill)
        self._has_begun = False
        self._began_s = self.killed_s = 0.0

    def start(self, now_s: float) -> None:
        """Begin with the first event. now_s: on the run's clock."""
        if not self._has_begun:
            self._has_begun, self._began_s = True, time.monotonic() - now_s
            self._timer.start()

    def join(self) -> None:
        self._timer.cancel()
        if self._has_begun:
            self._timer.join()

    def _kill(self) -> None:
        self.killed_s = time.monotonic() - self._began_s
        if self._trial.victim.startswith("worker"):
            self._pool.workers[int(self._trial.victim[-1])].end()
        elif self._trial.victim == "updater":
            if self._pool.updater is not None:
                self._pool.updater.end()
        else:
            loaders = self._pool.loader_pids
            with_index = NAMES.index(self._trial.victim[0])
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


def asked_of(result: RunResult, victim: str, killed_s: float) -> tuple[str, ...]:
    """Return what a loader or the updater had been asked for when it was killed; another has done it since."""
    kinds = {"update": "update"} if victim == "updater" else {"fetch": "fetch", "save": "checkpoint"}
    asked = (span for span in result.timeline.spans if span.kind in kinds and span.issued_s <= killed_s < span.end_s)
    ready_s = result.timeline.ready_s()
    mine = (span for span in asked if victim[0] in ("u", span.job) and ready_s[span.number] <= killed_s)
    return tuple(dict.fromkeys(kinds[span.kind] for span in mine))


def _unsaved(prepared: Prepared, checkpoints: Checkpoints) -> list[str]:
    """Return the jobs that were not saved at their end."""
    last = {job.name: job.num_minibatches for job in prepared.workload.jobs}
    newest = {name: checkpoints.newest(name) for name in last}
    return [f"{name}: checkpoint" for name, found in newest.items() if not found or found.facts.minibatch != last[name]]


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
    """Kill workers, loaders and the updater at instants uniform over a run; every run must end in the same bits.

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
