"""The whole job once: profile, simulate every policy, plan, execute best and worst, compare.

jobs -> prepare -> profile -> compare -> two plans -> execute both -> reference -> results/demo/
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from executor import CpuDevice, CudaDevice, DevicePool, Prepared, RunResult, train
from executor.devices import Device
from executor.errors import DeviceError
from executor.profiler import MINIBATCHES, ROUNDS, profile
from experiments.progress import Progress, on_compute
from experiments.reference_run import digests, reference_results
from experiments.suite import prepare_within_budget, state_bytes
from experiments.workloads import WORKLOADS, gpt_jobs
from hydrasim import perfetto
from hydrasim.compare import Comparison, compare
from hydrasim.dataflow import aligned
from hydrasim.disk import make_folder, write_text
from hydrasim.gantt import draw
from hydrasim.plan import Plan
from hydrasim.planning import make_plan
from hydrasim.profile import Profile
from hydrasim.timeline import Timeline

NUM_DEVICES = 2
BUDGET_FRACTION = 0.4  # of the largest model's state, beside the activation peak


@dataclass(frozen=True)
class Executed:
    """A plan that was followed for real. error_fraction: (simulated - measured) / measured."""

    policy: str
    plan: Plan
    simulated: Timeline
    result: RunResult
    digests: dict[str, dict[str, str]]

    @property
    def error_fraction(self) -> float:
        return self.simulated.makespan_s / self.result.makespan_s - 1


@dataclass(frozen=True)
class Demo:
    """Everything that the demo found out. reference: losses and digests of the plain loop, by job."""

    prepared: Prepared
    profile: Profile
    comparison: Comparison
    best: Executed
    worst: Executed
    reference: dict[str, Any]

    @property
    def bit_identical(self) -> bool:
        """Both executions gave every job the reference's weights, optimizer state and losses, byte for byte."""
        return all(
            run.digests[job] == expected["digests"] and list(run.result.jobs[job].losses) == expected["losses"]
            for run in (self.best, self.worst)
            for job, expected in self.reference.items()
        )


def run_demo(
    workload: str = "demo", *, device: str = "cpu", rounds: int = ROUNDS, progress: Progress | None = None,
    folder: Path | None = None,
) -> Demo:  # fmt: skip
    """Run the demo and, given a folder, leave its files there.

    Raises:
        DeviceError: there is no such device here.
    """
    progress = progress or Progress()
    if folder is not None:
        make_folder(folder)
    progress.step("cut the models into shards", 0)
    prepared = demo_prepared(workload, device)
    with DevicePool(prepared.devices) as pool:
        measured = _profile(prepared, pool, rounds, folder, progress)
        cluster = measured.cluster or prepared.cluster
        costs = measured.costs(cluster)
        tick = progress.step("simulate every policy", 0)
        comparison = compare(prepared.workload, cluster, costs=costs, on_policy=lambda _: tick())
        runs = {}
        for role, row in (("worst", comparison.worst_work_conserving), ("best", comparison.best)):
            plan, simulated = make_plan(
                prepared.workload, cluster, row.policy, costs=costs, profile_digest=measured.digest
            )
            if folder is not None:
                plan.write(folder / f"plan-{role}.json")
                simulated.write(folder / f"simulated-{role}.jsonl")
            runs[role] = _execute(prepared, row.policy, plan, simulated, pool, progress)
    progress.step("train the reference, in its own processes", 0)
    names = [part.job.name for part in prepared.partitions]
    reference = reference_results(workload, names, NUM_DEVICES, device)
    demo = Demo(prepared, measured, comparison, runs["best"], runs["worst"], reference)
    if folder is not None:
        write_results(demo, folder)
    return demo


def demo_prepared(workload: str, device: str) -> Prepared:
    """Return the demo's jobs, cut for its devices."""
    return prepare_within_budget(gpt_jobs(WORKLOADS[workload]), partial(_devices, device), BUDGET_FRACTION)


def _devices(kind: str, memory_bytes: int) -> list[Device]:
    if kind == "cpu":
        return [CpuDevice(memory_bytes)] * NUM_DEVICES
    import torch

    if not torch.cuda.is_available():
        raise DeviceError("no CUDA device is available here; use --device cpu for emulated devices.")
    return [CudaDevice(index, memory_bytes) for index in range(min(NUM_DEVICES, torch.cuda.device_count()))]


def _profile(prepared: Prepared, pool: DevicePool, rounds: int, folder: Path | None, progress: Progress) -> Profile:
    tick = progress.step("profile units and copies", rounds * prepared.limited(MINIBATCHES).workload.num_units)
    path = None if folder is None else folder / "profile.json"
    return profile(prepared, pool=pool, rounds=rounds, path=path, on_event=on_compute(tick))


def _execute(
    prepared: Prepared, policy: str, plan: Plan, simulated: Timeline, pool: DevicePool, progress: Progress
) -> Executed:
    """Follow a plan for real, from the initial weights; the models have those again afterwards."""
    tick = progress.step(f"execute the plan of {policy}", prepared.workload.num_units)
    modules = {part.job.name: part.job.module for part in prepared.partitions}
    before = {name: copy.deepcopy(module.state_dict()) for name, module in modules.items()}
    result = train(prepared, plan=plan, pool=pool, on_event=on_compute(tick), strict=True)
    found = {
        name: digests(dict(module.named_parameters()), result.jobs[name].optimizer_state)
        for name, module in modules.items()
    }
    for name, module in modules.items():
        module.load_state_dict(before[name])
    return Executed(policy, plan, simulated, result, found)


def summary(demo: Demo) -> dict[str, Any]:
    """Return the demo's figures; gains are the worst plan's makespan over the best one's."""
    best, worst, prepared = demo.best, demo.worst, demo.prepared
    largest = max(state_bytes(part.job) for part in prepared.partitions)
    memory_bytes = min(device.memory_bytes for device in prepared.cluster.devices)
    working_bytes = aligned(prepared.workload.working_bytes)
    return {
        "label": best.result.timeline.header["label"],
        "devices": [device.kind for device in prepared.cluster.devices],
        "policy": best.policy,
        "simulated_makespan_s": best.simulated.makespan_s,
        "measured_makespan_s": best.result.makespan_s,
        "error_fraction": best.error_fraction,
        "worst_policy": worst.policy,
        "worst_simulated_makespan_s": worst.simulated.makespan_s,
        "worst_measured_makespan_s": worst.result.makespan_s,
        "worst_error_fraction": worst.error_fraction,
        "simulated_gain": worst.simulated.makespan_s / best.simulated.makespan_s,
        "measured_gain": worst.result.makespan_s / best.result.makespan_s,
        "bit_identical": demo.bit_identical,
        "budget_fraction": (memory_bytes - working_bytes) / largest,
        "device_memory_bytes": memory_bytes,
        "activation_peak_bytes": working_bytes,
        "largest_state_bytes": largest,
        "peak_bytes": list(best.result.peak_bytes),
        "policies": {row.policy: row.makespan_s for row in demo.comparison.rows},
        "lower_bound_s": demo.comparison.bound_s,
        "naive_s": demo.comparison.naive_s,
        "losses": {name: _ends(job.losses) for name, job in best.result.jobs.items()},
        "provenance": demo.profile.provenance,
    }


def _ends(losses: Sequence[float]) -> dict[str, float]:
    """Return the mean loss of the first and of the last tenth of the mini-batches."""
    few = max(1, len(losses) // 10)
    return {"before": sum(losses[:few]) / few, "after": sum(losses[-few:]) / few}


def write_results(demo: Demo, folder: Path) -> None:
    """Write timelines, trace, picture and summary of a demo; its profile and plans are there already."""
    timelines = []
    for role, run in (("best", demo.best), ("worst", demo.worst)):
        run.result.timeline.write(folder / f"measured-{role}.jsonl")
        timelines += [(f"simulated, {run.policy}", run.simulated), (f"measured, {run.policy}", run.result.timeline)]
    perfetto.write(folder / "trace.json", timelines)
    draw(timelines[:2], folder / "gantt.png")
    draw(timelines[2:], folder / "gantt-worst.png")
    write_text(folder / "summary.json", json.dumps(summary(demo), indent=1) + "\n")
