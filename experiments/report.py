"""How results are shown to people: human units, tables, summaries and progress bars."""

from __future__ import annotations

import inspect
import json
import math
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from hydrasim.command import Finished, Kind
from hydrasim.compare import ratio
from hydrasim.optimum.bounds import lower_bounds
from hydrasim.planning import host_bytes
from hydrasim.tables import job_rows
from hydrasim.utilization import UTILIZATION_KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from experiments.inputs import Inputs
    from hydrasim.command import Event
    from hydrasim.compare import Comparison, Row
    from hydrasim.policies import Policy
    from hydrasim.systems import System
    from hydrasim.timeline import Timeline
    from hydrasim.workload import Workload

_PIPE_WIDTH = 120  # columns when the output is no terminal
_NUM_UPDATES = 200  # of a progress bar


def print_json(fields: object) -> None:
    """Print one JSON value to standard output, and nothing else; what JSON cannot say (a NaN loss) is null."""
    typer.echo(json.dumps(_sayable(fields), indent=1, allow_nan=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, text: bool = False) -> None:
    """Print a table; columns after the first are numbers, and stand at the right, unless all are text."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if index and not text else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    console.print(table)


def print_error(message: str) -> None:
    """Print a message to standard error; signs that would steer a terminal are spelt out."""
    typer.echo("".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in message), err=True)


def seconds(value: float) -> str:
    """Write seconds for people: 12.3 ms, 17.87 s, 16,786 s."""
    if 0 < value < 0.1:
        return f"{value * 1000:.3g} ms"
    return f"{value:,.2f} s" if value < 1000 else f"{value:,.0f} s"


def size(nbytes: float) -> str:
    """Write bytes for people: 512 B, 1.5 MiB, 12.4 GiB."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if nbytes >= 1024**power:
            return f"{nbytes / 1024**power:,.3g} {unit}" if nbytes < 1024**4 else f"{nbytes / 1024**3:,.0f} GiB"
    return f"{nbytes:.0f} B"


def percent(fraction: float, digits: int = 0) -> str:
    """Write a fraction as %."""
    return f"{100 * fraction:.{digits}f} %"


def signed_percent(fraction: float) -> str:
    """Write a fraction that may be off in either direction as %, with its sign."""
    return f"{100 * fraction:+.1f} %"


def bound_s(timeline: Timeline, inputs: Inputs) -> float | None:
    """Return the seconds that no plan can beat; None for rival systems, some of which split a plan's mini-batches,
    and under noise, where luck can.
    """
    if "system" in timeline.header or timeline.header["effects"] == "noise":
        return None
    return max(lower_bounds(inputs.workload, inputs.cluster, inputs.costs, inputs.effects).values())


def result_fields(timeline: Timeline, inputs: Inputs) -> dict[str, Any]:
    """Return a run's header and totals as JSON values; times in seconds, sizes in bytes."""
    least_s = bound_s(timeline, inputs)
    return {
        **timeline.header,
        "makespan_s": timeline.makespan_s,
        "bound_s": least_s,
        "ratio_to_bound": None if least_s is None else ratio(timeline.makespan_s, least_s),
        **utilization_fields(timeline),
        "moved_bytes": timeline.moved_bytes,
        "peer_bytes": timeline.peer_bytes,
        "disk_bytes": timeline.disk_bytes,
        "num_units": inputs.workload.num_units,
    }


def utilization_fields(timeline: Timeline) -> dict[str, float]:
    """Return the utilization of all devices by every definition: compute_busy_fraction and so on."""
    return {f"{kind.replace('-', '_')}_fraction": timeline.utilization(kind=kind) for kind in UTILIZATION_KINDS}


def summary(timeline: Timeline, inputs: Inputs) -> str:
    """Say in one line what a run came to; idle is 1 - compute-busy, moved is between host and devices."""
    least_s = bound_s(timeline, inputs)
    times = None if least_s is None else ratio(timeline.makespan_s, least_s)
    bound = "" if times is None else f" ({times:.2f}x bound)"
    return (
        f"{timeline.header['label']}: makespan {seconds(timeline.makespan_s)}{bound}, "
        f"idle {percent(1 - timeline.utilization())}, moved {size(timeline.moved_bytes)}"
    )


def print_comparison(comparison: Comparison) -> None:
    """Print a comparison as a table, the errors of its policies, and a summary.

    Raises:
        PolicyError: no policy can run the workload.
    """
    best = comparison.best
    print_table(
        ("policy", "makespan", "x bound", "compute-busy", "moved", "loads"), list(map(_row_cells, comparison.rows))
    )
    for row in comparison.rows:
        if row.error:
            print_error(f"{row.policy}: {row.error}")
    typer.echo(
        f"simulated: best is {best.policy} with {seconds(best.makespan_s or 0.0)}; no plan takes less than "
        f"{seconds(comparison.bound_s)}; naive prediction {seconds(comparison.naive_s)}"
    )


def plan_fields(inputs: Inputs, predicted: Timeline) -> dict[str, Any]:
    """Return what a plan takes, job by job, as JSON values; times in seconds, sizes in bytes."""
    rows = {row.job: row for row in job_rows(predicted)}
    jobs = [
        {
            "name": job.name,
            "shard_bytes": [shard.state_bytes for shard in job.shards],
            "num_units": job.num_units,
            "host_bytes": host_bytes(job),
            "compute_s": rows[job.name].compute_s,
            "moved_bytes": rows[job.name].moved_bytes,
            "end_s": rows[job.name].end_s,
        }
        for job in inputs.workload.jobs
    ]
    return {"jobs": jobs, "host_bytes": sum(host_bytes(job) for job in inputs.workload.jobs)}


def print_plan(inputs: Inputs, predicted: Timeline) -> None:
    """Print what a plan takes: jobs and their shards, host memory, and the peak on every device."""
    fields = plan_fields(inputs, predicted)
    rows = []
    for job in fields["jobs"]:
        low, high, count = min(job["shard_bytes"]), max(job["shard_bytes"]), len(job["shard_bytes"])
        shards = f"{count} x {size(low)}" if low == high else f"{count} of {size(low)} to {size(high)}"
        times = (seconds(job["compute_s"]), seconds(job["end_s"]))
        rows.append(
            (job["name"], shards, f"{job['num_units']:,}", size(job["host_bytes"]), size(job["moved_bytes"]), *times)
        )
    print_table(("job", "shards", "units", "host memory", "moved", "compute", "done at"), rows)
    peaks = predicted.header.get("peak_bytes")
    devices = [
        (
            f"device {index}",
            size(peaks[index]) if peaks else "-",
            size(device.memory_bytes),
            percent(predicted.utilization(index)),
        )
        for index, device in enumerate(inputs.cluster.devices)
    ]
    print_table(("device", "peak", "memory", "compute-busy"), devices)
    typer.echo(f"host memory: {size(fields['host_bytes'])} for state and boundaries")


def policy_fields(policy: type[Policy | System]) -> dict[str, str]:
    """Return the first line of the docstring of a policy or a system, and where it comes from."""
    text = inspect.cleandoc(policy.__doc__ or "")
    source = text.partition("Source:")[2].partition("\n\n")[0]
    return {"summary": text.partition("\n")[0], "source": " ".join(source.split())}


def save_timeline(
    named: Sequence[tuple[str, Timeline]], output: Path | None, gantt: Path | None, trace: Path | None
) -> None:
    """Write the first timeline as JSON lines or Parquet, and all of them as a picture and as a trace."""
    if output is not None:
        named[0][1].write(output)
    if gantt is not None:
        from hydrasim.gantt import draw

        draw(named, gantt)
    if trace is not None:
        from hydrasim import perfetto

        perfetto.write(trace, named)


@contextmanager
def unit_progress(num_units: int, what: str, *, quiet: bool) -> Iterator[Callable[[Event], None] | None]:
    """Show how many units are done on standard error; yields the `on_event` that a run is to call."""
    with _progress(Kind.COMPUTE, num_units, what, quiet=quiet) as on_event:
        yield on_event


@contextmanager
def minibatch_progress(workload: Workload, what: str, *, quiet: bool) -> Iterator[Callable[[Event], None] | None]:
    """Show how many mini-batches were fetched, for rival systems, which have units of their own."""
    num_minibatches = sum(job.num_minibatches for job in workload.jobs)
    with _progress(Kind.FETCH, num_minibatches, what, quiet=quiet) as on_event:
        yield on_event


@contextmanager
def _progress(kind: Kind, total: int, what: str, *, quiet: bool) -> Iterator[Callable[[Event], None] | None]:
    """Show how many commands of a kind are done."""
    with step_progress(total, what, quiet=quiet) as advance:
        if advance is None:
            yield None
            return
        stride = max(1, total // _NUM_UPDATES)
        num_done = 0

        def on_event(event: Event) -> None:
            nonlocal num_done
            if isinstance(event, Finished) and event.command.kind is kind:
                num_done += 1
                if num_done % stride == 0:
                    advance(stride)

        yield on_event


@contextmanager
def step_progress(num_steps: int, what: str, *, quiet: bool) -> Iterator[Callable[[int], None] | None]:
    """Show a bar on standard error; yields what advances it, or None when there is nobody to see it."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=num_steps)
        yield lambda count: bar.advance(task, count)


def _sayable(fields: Any) -> Any:
    if isinstance(fields, dict):
        return {key: _sayable(value) for key, value in fields.items()}
    if isinstance(fields, (list, tuple)):
        return [_sayable(value) for value in fields]
    return None if isinstance(fields, float) and not math.isfinite(fields) else fields


def _row_cells(row: Row) -> tuple[str, ...]:
    if row.makespan_s is None:
        return (row.policy, "cannot run", "", "", "", "")
    ratio = "" if row.ratio_to_bound is None else f"{row.ratio_to_bound:.3f}"
    utilization, moved = percent(row.utilization or 0.0), size(row.moved_bytes or 0)
    return (row.policy, seconds(row.makespan_s), ratio, utilization, moved, f"{row.num_loads or 0:,}")
