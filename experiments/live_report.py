"""How real runs are shown to people: the demo's tables and steps, one run's summary, a validation's errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from experiments import report

if TYPE_CHECKING:
    from executor import RunResult
    from experiments.demo import Demo
    from experiments.validation import Validation


def run_fields(result: RunResult, predicted_s: float | None) -> dict[str, Any]:
    """Return a run's header, totals and losses as JSON values; times in seconds, sizes in bytes."""
    return {
        **result.timeline.header,
        "makespan_s": result.makespan_s,
        "simulated_makespan_s": predicted_s,
        "error_fraction": None if predicted_s is None else predicted_s / result.makespan_s - 1,
        **report.utilization_fields(result.timeline),
        "moved_bytes": result.timeline.moved_bytes,
        "peak_bytes": list(result.peak_bytes),
        "host_bytes": result.host_bytes,
        "faults": list(result.faults),
        "jobs": {
            name: {"status": job.status, "losses": list(job.losses), "error": job.error}
            for name, job in result.jobs.items()
        },
    }


def print_run(result: RunResult, predicted_s: float | None) -> None:
    """Print each job's losses, and one line for the run."""
    rows = [
        (name, job.status, str(len(job.losses)), *(f"{loss:.4f}" for loss in (*job.losses[:1], *job.losses[-1:])))
        for name, job in result.jobs.items()
    ]
    report.print_table(("job", "status", "mini-batches", "first loss", "last loss"), rows)
    line = (
        f"{result.timeline.header['label']}: makespan {report.seconds(result.makespan_s)}, "
        f"idle {report.percent(1 - result.timeline.utilization())}, moved {report.size(result.timeline.moved_bytes)}"
    )
    if predicted_s is not None:
        error = report.signed_percent(predicted_s / result.makespan_s - 1)
        line += f"; simulated {report.seconds(predicted_s)}, error {error}"
    typer.echo(line)
    for name, job in result.jobs.items():
        if job.error:
            typer.echo(f"job {name} was set aside: {job.error}", err=True)
    for fault in result.faults:
        typer.echo(f"went on after a fault: {fault}", err=True)


def print_validation(done: Validation) -> None:
    """Print each plan's prediction beside what was measured."""
    rows = [
        (
            f"{case.name}: {plan.policy}",
            report.seconds(plan.simulated_s),
            report.seconds(plan.median_s),
            report.signed_percent(plan.error_fraction),
            report.signed_percent(plan.naive_error_fraction),
            report.percent(plan.spread_fraction, 1),
        )
        for case in done.cases
        for plan in case.plans
    ]
    fields = done.summary()
    report.print_table(("plan", "simulated", "/".join(fields["labels"]), "error", "naive error", "repeat spread"), rows)
    line = f"median error {100 * fields['median_error_fraction']:.1f} %"
    if fields["skill"] is not None:
        line += f", skill {fields['skill']:.2f} where the naive predictor errs (below 1 beats it)"
    if fields["kendall_tau"] is not None:
        line += f", Kendall's tau {fields['kendall_tau']:.2f} over {fields['num_separable_pairs']} pairs of plans"
    typer.echo(line)


def print_demo(demo: Demo, folder: Path) -> None:
    """Print the demo's tables and what it comes to."""
    from experiments.demo import summary

    fields = summary(demo)
    report.print_comparison(demo.comparison)
    runs = [
        (
            f"{name}: {run.policy}",
            report.seconds(run.simulated.makespan_s),
            report.seconds(run.result.makespan_s),
            report.signed_percent(run.error_fraction),
        )
        for name, run in (("best plan", demo.best), ("worst plan", demo.worst))
    ]
    report.print_table(("executed", "simulated", fields["label"], "error"), runs)
    report.print_table(
        ("job", "loss before", "loss after"),
        [(name, f"{ends['before']:.3f}", f"{ends['after']:.3f}") for name, ends in fields["losses"].items()],
    )
    budget = f"{report.percent(fields['budget_fraction'])} of the largest model's state"
    peak = report.size(fields["activation_peak_bytes"])
    typer.echo(
        f"gain of the best plan over the worst: simulated {fields['simulated_gain']:.2f}x, "
        f"{fields['label']} {fields['measured_gain']:.2f}x\n"
        f"device memory {report.size(fields['device_memory_bytes'])}: {budget} plus an activation peak of {peak}\n"
        f"weights, optimizer state and losses byte-identical to the reference loop: "
        f"{'yes' if demo.bit_identical else 'NO'}\n"
        f"files in {folder}: gantt.png, trace.json (ui.perfetto.dev), timelines, plans, profile.json, summary.json"
    )


@contextmanager
def steps(*, quiet: bool) -> Iterator[Any]:
    """Show each step of the demo as a line with a bar on standard error."""
    from experiments.progress import Progress

    if quiet:
        yield Progress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )  # fmt: skip
    console = Console(stderr=True)
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        yield _BarProgress(bar, console)


class _BarProgress:
    """Draws the demo's steps; where there is no terminal, a line a step."""

    def __init__(self, bar: Any, console: Any) -> None:
        self._bar, self._console = bar, console
        self._task: Any = None

    def step(self, title: str, total: int) -> Callable[[], None]:
        """End the step before and begin this one."""
        if not self._console.is_terminal:
            self._console.print(f"{title} ...")
        if self._task is not None:
            task = self._bar.tasks[self._task]
            self._bar.update(self._task, total=task.total or 1, completed=task.total or 1)
            self._bar.stop_task(self._task)
        self._task = self._bar.add_task(title, total=total or None)
        return partial(self._bar.advance, self._task)
