"""Measures ours beside real rivals, in interleaved runs on the same jobs.

python -m experiments.peers [--smoke] [--workload all] [--optimizer both] [--pairs 9] -o results/rivals

Each race leaves a file in races/; summary.json, report.md and figure.png follow from those that lie there, so that
races may be run one at a time.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from experiments.peers.contender import Task
from experiments.peers.miniature import simulate_race
from experiments.peers.race import Entry, Race, heats, joined
from experiments.peers.record import Record, read_records, record_of, write_record
from experiments.peers.registry import OURS, find_contender, missing_packages, rival_names
from experiments.peers.report import write_report
from experiments.peers.team import Limits
from experiments.peers.workloads import OPTIMIZERS, WORKLOADS, find_workload
from hydrasim.disk import make_folder
from hydrasim.errors import HydraError
from hydrasim.policies import make_policy

_BOTH = ("adamw", "sgd")
_SMOKE_PAIRS = 2
_SMOKE_PROFILE = {"rounds": 1, "minibatches": 2}


def run_race(task: Task, rivals: Sequence[str], pairs: int, command: str, *, is_smoke: bool, limits: Limits) -> Record:
    """Run one race and simulate it where the workload says so; return what is kept of it.

    Raises:
        HydraError: ours or the reference failed.
    """
    title = f"{task.workload.name} {task.optimizer}"

    def say(text: str) -> None:
        typer.echo(f"{title}: {text}", err=True)

    entries: dict[str, Entry] = {}
    for heat in heats(rivals, task.workload.most_rivals):
        with Race(task, heat, limits=limits, say=say) as race:
            race.check()
            for number in range(pairs):
                race.run_round(number)
            race.end()
        entries = joined(entries, race.entries)
    simulated = {}
    if task.workload.is_simulated:
        say("profile and simulate")
        options = {name: entry.options for name, entry in entries.items() if name != OURS and not entry.dropped}
        simulated = simulate_race(task, options, limits=limits, **(_SMOKE_PROFILE if is_smoke else {}))
    return record_of(task, entries, command, is_smoke=is_smoke, simulated=simulated)


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the races and their report.")] = Path(
        "results/rivals"
    ),
    workload: Annotated[str | None, typer.Option(help=f"{', '.join(WORKLOADS)}, or all.")] = None,
    optimizer: Annotated[str | None, typer.Option(help=f"{', '.join(OPTIMIZERS)}, or both: adamw and sgd.")] = None,
    peers: Annotated[str, typer.Option(metavar="A,B,C", help="Rivals, in place of the workload's own.")] = "",
    pairs: Annotated[int, typer.Option(min=1, help="Rounds: runs of each rival beside one of ours.")] = 9,
    policy: Annotated[str, typer.Option(help="By which ours trains.")] = "resident-lrtf",
    limit_s: Annotated[float, typer.Option(min=1, help="Seconds after which a run counts as hung.")] = 300.0,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Tiny models of W-het under adamw, two rounds: that it works, no numbers.")
    ] = False,
) -> None:
    """Measure ours beside real rivals, by default on all workloads under adamw and sgd.

    Exit code 1: a rival failed or trained something else; 2: ours did, or nothing could be run.
    """
    command = shlex.join(["python", "-m", "experiments.peers", *sys.argv[1:]])
    try:
        tasks = _tasks(
            workload or ("W-het" if smoke else "all"), optimizer or ("adamw" if smoke else "both"), policy, smoke=smoke
        )
        chosen = [name.strip() for name in peers.split(",") if name.strip()]
        _check_names(chosen, policy)
        make_folder(output)
        for task in tasks:
            rivals = chosen or list(task.workload.rivals)
            record = run_race(
                task, rivals, _SMOKE_PAIRS if smoke else pairs, command, is_smoke=smoke, limits=Limits(run_s=limit_s)
            )
            write_record(record, output)
            records = read_records(output, is_smoke=smoke)
            write_report(records, output, command)
    except HydraError as reason:
        typer.echo(str(reason), err=True)
        raise typer.Exit(2) from None
    typer.echo((output / "report.md").read_text())
    if any(_failed(entry) for record in records for entry in record["contenders"].values()):
        raise typer.Exit(1)


def _failed(entry: Record) -> bool:
    return bool(entry["dropped"]) and not missing_packages(entry["name"])


def _tasks(workload: str, optimizer: str, policy: str, *, smoke: bool) -> list[Task]:
    """Return the races to run.

    Raises:
        HydraError: there is no such workload or optimizer.
    """
    names = tuple(WORKLOADS) if workload == "all" else (workload,)
    flavours = _BOTH if optimizer == "both" else (optimizer,)
    if unknown := next((flavour for flavour in flavours if flavour not in OPTIMIZERS), None):
        raise HydraError(f"no optimizer is named {unknown!r}; there are {', '.join(OPTIMIZERS)}, and both.")
    return [Task(find_workload(name, smoke=smoke), flavour, policy) for name in names for flavour in flavours]


def _check_names(rivals: list[str], policy: str) -> None:
    make_policy(policy)
    for name in rivals:
        find_contender(name)
        if name == OURS:
            raise HydraError(f"--peers names {OURS}, which is always there; there are {', '.join(rival_names())}.")


if __name__ == "__main__":
    typer.run(main)
