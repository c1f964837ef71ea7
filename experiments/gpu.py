"""What only a GPU can show: exact bits on its kernels, copies hidden behind compute, and predictions that hold.

    python -m experiments.gpu [--smoke | --wide] [--output results/gpu]

The demo's models are small for a GPU; --wide trains three of GPT-2 XL's width instead.

Without a GPU it says so and exits with code 2. Copies count as hidden for as long as a unit computes on the
same device; a lane's span is what its thread saw, from issuing the work to the event behind it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from executor import CudaDevice, DevicePool, Prepared, TorchJob, train
from executor.profiler import profile
from experiments.evidence import Evidence
from experiments.jobs import check_cuda
from experiments.models import byte_gpt, next_byte_loss, text_loader
from experiments.reference_run import digests, make_jobs, reference_results
from experiments.suite import prepare_within_budget
from experiments.validation import run_case, score
from hydrasim.command import Kind
from hydrasim.disk import make_folder, read_text, write_text
from hydrasim.errors import HydraError
from hydrasim.mechanism import OURS
from hydrasim.timeline import Timeline

POLICIES = ("resident-lrtf", "sharded-lrtf", "hydra-released", "shortest-remaining-first", "one-model-spilling")
_OVERLAP_POLICY = "sharded-lrtf"
_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": partial(torch.optim.AdamW, lr=1e-3),
    "fused-adamw": partial(torch.optim.AdamW, lr=1e-3, fused=True),
    "momentum": partial(torch.optim.SGD, lr=0.05, momentum=0.9),
}
_CONTEXT, _BATCH_SIZE = 64, 8
_WIDE_CONTEXT = 1024


@dataclass(frozen=True)
class Study:
    """What is run. devices: makes them from bytes of memory; reference: where the plain loop computes.

    workload: a name of `WORKLOADS`, or `module:function` for what returns the jobs. pinned: copies are tried from
    registered host memory, from pageable, or both. all_optimizers: whether a small model for each is held against the
    plain loop too.
    """

    workload: str = "demo"
    devices: Callable[[int], Sequence[CudaDevice]] = lambda memory_bytes: [CudaDevice(0, memory_bytes)]
    reference: str = "cuda"
    rounds: int = 3
    repeats: int = 3
    policies: tuple[str, ...] = POLICIES
    budget_fraction: float = 0.4  # of the largest model's state, beside the activation peak
    pinned: tuple[bool, ...] = (True, False)
    all_optimizers: bool = True


SMOKE = Study("demo-smoke", rounds=1, repeats=2, policies=POLICIES[:2])
WIDE = Study(  # every run sets up gigabytes
    "experiments.gpu:wide_jobs", rounds=2, repeats=2, policies=(*POLICIES[:2], POLICIES[-1]), pinned=(True,),
    all_optimizers=False,
)  # fmt: skip


def wide_jobs() -> list[TorchJob]:
    """Return three GPTs of GPT-2 XL's blocks, of which none fits the study's device."""
    return [
        TorchJob(
            f"blocks-{depth}",
            byte_gpt(1600, depth, 25, context=_WIDE_CONTEXT, dropout=0.0, seed=depth),
            next_byte_loss,
            text_loader(6, 4, _WIDE_CONTEXT),
            partial(torch.optim.AdamW, lr=1e-4),
            seed=depth,
            cuts=tuple(range(2, 1 + depth)),  # a block a shard
            activation_mode="recompute",
        )
        for depth in (6, 5, 4)
    ]


def optimizer_jobs() -> list[TorchJob]:
    """Return a small model for every optimizer, with and without dropout."""
    return [
        TorchJob(
            f"{name}-dropout" if dropout else name,
            byte_gpt(64, 8, 2, context=_CONTEXT, dropout=dropout, seed=index),
            next_byte_loss,
            text_loader(4, _BATCH_SIZE, _CONTEXT),
            optimizer,
            seed=index,
        )
        for index, ((name, optimizer), dropout) in enumerate(product(_OPTIMIZERS.items(), (0.0, 0.1)))
    ]


def hidden_fraction(timeline: Timeline) -> float | None:
    """Return the share of copy seconds during which the same device computes; None without copies."""
    computes = [span for span in timeline.spans if span.kind == Kind.COMPUTE.value]
    copies = [span for span in timeline.spans if span.kind in (Kind.LOAD.value, Kind.STORE.value)]
    hidden_s = sum(
        max(0.0, min(copy.end_s, compute.end_s) - max(copy.start_s, compute.start_s))
        for copy in copies
        for compute in computes
        if copy.device == compute.device
    )
    copy_s = sum(copy.duration_s for copy in copies)
    return hidden_s / copy_s if copy_s else None


def exactness(prepared: Prepared, workload: str, reference: str) -> dict[str, list[str]]:
    """Train the jobs for real, and by the plain loop in its own process; name what differs, by job."""
    result = train(prepared, strict=True)
    jobs = [part.job for part in prepared.partitions]
    wanted = reference_results(workload, [job.name for job in jobs], 1, reference)
    differing = {}
    for job in jobs:
        trained, expected = result.jobs[job.name], wanted[job.name]
        found = digests(dict(job.module.named_parameters()), trained.optimizer_state)
        names = sorted(set(found) | set(expected["digests"]))
        differing[job.name] = [name for name in names if found.get(name) != expected["digests"].get(name)]
        if list(trained.losses) != expected["losses"]:
            differing[job.name].append("losses")
    return differing


def overlap(prepared: Prepared, repeats: int, folder: Path, host_memory: Sequence[bool] = (True, False)) -> None:
    """Run with and without prefetch, from registered (True) and from pageable host memory; write the timelines."""
    for pinned in host_memory:
        devices = tuple(replace(device, pinned=pinned) for device in prepared.devices)  # type: ignore[call-arg]
        with DevicePool(devices) as pool:
            for prefetch, repeat in product((True, False), range(repeats + 1)):
                made = train(
                    replace(prepared, devices=devices), policy=_OVERLAP_POLICY,
                    mechanism=replace(OURS, prefetch=prefetch), pool=pool, update_models=False, strict=True,
                ).timeline  # fmt: skip
                if repeat:  # the first one warms up
                    made.write(folder / f"{_overlap_name(pinned, prefetch)}-{repeat - 1}.jsonl.gz")


def read_overlap(folder: Path) -> list[dict[str, Any]]:
    """Return a row for each way that `overlap` left timelines of."""
    rows = []
    for pinned, prefetch in product((True, False), repeat=2):
        paths = sorted(folder.glob(f"{_overlap_name(pinned, prefetch)}-*.jsonl.gz"))
        runs = [Timeline.read(path) for path in paths]
        fractions = [fraction for run in runs if (fraction := hidden_fraction(run)) is not None]
        if runs:
            rows.append(
                {
                    "host_memory": "registered" if pinned else "pageable",
                    "prefetch": prefetch,
                    "makespan_s": [run.makespan_s for run in runs],
                    "hidden_fraction": fractions,
                    "median_makespan_s": median(run.makespan_s for run in runs),
                    "median_hidden_fraction": median(fractions) if fractions else None,
                }
            )
    return rows


def _overlap_name(pinned: bool, prefetch: bool) -> str:
    return f"overlap-{'registered' if pinned else 'pageable'}-{'' if prefetch else 'no-'}prefetch"


def run(study: Study, folder: Path) -> None:
    """Run the whole study; every part leaves its files in the folder when it is done.

    Raises:
        HydraError: a run failed, or the jobs do not fit.
    """
    make_folder(folder)
    write_text(folder / "environment.json", json.dumps(environment(), indent=1) + "\n")
    jobs, num_threads = make_jobs(study.workload), torch.get_num_threads()
    prepared = prepare_within_budget(jobs, study.devices, study.budget_fraction, num_threads)
    with DevicePool(prepared.devices) as pool:
        measured = profile(prepared, pool=pool, rounds=study.rounds, path=folder / "profile.json")
        run_case(
            study.workload.rpartition(":")[2], prepared, measured, study.policies, repeats=study.repeats, pool=pool,
            folder=folder / "validation",
        )  # fmt: skip
    overlap(prepared, study.repeats, folder, study.pinned)
    differing = {}
    if study.all_optimizers:
        tight = prepare_within_budget(optimizer_jobs(), study.devices, study.budget_fraction, num_threads)
        differing = exactness(tight, "experiments.gpu:optimizer_jobs", study.reference)
    differing |= exactness(prepared, study.workload, study.reference)  # last, since it changes the weights
    write_text(folder / "exactness.json", json.dumps(differing, indent=1) + "\n")


def collect(folder: Path) -> dict[str, Any]:
    """Return the figures from the files of a study; exactness is None where the study was cut off before.

    Raises:
        HydraError: files are missing or damaged, or a prediction was changed after it was hashed.
    """
    evidence = Evidence.read(folder / "validation")
    case = score(evidence)
    cluster, exact = evidence.profile.cluster, folder / "exactness.json"
    assert cluster is not None
    differing = json.loads(read_text(exact, HydraError)) if exact.exists() else None
    return {
        "label": case.label,
        "environment": json.loads(read_text(folder / "environment.json", HydraError)),
        "devices": [{"kind": device.kind, "memory_bytes": device.memory_bytes} for device in cluster.devices],
        "exactness": differing and {"identical": not any(differing.values()), "differing": differing},
        "overlap": read_overlap(folder),
        "validation": case.fields(),
        "provenance": evidence.profile.provenance,
    }


def environment() -> dict[str, Any]:
    """Return what the figures depend on: GPU, driver, CUDA and torch."""
    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda}
    try:
        command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        found["gpus"] = done.stdout.strip().splitlines()
    except (OSError, subprocess.SubprocessError) as reason:
        found["gpus"] = f"unknown: {reason}"
    return found


def report(figures: dict[str, Any]) -> str:
    """Return the figures as a page to read."""
    exact = figures["exactness"]
    differing = exact["differing"] if exact else {}
    said = "not run" if exact is None else "yes" if exact["identical"] else "no"
    lines = [
        f"# A run on {', '.join(device['kind'] for device in figures['devices'])} ({figures['label']})",
        "",
        "Made by `python -m experiments.gpu`.",
        "",
        f"Weights, optimizer state and losses of {len(differing)} jobs byte-identical to the reference loop: "
        f"**{said}**.",
        *(f"- {job}: {len(names)} differ, the first is {names[0]}" for job, names in differing.items() if names),
        "",
        "| host memory | prefetch | makespan | copy time hidden behind compute |",
        "|---|---|---|---|",
    ]
    for row in figures["overlap"]:
        hidden = row["median_hidden_fraction"]
        lines.append(
            f"| {row['host_memory']} | {'on' if row['prefetch'] else 'off'} | {row['median_makespan_s']:.3f} s | "
            f"{'no copies' if hidden is None else f'{100 * hidden:.0f} %'} |"
        )
    lines += ["", "| plan | simulated | measured, median | error of the simulation |", "|---|---|---|---|"]
    lines += [
        f"| {plan['policy']} | {plan['simulated_s']:.3f} s | {median(plan['measured_s']):.3f} s | "
        f"{100 * plan['error_fraction']:+.1f} % |"
        for plan in figures["validation"]["plans"]
    ]
    lines += ["", "```json", json.dumps(figures["environment"], indent=1), "```", ""]
    return "\n".join(lines)


def write_report(folder: Path) -> dict[str, Any]:
    """Write summary.json and report.md beside a study's profile, plans and timelines."""
    figures = collect(folder)
    write_text(folder / "summary.json", json.dumps(figures, indent=1) + "\n")
    write_text(folder / "report.md", report(figures))
    return figures


def main(
    output: Annotated[Path, typer.Option(help="Folder for the evidence.")] = Path("results/gpu"),
    smoke: Annotated[bool, typer.Option("--smoke", help="A few mini-batches of each job.")] = False,
    wide: Annotated[bool, typer.Option("--wide", help="Models of GPT-2 XL's width.")] = False,
    report_only: Annotated[bool, typer.Option("--report-only", help="Report what a run has left there.")] = False,
) -> None:
    """Run everything that needs a GPU and write what came out. Exit code 1: the bits differ; 2: nothing ran."""
    try:
        if not report_only:
            check_cuda("cuda")
            run(SMOKE if smoke else WIDE if wide else Study(), output)
        figures = write_report(output)
    except HydraError as reason:
        typer.echo(f"{reason}", err=True)
        raise typer.Exit(2) from None
    typer.echo(report(figures))
    if figures["exactness"] and not figures["exactness"]["identical"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
