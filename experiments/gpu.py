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
from experiments.jobs import check_cuda
from experiments.models import byte_gpt, next_byte_loss, text_loader
from experiments.reference_run import digests, make_jobs, reference_results
from experiments.suite import prepare_within_budget
from experiments.validation import run_case
from hydrasim.command import Kind
from hydrasim.disk import make_folder, write_text
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
    result = train(prepared)
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


def overlap(
    prepared: Prepared, repeats: int, folder: Path, host_memory: Sequence[bool] = (True, False)
) -> list[dict[str, Any]]:
    """Run with and without prefetch, from registered (True) and from pageable host memory; return a row for each."""
    rows = []
    for pinned in host_memory:
        devices = tuple(replace(device, pinned=pinned) for device in prepared.devices)  # type: ignore[call-arg]
        with DevicePool(devices) as pool:
            for prefetch in (True, False):
                mechanism = replace(OURS, prefetch=prefetch)
                runs = [
                    train(
                        replace(prepared, devices=devices), policy=_OVERLAP_POLICY, mechanism=mechanism, pool=pool,
                        update_models=False,
                    ).timeline
                    for _ in range(repeats + 1)
                ]  # fmt: skip
                runs = runs[1:]  # the first one warms up
                name = "registered" if pinned else "pageable"
                runs[0].write(folder / f"overlap-{name}-{'' if prefetch else 'no-'}prefetch.jsonl")
                fractions = [fraction for run in runs if (fraction := hidden_fraction(run)) is not None]
                rows.append(
                    {
                        "host_memory": name,
                        "prefetch": prefetch,
                        "makespan_s": [run.makespan_s for run in runs],
                        "hidden_fraction": fractions,
                        "median_makespan_s": median(run.makespan_s for run in runs),
                        "median_hidden_fraction": median(fractions) if fractions else None,
                    }
                )
    return rows


def run(study: Study, folder: Path) -> dict[str, Any]:
    """Run the whole study; leave profile, plans and timelines in the folder, and return the figures.

    Raises:
        HydraError: a run failed, or the jobs do not fit.
    """
    make_folder(folder)
    jobs, num_threads = make_jobs(study.workload), torch.get_num_threads()
    prepared = prepare_within_budget(jobs, study.devices, study.budget_fraction, num_threads)
    with DevicePool(prepared.devices) as pool:
        measured = profile(prepared, pool=pool, rounds=study.rounds, path=folder / "profile.json")
        case = run_case(
            study.workload.rpartition(":")[2], prepared, measured, study.policies, repeats=study.repeats, pool=pool,
            folder=folder / "validation",
        )  # fmt: skip
    rows = overlap(prepared, study.repeats, folder, study.pinned)
    differing = {}
    if study.all_optimizers:
        tight = prepare_within_budget(optimizer_jobs(), study.devices, study.budget_fraction, num_threads)
        differing = exactness(tight, "experiments.gpu:optimizer_jobs", study.reference)
    differing |= exactness(prepared, study.workload, study.reference)  # last, since it changes the weights
    return {
        "label": case.label,
        "environment": environment(),
        "devices": [{"kind": device.kind, "memory_bytes": device.memory_bytes} for device in prepared.cluster.devices],
        "exactness": {"identical": not any(differing.values()), "differing": differing},
        "overlap": rows,
        "validation": case.fields(),
        "provenance": measured.provenance,
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
    wrong = {job: names for job, names in exact["differing"].items() if names}
    lines = [
        f"# A run on {', '.join(device['kind'] for device in figures['devices'])} ({figures['label']})",
        "",
        "Made by `python -m experiments.gpu`.",
        "",
        f"Weights, optimizer state and losses of {len(exact['differing'])} jobs byte-identical to the reference loop: "
        f"**{'yes' if exact['identical'] else 'no'}**.",
        *(f"- {job}: {len(names)} differ, the first is {names[0]}" for job, names in wrong.items()),
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


def write_evidence(study: Study, folder: Path) -> dict[str, Any]:
    """Run the study and write summary.json and report.md beside its profile, plans and timelines."""
    figures = run(study, folder)
    write_text(folder / "summary.json", json.dumps(figures, indent=1) + "\n")
    write_text(folder / "report.md", report(figures))
    return figures


def main(
    output: Annotated[Path, typer.Option(help="Folder for the evidence.")] = Path("results/gpu"),
    smoke: Annotated[bool, typer.Option("--smoke", help="A few mini-batches of each job.")] = False,
    wide: Annotated[bool, typer.Option("--wide", help="Models of GPT-2 XL's width.")] = False,
) -> None:
    """Run everything that needs a GPU and write what came out. Exit code 1: the bits differ; 2: nothing ran."""
    try:
        check_cuda("cuda")
        figures = write_evidence(SMOKE if smoke else WIDE if wide else Study(), output)
    except HydraError as reason:
        typer.echo(f"{reason}", err=True)
        raise typer.Exit(2) from None
    typer.echo(report(figures))
    if not figures["exactness"]["identical"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
