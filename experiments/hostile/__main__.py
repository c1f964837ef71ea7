"""Runs the campaign: thousands of random simulations, hundreds of real processes, one report.

python -m experiments.hostile --simulations 5000 --processes 200
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from experiments.hostile.attacks import KINDS, draw, write_files
from experiments.hostile.processes import Outcome, run_attack
from experiments.hostile.simulations import Simulation, simulate_one
from experiments.report import step_progress
from hydrasim.disk import make_folder, write_text

LIMIT_S = 120.0  # of a process: it hangs after that; the slowest take seconds
_NUM_KEPT = 50  # failures that the summary spells out


def run_simulations(seed: int, numbers: Iterable[int]) -> dict[int, Simulation]:
    """Simulate the random worlds of these numbers."""
    return {index: simulate_one(seed, index) for index in numbers}


def run_process(seed: int, index: int, kind: str) -> Outcome:
    """Run the attack of that number and kind, in a folder of its own."""
    rng = Random(f"{seed} process {index}")
    with TemporaryDirectory(prefix="hostile-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        write_files(folder)
        return run_attack(draw(kind, folder, rng), folder, rng, LIMIT_S)


def kinds_of(num_processes: int) -> list[str]:
    """Return the kind of each process: by weight, spread evenly, every kind at least once if there is room."""
    wanted = {kind: weight * num_processes / sum(w for w, _ in KINDS.values()) for kind, (weight, _) in KINDS.items()}
    made: Counter[str] = Counter()
    for _ in range(num_processes):
        # The kind that is furthest behind; one that has not been comes first.
        made[max(wanted, key=lambda kind: ((not made[kind]), wanted[kind] - made[kind]))] += 1
    return [kind for kind in KINDS for _ in range(made[kind])]


def summarize(seed: int, simulations: dict[int, Simulation], processes: dict[int, Outcome]) -> dict[str, Any]:
    """Count what came out; failures come with what makes them again."""
    done = list(simulations.values())
    again = f"python -m experiments.hostile --seed {seed}"
    failures = [
        {"reproduce": f"{again} --only simulation:{index}", "kind": s.kind, "problem": s.problem}
        for index, s in simulations.items()
        if s.problem
    ] + [
        {"reproduce": f"{again} --processes {len(processes)} --only process:{index}", "kind": o.kind, "code": o.code,
         "command": " ".join(o.arguments), "problems": o.problems}
        for index, o in processes.items()
        if o.problems
    ]  # fmt: skip
    problems = Counter(problem for outcome in processes.values() for problem in outcome.problems)
    feasible, tight = [s for s in done if s.is_feasible], [s for s in done if s.is_feasible and s.is_tight]
    return {
        "label": "measured",
        "seed": seed,
        "num_simulations": len(done),
        "num_feasible": len(feasible),
        "feasible_fraction": len(feasible) / max(1, len(done)),
        "feasible_tight_fraction": len(tight) / max(1, len(done)),
        "num_simulations_by_kind": dict(sorted(Counter(s.kind for s in done).items())),
        "num_refused": dict(sorted(Counter(s.error for s in done if s.error).items())),
        "num_simulations_wrong": sum(bool(s.problem) for s in done),
        "num_processes": len(processes),
        "num_processes_by_kind": dict(Counter(outcome.kind for outcome in processes.values())),
        "num_exit_codes": dict(sorted(Counter(str(outcome.code) for outcome in processes.values()).items())),
        "num_tracebacks": problems["traceback"] + sum("Traceback" in s.problem for s in done),
        "num_hung": problems["hung"],
        "num_orphans": problems["orphan"],
        "num_half_written": problems["half-written"],
        "num_leftovers": problems["leftover"],
        "num_wrong_exit_codes": problems["code"],
        "num_unclear_messages": problems["message"],
        "failures": failures[:_NUM_KEPT],
    }


def report_text(found: dict[str, Any]) -> str:
    """Return the summary as a page for people."""
    rows = [f"| {key} | {value} |" for key, value in found.items() if isinstance(value, (int, float, str))]
    tables = [
        f"\n## {key}\n\n| | |\n|---|---|\n" + "\n".join(f"| {name} | {count} |" for name, count in value.items())
        for key, value in found.items()
        if isinstance(value, dict)
    ]
    failures = "\n".join(f"\n```json\n{json.dumps(failure, indent=1)}\n```" for failure in found["failures"])
    return (
        "# Bad input and bad users\n\nRandom simulations in one process, then real processes that are given bad files, "
        "options and code, are interrupted, killed, or find the disk full. Measured.\n\n| | |\n|---|---|\n"
        + "\n".join(rows) + "\n" + "\n".join(tables) + f"\n\n## failures\n\n{failures or 'None.'}\n"
    )  # fmt: skip


def main(
    simulations: Annotated[int, typer.Option(min=0, help="Random simulations in this process.")] = 5000,
    processes: Annotated[int, typer.Option(min=0, help="Real processes.")] = 200,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    output: Annotated[Path, typer.Option(help="Folder for summary.json and report.md.")] = Path("results/hostile"),
    only: Annotated[str, typer.Option(help="One case again, simulation:17 or process:17; writes nothing.")] = "",
) -> None:
    """Run the campaign; exit with 1 if anything failed."""
    kinds = kinds_of(processes)
    what, _, number = only.partition(":")
    if only and (what not in ("simulation", "process") or not number.isdecimal()
                 or (what == "process" and int(number) >= processes)):  # fmt: skip
        raise typer.BadParameter(f"{only!r} is no case; write simulation:17 or process:17, below --processes.")
    if only:
        case = (
            simulate_one(seed, int(number))
            if what == "simulation"
            else run_process(seed, int(number), kinds[int(number)])
        )
        typer.echo(str(case))
        raise typer.Exit(bool(case.problem if isinstance(case, Simulation) else case.problems))
    make_folder(output)
    done: dict[int, Simulation] = {}
    with step_progress(simulations, "simulating", quiet=False) as advance:
        for index in range(simulations):
            done |= run_simulations(seed, [index])
            if advance is not None:
                advance(1)
    ran: dict[int, Outcome] = {}
    with step_progress(processes, "attacking", quiet=False) as advance:
        for index, kind in enumerate(kinds):
            ran[index] = run_process(seed, index, kind)
            if advance is not None:
                advance(1)
    found = summarize(seed, done, ran)
    write_text(output / "summary.json", json.dumps(found, indent=1) + "\n")
    write_text(output / "report.md", report_text(found))
    typer.echo(json.dumps({key: value for key, value in found.items() if key.startswith("num_")}, indent=1))
    sys.exit(1 if found["failures"] else 0)


if __name__ == "__main__":
    typer.run(main)
