"""The commands that really run: demo, profile, execute and validate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments import report
from experiments.inputs import MAX_WORKERS
from experiments.jobs import check_cuda, prepare_jobs
from experiments.live_report import print_demo, print_run, print_validation, run_fields, steps
from experiments.options import one_of, output_folder, output_option
from hydrasim.disk import make_folder, replacing
from hydrasim.errors import HydraError
from hydrasim.mechanism import MECHANISMS, OURS

if TYPE_CHECKING:
    from executor import Prepared, RunResult, Suspended

FAILED = 1  # exit code of a run of which a job failed
Jobs = Annotated[
    str, typer.Argument(metavar="JOBS", help="A Python function that returns TorchJobs, file.py:function.")
]
Devices = Annotated[int, typer.Option(min=1, max=MAX_WORKERS, help="How many devices.")]
Memory = Annotated[str, typer.Option(metavar="SIZE", help="Memory of each device, such as 64MiB.")]
LinkRate = Annotated[
    str | None, typer.Option("--link", metavar="RATE", help="Emulate links of this speed, such as 1GB/s.")
]
DeviceKind = Annotated[
    str, typer.Option("--device", callback=one_of("devices", ("cpu", "cuda")), help="cpu (emulated devices) or cuda.")
]
MechanismName = Annotated[
    str, typer.Option("--mechanism", callback=one_of("mechanisms", MECHANISMS), help=f"{', '.join(MECHANISMS)}.")
]
Unfused = Annotated[bool, typer.Option("--unfused", help="Keep the last forward and backward apart (paper's text).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]


def demo(
    device: DeviceKind = "cpu",
    output: Annotated[Path, output_folder("--output", "-o", text="Where the files go.")] = Path("results/demo"),
    smoke: Annotated[bool, typer.Option("--smoke", help="A few mini-batches a job, for a quick check.")] = False,
    as_json: AsJson = False,
) -> None:
    """Do the whole job once: profile, simulate, plan, execute, compare, on five small GPTs."""
    from executor.profiler import ROUNDS
    from experiments.demo import run_demo, summary

    check_cuda(device)
    with steps(quiet=as_json) as progress:
        result = run_demo(
            "demo-smoke" if smoke else "demo",
            device=device,
            rounds=1 if smoke else ROUNDS,
            progress=progress,
            folder=output,
        )
    if as_json:
        report.print_json(summary(result))
    else:
        print_demo(result, output)
    if not result.bit_identical:
        raise HydraError("the executed weights differ from the reference loop's; this is a bug, please report it.")


def profile(
    jobs: Jobs,
    output: Annotated[Path, output_option("--output", "-o", text="The profile (.json).")],
    devices: Devices = 2,
    memory: Memory = "1GiB",
    link: LinkRate = None,
    device: DeviceKind = "cpu",
    mechanism: MechanismName = "ours",
    unfused: Unfused = False,
    rounds: Annotated[int, typer.Option(min=1, help="Repeats of the whole measurement.")] = 3,
    minibatches: Annotated[int, typer.Option(min=2, help="Mini-batches a job and round; the first is warm-up.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Measure the units, copies and loaders of real jobs; an interrupted measurement resumes."""
    from executor.profiler import profile as measure

    prepared = prepare_jobs(jobs, device, devices, memory, link, MECHANISMS[mechanism], unfused)
    num_units = rounds * prepared.limited(minibatches).workload.num_units
    with report.unit_progress(num_units, "profiling", quiet=as_json) as on_event:
        found = measure(
            prepared, path=output, rounds=rounds, minibatches=minibatches, mechanism=MECHANISMS[mechanism],
            on_event=on_event,
        )  # fmt: skip
    spreads = sorted(m.spread_fraction for kind in found.kinds.values() for m in kind.units.values())
    fields = {
        "profile": str(output),
        "digest": found.digest,
        "num_unit_kinds": len(spreads),
        "median_spread_fraction": spreads[len(spreads) // 2],
        "provenance": found.provenance,
    }
    if as_json:
        report.print_json(fields)
    else:
        spread = report.percent(fields["median_spread_fraction"])
        typer.echo(f"measured: {len(spreads)} kinds of unit, median spread {spread}, written to {output}")


def execute(
    jobs: Jobs,
    plan: Annotated[Path | None, typer.Option(metavar="FILE", help="Follow this plan.")] = None,
    policy: Annotated[str, typer.Option(metavar="NAME", help="Without a plan: decide live by this policy.")] = (
        "resident-lrtf"
    ),
    profile_file: Annotated[
        Path | None, typer.Option("--profile", metavar="FILE", help="Measured times for the policy to go by.")
    ] = None,
    devices: Devices = 2,
    memory: Memory = "1GiB",
    link: LinkRate = None,
    device: DeviceKind = "cpu",
    mechanism: MechanismName = "ours",
    unfused: Unfused = False,
    output: Annotated[Path | None, output_option("--output", "-o", text="The timeline (.jsonl).")] = None,
    gantt: Annotated[Path | None, output_option("--gantt", text="Draw the timeline (.png, .pdf, .svg).")] = None,
    trace: Annotated[Path | None, output_option("--trace", text="Write a trace for ui.perfetto.dev (.json).")] = None,
    weights: Annotated[
        Path | None, output_folder("--weights", text="Write each job's weights there (.safetensors).")
    ] = None,
    checkpoints: Annotated[
        Path | None, output_folder("--checkpoints", text="Keep each job's checkpoints there.")
    ] = None,
    every: Annotated[
        int | None,
        typer.Option("--checkpoint-every", min=1, metavar="N", help="Mini-batches of a job between its checkpoints."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoints.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train real jobs under a plan, or under a policy that decides live.

    A job that fails is set aside, and the others go on; the exit code is 1 then.
    With --checkpoints, Ctrl-C has every job end with one; run the same command with --resume to go on, on other devices
    if you like.
    """
    from executor import Checkpoints
    from hydrasim.plan import Plan
    from hydrasim.profile import Profile

    if checkpoints is None and (resume or every is not None):
        raise HydraError("--resume and --checkpoint-every go with --checkpoints, the folder to keep them in.")
    if weights is not None:
        make_folder(weights)
    followed = None if plan is None else Plan.read(plan)
    beliefs = None if profile_file is None else Profile.read(profile_file)
    prepared = prepare_jobs(jobs, device, devices, memory, link, MECHANISMS[mechanism], unfused)
    result, suspended = _train(
        prepared, plan=followed, policy=policy, profile=beliefs, mechanism=MECHANISMS[mechanism], resume=resume,
        checkpoints=checkpoints and Checkpoints(checkpoints, every), quiet=as_json,
    )  # fmt: skip
    report.save_timeline([(policy if plan is None else f"plan {plan.name}", result.timeline)], output, gantt, trace)
    if weights is not None:
        _save_weights(prepared, weights)
    _tell(result, None if followed is None else followed.makespan_s, as_json=as_json)
    if suspended is not None:
        raise suspended
    if any(job.status == "failed" for job in result.jobs.values()):
        raise typer.Exit(FAILED)


def _tell(result: RunResult, predicted_s: float | None, *, as_json: bool) -> None:
    if as_json:
        report.print_json(run_fields(result, predicted_s))
    else:
        print_run(result, predicted_s)


def _train(prepared: Prepared, *, quiet: bool, **options: Any) -> tuple[RunResult, Suspended | None]:
    """Train with a progress bar; return the result, and Ctrl-C if that ended it."""
    from executor import Suspended, train

    with report.unit_progress(prepared.workload.num_units, "training", quiet=quiet) as on_event:
        try:
            return train(prepared, on_event=on_event, **options), None
        except Suspended as reason:
            return reason.result, reason


def validate(
    context: typer.Context,
    suite: Annotated[
        str, typer.Argument(metavar="[SUITE|JOBS]", help="A suite (standard, smoke), or file.py:function.")
    ] = "standard",
    case: Annotated[str, typer.Option(metavar="NAME", help="Only this case of the suite.")] = "",
    repeats: Annotated[int, typer.Option(min=1, help="How often each plan is executed.")] = 3,
    output: Annotated[Path | None, output_folder("--output", "-o", text="Where all files go.")] = None,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Run nothing; work out the figures again from the files in --output.")
    ] = False,
    policies: Annotated[str, typer.Option(metavar="A,B", help="With JOBS: whose plans to execute.")] = "",
    minibatches: Annotated[int | None, typer.Option(min=2, help="With JOBS: stop every job after so many.")] = None,
    devices: Devices = 2,
    memory: Memory = "1GiB",
    link: LinkRate = None,
    device: DeviceKind = "cpu",
    as_json: AsJson = False,
) -> None:
    """Hold predictions against reality: simulate plans, hash them, execute them, report signed errors.

    A case that is run alone takes its place in the folder's summary and report with the next --rescore.
    --policies, --minibatches, --devices, --memory, --link and --device go with JOBS; a suite says itself what it needs.
    """
    is_jobs = ".py:" in suite
    _refuse_options(context, ("case", "rescore") if is_jobs else _OF_JOBS, "JOBS" if is_jobs else "a suite")
    from experiments import validation
    from experiments.fidelity import Validation
    from experiments.suite import find_cases

    cases = () if is_jobs else find_cases(suite, case)
    if output is not None:
        make_folder(output)
    elif rescore:
        raise HydraError("--rescore needs --output, the folder that holds the cases.")
    with steps(quiet=as_json) as progress:
        if is_jobs:
            prepared = prepare_jobs(suite, device, devices, memory, link, OURS)
            prepared = prepared if minibatches is None else prepared.limited(minibatches)
            names = [name.strip() for name in policies.split(",") if name.strip()]
            name = suite.rpartition(":")[2]
            folder = None if output is None else output / name
            found = validation.run_jobs(
                name, prepared, names, repeats=repeats, folder=folder, progress=progress,
                about={"num_devices": devices},
            )  # fmt: skip
            done = Validation((found,))
        elif not rescore:
            done = validation.run_suite(cases, repeats=repeats, folder=output, progress=progress)
        else:
            assert output is not None
            done = validation.read_suite(cases, output)
            if not done.cases:
                raise HydraError(f"{output} holds no such case of suite {suite!r}; run it without --rescore.")
        if output is not None and not case:
            validation.write_evidence(done, output)
    if as_json:
        report.print_json(done.summary())
    else:
        print_validation(done)


_OF_JOBS = ("policies", "minibatches", "devices", "memory", "link", "device")


def _refuse_options(context: typer.Context, names: Sequence[str], what: str) -> None:
    """Say that options were given that mean nothing here, instead of leaving them out silently."""
    sources = {name: context.get_parameter_source(name) for name in names}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if given:
        options = ", ".join(f"--{name}" for name in given)
        raise HydraError(f"{options}: not with {what}; see hydrasim validate --help.")


def _save_weights(prepared: Prepared, folder: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    for part in prepared.partitions:
        tensors = {name: parameter.detach().contiguous() for name, parameter in part.job.module.named_parameters()}
        path = folder / f"{part.job.name}.safetensors"
        with replacing(path) as temporary:
            try:
                save_file(tensors, temporary)
            except SafetensorError as reason:
                raise HydraError(f"cannot write {path}: {reason}.") from None
