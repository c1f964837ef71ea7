"""`hydrasim optimal`: the best plan that a solver finds for a workload, with status, bound and gap."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from experiments import report
from experiments.inputs import Inputs, takes_inputs
from experiments.options import one_of, output_option
from hydrasim.optimum import SOLVERS, TIME_LIMITS_S, SolverName, find_optimum
from hydrasim.optimum.milp import PIECES_PER_JOB

if TYPE_CHECKING:
    from hydrasim.optimum import Optimum

_SMALLER: dict[SolverName, str] = {
    "cp-sat": "Lower minibatches, or ask for --solver milp under --effects theory, which puts units together.",
    "milp": "Lower --pieces, the most pieces that each job's units are put together into, or the number of jobs.",
}

Solver = Annotated[
    str,
    typer.Option(
        "--solver",
        callback=one_of("solvers", SOLVERS),
        help="cp-sat, or milp: the paper's program, for effects theory, on units put together.",
    ),
]
TimeLimit = Annotated[
    float | None,
    typer.Option(
        "--time-limit",
        min=0.0,
        metavar="S",
        help=f"Seconds for the solver, else {TIME_LIMITS_S['cp-sat']:g} or {TIME_LIMITS_S['milp']:g}. cp-sat counts "
        "operations instead of the clock, a second's worth taking one to five, so that it always gives the same "
        "answer; with transfers its plan is polished then, for less than as long again, counted too. For milp it is "
        "HiGHS's own clock, at which it looks between steps. Not counted is what comes before: simulating the "
        "policies, building the program.",
    ),
]
Pieces = Annotated[
    int,
    typer.Option(
        "--pieces",
        min=1,
        max=PIECES_PER_JOB,
        help="With milp, into how many pieces a job's units are put at most.",
    ),
]
PlanFile = Annotated[Path | None, output_option("--output", "-o", text="Write the plan (.json).")]
GanttFile = Annotated[
    Path | None, output_option("--gantt", text="Draw the plan's timeline, above that of the best policy (.png, .pdf).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]


@takes_inputs
def optimal(
    inputs: Inputs,
    solver: Solver = "cp-sat",
    time_limit: TimeLimit = None,
    pieces: Pieces = PIECES_PER_JOB,
    output: PlanFile = None,
    gantt: GanttFile = None,
    as_json: AsJson = False,
) -> None:
    """Find the best plan that there is, or the best one within a limit and how much better another could be.

    The policies are simulated first, then a solver starts from the best of them, unless there is too much for it.
    OPTIMAL: no plan is better, by more than a millionth of its makespan.
    """
    name = next(known for known in get_args(SolverName) if known == solver)
    limit_s = TIME_LIMITS_S[name] if time_limit is None else time_limit
    with _progress(limit_s, quiet=as_json) as on_solution:
        optimum = find_optimum(
            inputs.workload, inputs.cluster, costs=inputs.costs, effects=inputs.effects, mechanism=inputs.mechanism,
            solver=name, time_limit_s=limit_s, pieces_per_job=pieces, seed=inputs.seed,
            profile_digest=inputs.profile_digest, on_solution=on_solution,
        )  # fmt: skip
    if output is not None:
        optimum.plan.write(output)
    if gantt is not None:
        from hydrasim.gantt import draw

        timelines = [(f"plan of {optimum.plan.policy}", optimum.timeline)]
        draw([*timelines, (optimum.warm_start, optimum.warm_start_timeline)], gantt)
    if as_json:
        report.print_json(optimum_fields(optimum, inputs))
    else:
        _print(optimum, limit_s)


def optimum_fields(optimum: Optimum, inputs: Inputs) -> dict[str, Any]:
    """Return what was found as JSON values; times in seconds."""
    return {
        "label": "simulated",
        "effects": inputs.effects,
        "solver": optimum.solver,
        "status": optimum.status,
        "makespan_s": optimum.makespan_s,
        "bound_s": optimum.bound_s,
        "gap_fraction": optimum.gap_fraction,
        "bounds": optimum.bounds,
        "planned_by": optimum.plan.policy,
        "warm_start": optimum.warm_start,
        "warm_start_s": optimum.warm_start_s,
        "policies": [
            {"policy": name, "makespan_s": seconds, "ratio": _ratio(seconds, optimum)}
            for name, seconds in optimum.policies_s.items()
        ],
        "num_units": inputs.workload.num_units,
        "model": asdict(optimum.model),
        "refused": optimum.model.statement if optimum.model.status == "REFUSED" else None,
    }


def _ratio(makespan_s: float, optimum: Optimum) -> float | None:
    return makespan_s / optimum.makespan_s if optimum.makespan_s else None


def _print(optimum: Optimum, limit_s: float) -> None:
    """Print the policies beside the plan, what proves it, and the summary."""
    rows = sorted(optimum.policies_s.items(), key=lambda row: row[1])
    ratios = [(_ratio(seconds, optimum), name, seconds) for name, seconds in rows]
    cells = [(name, report.seconds(s), "-" if ratio is None else f"{ratio:.3f}") for ratio, name, s in ratios]
    report.print_table(("policy", "makespan", "x best plan"), cells)
    report.print_table(
        ("no plan takes less, by", "bound"), [(name, report.seconds(s)) for name, s in optimum.bounds.items()]
    )
    model = optimum.model
    if model.status == "NOT NEEDED":
        typer.echo("no solver was needed: the best policy meets a bound")
    elif model.status == "REFUSED":
        typer.echo(f"no solver was tried: {model.statement}")
        typer.echo(f"  {_SMALLER[optimum.solver]}")
    else:
        typer.echo(
            f"{optimum.solver} within {limit_s:g} s: {model.status}, {model.num_pieces:,} pieces, "
            f"{model.num_variables:,} variables, {model.num_constraints:,} constraints; {model.statement}"
        )
    typer.echo(
        f"simulated: {optimum.status}, makespan {report.seconds(optimum.makespan_s)}, bound "
        f"{report.seconds(optimum.bound_s)}, gap {report.percent(optimum.gap_fraction, 2)}; "
        f"{optimum.warm_start} takes {report.seconds(optimum.warm_start_s)}"
    )


@contextmanager
def _progress(limit_s: float, *, quiet: bool) -> Iterator[Callable[[], None] | None]:
    """Show on standard error how long all has taken, the solver's limit, and how many better plans it found."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.description}, {task.completed} better plans")
    limit = TextColumn(f"limit {limit_s:g} s")
    with Progress(
        SpinnerColumn(), text, TimeElapsedColumn(), limit, console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("solving", total=None)
        yield lambda: bar.advance(task)
