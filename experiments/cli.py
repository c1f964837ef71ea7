"""The command line: parse, call, print; what the commands do is elsewhere."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from experiments import ladder_report, live, machine_report, report, run_tables
from experiments.estimate import estimate
from experiments.experiment import experiment
from experiments.html_report import command as html_report
from experiments.inputs import Inputs, takes_inputs
from experiments.optimal import optimal
from experiments.options import output_option
from experiments.rivals import (
    SystemName,
    SystemNames,
    SystemOptions,
    options_text,
    read_system,
    system_names,
    system_rows,
)
from hydrasim.errors import HydraError, ShardTooLarge, told
from hydrasim.mechanism import OURS
from hydrasim.systems.quoted import PAPER_FIG8, SHARP

if TYPE_CHECKING:
    from hydrasim.timeline import Timeline

MISTAKE, INTERRUPTED = 2, 130  # exit codes
DEFAULT_POLICY = "resident-lrtf"


class Commands(TyperGroup):
    """Turns a user's mistake, and what the system refuses, into one message and exit code 2; Ctrl-C into 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except HydraError as error:
            report.print_error(f"{type(error).__name__}: {error}")
            raise typer.Exit(MISTAKE) from None
        except BrokenPipeError:
            raise  # whoever read the output has seen enough
        except (OSError, MemoryError) as error:
            report.print_error(f"the system refused: {told(error)}")
            with suppress(OSError):
                sys.stdout.flush()  # or it would be tried again at exit, and complained about
            raise typer.Exit(MISTAKE) from None
        except KeyboardInterrupt:
            report.print_error("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        return result


app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Profile, simulate, plan and execute the training of many large models on few devices.",
)  # fmt: skip

PolicyName = Annotated[str, typer.Option("--policy", metavar="NAME", help="A policy's name, or file.py:Name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
GanttFile = Annotated[Path | None, output_option("--gantt", text="Draw the timeline (.png, .pdf, .svg).")]
ChartFile = Annotated[Path | None, output_option("--chart", text="With --effects all, draw the ranks (.png, .pdf).")]
TraceFile = Annotated[
    Path | None, output_option("--trace", text="Write a trace with counters for ui.perfetto.dev (.json).")
]
Tables = Annotated[bool, typer.Option("--tables", help="Print a table of the jobs and one of the devices, too.")]
TimelineFile = Annotated[
    Path | None, output_option("--output", "-o", text="Write the timeline (.jsonl, .jsonl.gz, .parquet).")
]
PredictionFile = Annotated[
    Path | None, output_option("--timeline", text="Write the predicted timeline (.jsonl, .jsonl.gz, .parquet).")
]
PlanFile = Annotated[Path | None, output_option("--output", "-o", text="Write the plan (.json).")]


@app.command(epilog="Example: hydrasim simulate --preset paper-fig6 --policy sharded-lrtf --gantt fig6.png")
@takes_inputs
def simulate(
    inputs: Inputs,
    policy: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"A policy's name, or file.py:Name; else {DEFAULT_POLICY}.")
    ] = None,
    plan: Annotated[Path | None, typer.Option(metavar="FILE", help="Follow this plan instead of a policy.")] = None,
    system: SystemName = SHARP,
    option: SystemOptions = None,
    output: TimelineFile = None,
    gantt: GanttFile = None,
    trace: TraceFile = None,
    tables: Tables = False,
    as_json: AsJson = False,
) -> None:
    """Simulate one policy, a plan, or a rival system on a workload.

    The last line says the makespan, how many times the lower bound that is, the idle share of the devices
    (1 - compute-busy), and the bytes moved between host and devices.
    """
    import hydrasim
    from hydrasim.plan import Plan
    from hydrasim.policies.follow_plan import FollowPlan
    from hydrasim.systems import simulate_system

    mechanism = None if inputs.mechanism == OURS else inputs.mechanism
    own = {"--policy": policy, "--plan": plan, "--mechanism, --prefetch or --loading-zone": mechanism}
    rival = read_system(system, option or [], own)
    if rival is not None:
        with report.minibatch_progress(inputs.workload, "simulating", quiet=as_json) as on_event:
            timeline = simulate_system(
                inputs.workload, inputs.cluster, rival, costs=inputs.costs, effects=inputs.effects, seed=inputs.seed,
                on_event=on_event,
            )  # fmt: skip
        _show_run(rival.name, timeline, inputs, output, gantt, trace, tables=tables, as_json=as_json)
        return
    policy = policy or DEFAULT_POLICY
    followed = policy if plan is None else FollowPlan(Plan.read(plan))
    with report.unit_progress(inputs.workload.num_units, "simulating", quiet=as_json) as on_event:
        timeline = hydrasim.simulate(
            inputs.workload, inputs.cluster, followed, costs=inputs.costs, mechanism=inputs.mechanism,
            effects=inputs.effects, seed=inputs.seed, on_event=on_event,
        )  # fmt: skip
    _show_run(
        policy if plan is None else f"plan {plan.name}",
        timeline,
        inputs,
        output,
        gantt,
        trace,
        tables=tables,
        as_json=as_json,
    )


def _show_run(
    name: str, timeline: Timeline, inputs: Inputs, output: Path | None, gantt: Path | None, trace: Path | None,
    *, tables: bool, as_json: bool,
) -> None:  # fmt: skip
    """Write the files that were asked for, and say what a run came to."""
    report.save_timeline([(name, timeline)], output, gantt, trace)
    if as_json:
        more = run_tables.table_fields(timeline, inputs) if tables else {}
        report.print_json(report.result_fields(timeline, inputs) | more)
    else:
        if tables:
            run_tables.print_tables(timeline, inputs)
        typer.echo(report.summary(timeline, inputs))


@app.command(
    epilog="Example: hydrasim compare --preset paper-fig7 --models 8 --devices 4 --kind heterogeneous --scale 0.1"
)
@takes_inputs
def compare(
    inputs: Inputs,
    policies: Annotated[str, typer.Option(metavar="A,B,C", help="Only these policies, instead of all.")] = "",
    systems: SystemNames = "",
    chart: ChartFile = None,
    as_json: AsJson = False,
    *,
    every_rung: bool,
) -> None:
    """Compare policies on a workload with each other and with what no plan can beat."""
    from hydrasim.compare import compare as run_comparison
    from hydrasim.policies import policies as registered

    names = [name.strip() for name in policies.split(",") if name.strip()] or list(registered())
    rivals = system_names(systems)
    if every_rung:
        ladder_report.compare_on_every_rung(inputs, names, rivals, chart, as_json=as_json)
        return
    if chart is not None:
        raise HydraError("--chart draws the rungs of effects beside each other; it goes with --effects all.")
    with report.step_progress(len(names) + len(rivals), "comparing", quiet=as_json) as advance:
        comparison = run_comparison(
            inputs.workload, inputs.cluster, names, systems=rivals, costs=inputs.costs, mechanism=inputs.mechanism,
            effects=inputs.effects, seed=inputs.seed, on_policy=lambda _: None if advance is None else advance(1),
        )  # fmt: skip
    if as_json:
        report.print_json(
            {
                "label": "simulated",
                "effects": inputs.effects,
                "seed": inputs.seed,
                "bounds": comparison.bounds,
                "naive_s": comparison.naive_s,
                "rows": [asdict(row) for row in comparison.rows],
            }
        )
        return
    report.print_comparison(comparison)


@app.command(epilog="Example: hydrasim plan workload.yaml --devices 2 --memory 8GiB --link 12GB/s -o plan.json")
@takes_inputs
def plan(
    inputs: Inputs,
    policy: PolicyName = DEFAULT_POLICY,
    output: PlanFile = None,
    timeline: PredictionFile = None,
    gantt: GanttFile = None,
    trace: TraceFile = None,
    as_json: AsJson = False,
) -> None:
    """Plan a workload and show what the plan would take; without --output this is a dry run."""
    from hydrasim.planning import make_plan, misfits

    if inputs.effects != "theory":
        reasons = misfits(inputs.workload, inputs.cluster, inputs.mechanism)
        if reasons:
            count = f"{len(reasons)} of {len(inputs.workload.jobs)} jobs do not fit:"
            raise ShardTooLarge("\n".join([count, *reasons.values()]))
    with report.unit_progress(2 * inputs.workload.num_units, "planning", quiet=as_json) as on_event:
        made, predicted = make_plan(
            inputs.workload, inputs.cluster, policy, costs=inputs.costs, mechanism=inputs.mechanism,
            effects=inputs.effects, seed=inputs.seed, profile_digest=inputs.profile_digest, on_event=on_event,
        )  # fmt: skip
    if output is not None:
        made.write(output)
    report.save_timeline([("plan", predicted)], timeline, gantt, trace)
    if as_json:
        report.print_json(report.result_fields(predicted, inputs) | report.plan_fields(inputs, predicted))
        return
    report.print_plan(inputs, predicted)
    typer.echo(report.summary(predicted, inputs))


@app.command(epilog="Example: hydrasim policies")
def policies(as_json: AsJson = False) -> None:
    """List the policies that ship with hydrasim; your own is given as file.py:Name."""
    from hydrasim.policies import policies as registered

    found = [{"policy": name, **report.policy_fields(policy)} for name, policy in registered().items()]
    if as_json:
        report.print_json(found)
    else:
        report.print_table(
            ("policy", "what it does", "source"), [list(map(str, row.values())) for row in found], text=True
        )


@app.command(epilog="Example: hydrasim systems")
def systems(as_json: AsJson = False) -> None:
    """List the rival systems that can be simulated, and those that are only quoted."""
    rows = system_rows()
    if as_json:
        report.print_json({"systems": rows, "quotes": [asdict(quote) for quote in PAPER_FIG8]})
        return
    cells = [(row["system"], row["label"], row["summary"], options_text(row), row["source"]) for row in rows]
    report.print_table(("system", "label", "what it does", "options", "source"), cells, text=True)


@app.command(epilog="Example: hydrasim explain A/F0#0 --timeline timeline.jsonl")
def explain(
    unit: Annotated[str, typer.Argument(metavar="UNIT", help="A unit, such as A/F0#17.")],
    timeline: Annotated[Path, typer.Option(metavar="FILE", help="A timeline that simulate or plan wrote.")],
    as_json: AsJson = False,
) -> None:
    """Explain why a unit ran where and when it did."""
    from hydrasim.explain import explain as run_explanation
    from hydrasim.timeline import Timeline

    explanation = run_explanation(Timeline.read(timeline), unit)
    if as_json:
        report.print_json(asdict(explanation))
    else:
        typer.echo(explanation.text())


app.command(epilog="Example: hydrasim machines 8xh100 -o h100.yaml")(machine_report.machines)
app.command(epilog="Example: hydrasim optimal --preset paper-fig6 --solver milp --json")(optimal)
app.command(epilog="Example: hydrasim demo")(live.demo)
app.command(epilog="Example: hydrasim estimate my_jobs.py:jobs --machine 1x4090 --precision bf16 -o profile.json")(
    estimate
)
app.command(epilog="Example: hydrasim experiment ablation")(experiment)
app.command(epilog="Example: hydrasim profile my_jobs.py:jobs --devices 2 --memory 96MiB -o profile.json")(live.profile)
app.command(epilog="Example: hydrasim execute my_jobs.py:jobs --memory 96MiB --plan plan.json")(live.execute)
app.command(epilog="Example: hydrasim report --timeline simulated.jsonl --timeline measured.jsonl -o report.html")(
    html_report.report
)
app.command(epilog="Example: hydrasim validate standard --case gpt5-half -o validation")(live.validate)


def main() -> None:
    """Run the command line; the entry point of the `hydrasim` script."""
    app()


if __name__ == "__main__":
    main()
