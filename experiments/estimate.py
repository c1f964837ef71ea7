"""The command that counts real jobs for machines nobody has to own: `hydrasim estimate`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments import report
from experiments.jobs import load_jobs
from experiments.options import one_of, output_option
from hydrasim.dag import minibatch_dag
from hydrasim.errors import HydraError, ShardTooLarge, WorkloadError
from hydrasim.machines import MACHINES
from hydrasim.planning import misfits
from hydrasim.profile import Profile
from hydrasim.roofline import QUOTED, Roofline, analytic_profile, extrapolate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from executor.analytic import AnalyticPilot
    from hydrasim.cluster import Cluster
    from hydrasim.machine import Machine
    from hydrasim.roofline import Counts
    from hydrasim.workload import Workload

Jobs = Annotated[
    str,
    typer.Argument(metavar="JOBS", help="A function that returns TorchJobs, file.py:function; with --from, a profile."),
]
MachineName = Annotated[
    str, typer.Option("--machine", callback=one_of("machines", MACHINES), help=f"{', '.join(MACHINES)}.")
]
Precision = Annotated[
    str, typer.Option(callback=one_of("precisions", QUOTED), help=f"Of all floats: {', '.join(QUOTED)}.")
]
ProfileFile = Annotated[Path, output_option("--output", "-o", text="The profile (.json).")]
NumDevices = Annotated[int | None, typer.Option(min=1, help="Only so many of the machine's devices.")]
ShardLayers = Annotated[int | None, typer.Option(min=1, help="Layers a shard; by default as many as fit.")]
NumShards = Annotated[int | None, typer.Option("--shards", min=1, help="Shards a model, instead of --shard-layers.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Samples a mini-batch, instead of the loader's.")]
ComputeFraction = Annotated[
    float | None,
    typer.Option("--efficiency", metavar="FRACTION", help="Share of the peak FLOP/s that matrix products reach."),
]
Allocate = Annotated[bool, typer.Option("--allocate", help="Build the models with memory and values, then count.")]
MeasuredOn = Annotated[
    str | None,
    typer.Option(
        "--from", callback=one_of("machines", MACHINES), help="What the profile given as JOBS was measured on."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]


def estimate(
    jobs: Jobs,
    machine: MachineName,
    output: ProfileFile,
    precision: Precision = "fp32",
    devices: NumDevices = None,
    shard_layers: ShardLayers = None,
    shards: NumShards = None,
    batch: BatchSize = None,
    efficiency: ComputeFraction = None,
    allocate: Allocate = False,
    measured_on: MeasuredOn = None,
    as_json: AsJson = False,
) -> None:
    """Count bytes and FLOPs of real jobs without memory for them, and say what units take on a machine.

    The function runs without values for its tensors, so models of any size can be counted. Jobs that say their
    cuts keep them. With a profile and --from instead, what was measured there is carried over to the machine.
    """
    if measured_on is not None:
        _carry_over(Path(jobs), MACHINES[measured_on], MACHINES[machine], precision, devices, output)
        return
    if shards is not None and shard_layers is not None:
        raise HydraError("--shards and --shard-layers are two ways to say the same; leave one out.")
    chosen = QUOTED[precision]
    if efficiency is not None:
        chosen = replace(chosen, compute_fraction=efficiency, source=f"compute: stated; the rest {chosen.source}")
    where = MACHINES[machine]
    for card in where.accelerators.values():
        Roofline.of(card, precision, chosen)  # complains about a missing peak before the work, not after it
    pilots = _pilots(jobs, precision, batch, allocate=allocate)
    cluster = _less(where.first(devices), sum(pilot.constant_bytes for pilot in pilots))
    workload, counts = _count(pilots, cluster, shard_layers, shards)
    found = analytic_profile(
        workload, cluster, where.accelerators, precision, counts, efficiency=chosen,
        provenance={"machine": machine, "jobs": jobs, "batch_size": batch},
    )  # fmt: skip
    found.write(output)
    rows = _rows(found.workload, counts)
    if as_json:
        report.print_json({"profile": str(output), "label": found.label, "provenance": found.provenance, "jobs": rows})
        return
    report.print_table(
        ("job", "shards", "parameters + optimizer", "largest shard", "activations", "TFLOP", "alone"),
        [
            (
                row["job"],
                str(row["num_shards"]),
                *(report.size(row[name]) for name in ("state_bytes", "largest_shard_bytes", "working_bytes")),
                f"{row['flops'] / 1e12:.4g}",
                report.seconds(row["minibatch_s"]),
            )
            for row in rows
        ],
    )  # fmt: skip
    typer.echo(
        f"{found.label}: {machine} in {precision}, {chosen.compute_fraction:g} of its peak FLOP/s; FLOPs and seconds "
        f"are of a mini-batch, without copies. Written to {output}"
    )


def _carry_over(
    measured: Path, source: Machine, target: Machine, precision: str, devices: int | None, output: Path
) -> None:
    """Write what a profile of one machine would be on another, by the ratio of their peaks."""
    found = extrapolate(
        Profile.read(measured), source.accelerator, target.accelerator, precision, target.first(devices)
    )
    found.write(output)
    typer.echo(
        f"{found.label}: from {source.accelerator.name} to {target.accelerator.name} in {precision}, by the ratio of "
        f"their peak FLOP/s; copies by the links of {target.name}. Written to {output}"
    )


def _pilots(location: str, precision: str, batch_size: int | None, *, allocate: bool) -> list[AnalyticPilot]:
    import torch

    from executor.analytic import AnalyticPilot

    try:
        with nullcontext() if allocate else torch.device("meta"):
            jobs = load_jobs(location)
    except WorkloadError as reason:
        if allocate:
            raise
        raise WorkloadError(
            f"{reason}\n  It ran without values for its tensors; if it needs them, add --allocate."
        ) from reason
    return [AnalyticPilot(job, precision, batch_size=batch_size) for job in jobs]


def _count(
    pilots: Sequence[AnalyticPilot], cluster: Cluster, shard_layers: int | None, num_shards: int | None
) -> tuple[Workload, Counts]:
    """Count the jobs cut as asked for; otherwise into the largest shards, of equally many layers, that fit.

    Raises:
        ShardTooLarge: not even single layers fit.
    """
    from executor.analytic import counted, even_cuts

    def cut(layers_each: int | None) -> tuple[Workload, Counts]:
        cuts = [pilot.job.cuts or even_cuts(pilot.job, layers_each, num_shards) for pilot in pilots]
        return counted(pilots, cuts)

    if shard_layers is not None or num_shards is not None:
        return cut(shard_layers)
    workload, counts = cut(1)
    memory_bytes = min(device.memory_bytes for device in cluster.devices)
    # Room for two shards, of which one computes while the other is loaded; most grow with their layers.
    need = max(2 * shard.state_bytes + shard.working_bytes for job in workload.jobs for shard in job.shards)
    layers_each = max(1, memory_bytes // need)
    while layers_each > 1:
        found = cut(layers_each)
        if not misfits(found[0], cluster):
            return found
        layers_each //= 2
    if reasons := misfits(workload, cluster):
        raise ShardTooLarge("\n".join(reasons.values()))
    return workload, counts


def _less(cluster: Cluster, constant_bytes: int) -> Cluster:
    """Set apart what lies on every device beside state, boundaries and activations."""
    devices = (replace(d, memory_bytes=max(1, d.memory_bytes - constant_bytes)) for d in cluster.devices)
    return replace(cluster, devices=tuple(devices))


def _rows(workload: Workload, counts: Counts) -> list[dict[str, Any]]:
    return [
        {
            "job": job.name,
            "num_shards": len(job.shards),
            "parameter_bytes": sum(shard.parameter_bytes for shard in job.shards),
            "state_bytes": sum(shard.state_bytes for shard in job.shards),
            "largest_shard_bytes": max(shard.state_bytes for shard in job.shards),
            "working_bytes": max(shard.working_bytes for shard in job.shards),
            "activation_bytes": sum(shard.activation_bytes for shard in job.shards),
            "flops": sum(k.flops for i in range(len(job.shards)) for kernels in counts[job.name, i] for k in kernels),
            "minibatch_s": sum(job.unit_s(*node) for node in minibatch_dag(job).nodes),
        }
        for job in workload.jobs
    ]
