"""The paper's Fig. 6, executed: three equal models of two shards on two devices, measured ratios beside predicted.

    python -m experiments.fig6 --output results/fig6

Model parallelism, task parallelism and SHARP run the same models for the same mini-batches. The paper
draws unit times of 1; here a backward recomputes and so takes longer than a forward, and the prediction
is simulated from the measured forward and backward times. Ratios are to SHARP's makespan.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from executor import CpuDevice, DevicePool, Prepared, TorchJob, prepare, train
from executor.profiler import profile
from experiments.workloads import GptSpec, gpt_jobs
from hydrasim.disk import make_folder, write_text
from hydrasim.planning import make_plan

POLICIES = ("model-parallel", "task-parallel", "sharded-lrtf")
_MEMORY_BYTES = 256 << 20  # everything fits: the figure is about scheduling


def equal_jobs(minibatches: int) -> list[TorchJob]:
    """Return three equal models, each cut in the middle."""
    specs = tuple(GptSpec(name, 192, 4, 6, minibatches, 1, 1e-3) for name in "ABC")
    return [replace(job, cuts=(3,)) for job in gpt_jobs(specs)]


def run(minibatches: int = 12, repeats: int = 5) -> dict[str, Any]:
    """Profile, predict and measure; return makespans in seconds and ratios to SHARP's."""
    prepared: Prepared = prepare(equal_jobs(minibatches), [CpuDevice(_MEMORY_BYTES)] * 2, fused=False)
    with DevicePool(prepared.devices) as pool:
        measured_profile = profile(prepared, pool=pool, rounds=3, minibatches=4)
        cluster = measured_profile.cluster or prepared.cluster
        costs = measured_profile.costs(cluster)
        plans = {policy: make_plan(prepared.workload, cluster, policy, costs=costs) for policy in POLICIES}
        measured: dict[str, list[float]] = {policy: [] for policy in POLICIES}
        for _ in range(repeats):
            for policy, (plan, _timeline) in plans.items():
                measured[policy].append(train(prepared, plan=plan, pool=pool, update_models=False).makespan_s)
    predicted_s = {policy: timeline.makespan_s for policy, (_, timeline) in plans.items()}
    measured_s = {policy: median(values) for policy, values in measured.items()}
    sharp = POLICIES[-1]
    rows = {
        policy: {
            "simulated_s": predicted_s[policy],
            "measured_s": measured[policy],
            "simulated_ratio": predicted_s[policy] / predicted_s[sharp],
            "measured_ratio": measured_s[policy] / measured_s[sharp],
        }
        for policy in POLICIES
    }
    return {
        "label": "measured on emulated CPU devices",
        "rows": rows,
        "ratio_error_fraction": {
            policy: row["simulated_ratio"] / row["measured_ratio"] - 1 for policy, row in rows.items()
        },
        "provenance": measured_profile.provenance,
    }


def main(
    output: Annotated[Path, typer.Option(help="Folder for summary.json.")] = Path("results/fig6"),
    minibatches: Annotated[int, typer.Option(min=2)] = 12,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Execute Fig. 6 and write summary.json."""
    make_folder(output)
    found = run(minibatches, repeats)
    write_text(output / "summary.json", json.dumps(found, indent=1) + "\n")
    for policy, row in found["rows"].items():
        typer.echo(f"{policy}: simulated {row['simulated_ratio']:.2f}x SHARP, measured {row['measured_ratio']:.2f}x")


if __name__ == "__main__":
    typer.run(main)
