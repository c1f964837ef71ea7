"""Holds predictions against reality: plans are simulated, hashed, then executed several times."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from executor import DevicePool, Prepared, train
from executor.errors import ExecutionError
from executor.profiler import MINIBATCHES, ROUNDS, host_provenance
from executor.profiler import profile as measure
from experiments.fidelity import CaseResult, PlanResult, Validation
from experiments.progress import Progress, on_compute
from experiments.suite import CaseSpec
from experiments.validation_report import write_report
from hydrasim.causes import CAUSES, seconds_by_cause
from hydrasim.command import Event
from hydrasim.compare import compare, naive_s
from hydrasim.disk import write_text
from hydrasim.mechanism import OURS, Mechanism
from hydrasim.plan import Plan
from hydrasim.planning import make_plan
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.profile import Profile
from hydrasim.replay import replay
from hydrasim.simulator import simulate
from hydrasim.timeline import Timeline

REPEATS = 3
PERTURBATION = 0.3  # how far the profile is distorted, to show that it matters

Predicted = dict[str, tuple[Plan, Timeline]]


def run_suite(
    cases: Sequence[CaseSpec], *, repeats: int = REPEATS, folder: Path | None = None, progress: Progress | None = None
) -> Validation:
    """Run every case: cut, profile, plan, execute. folder: gets a folder a case.

    Raises:
        ExecutionError: a run failed for another reason than memory, which is counted.
    """
    done = []
    for spec in cases:
        mine = None if folder is None else folder / spec.name
        done.append(
            run_jobs(
                spec.name, spec.prepare(), spec.policies, mechanism=spec.mechanism, repeats=repeats, folder=mine,
                progress=progress, about=_about(spec),
            )
        )  # fmt: skip
    return Validation(tuple(done))


def run_jobs(
    name: str,
    prepared: Prepared,
    policies: Sequence[str] = (),
    *,
    mechanism: Mechanism = OURS,
    repeats: int = REPEATS,
    folder: Path | None = None,
    progress: Progress | None = None,
    about: Mapping[str, Any] | None = None,
) -> CaseResult:
    """Profile prepared jobs, then run them as a case. policies: by default the best and the worst one.

    Raises:
        ExecutionError: a run failed for another reason than memory, which is counted.
    """
    progress = progress or Progress()
    with DevicePool(prepared.devices) as pool:
        tick = progress.step(f"{name}: profile", ROUNDS * prepared.limited(MINIBATCHES).workload.num_units)
        found = measure(prepared, mechanism=mechanism, pool=pool, on_event=on_compute(tick))
        if not policies:
            costs = found.costs(prepared.cluster)
            table = compare(prepared.workload, prepared.cluster, costs=costs, mechanism=mechanism)
            policies = (table.best.policy, table.worst_work_conserving.policy)
        tick = progress.step(f"{name}: execute", repeats * len(policies) * prepared.workload.num_units)
        return run_case(
            name, prepared, found, policies, mechanism=mechanism, repeats=repeats, folder=folder, pool=pool,
            on_event=on_compute(tick), about=about,
        )  # fmt: skip


def write_evidence(validation: Validation, folder: Path) -> None:
    """Write summary.json, report.md and report.png of the cases into the folder."""
    provenance = host_provenance()
    fields = {"provenance": provenance, **validation.summary(), "cases": [case.fields() for case in validation.cases]}
    write_text(folder / "summary.json", json.dumps(fields, indent=1) + "\n")
    write_report(validation, folder, provenance)


def read_evidence(cases: Sequence[CaseSpec], folder: Path) -> Validation:
    """Return the results of those cases that the folder has, to sum them up anew after one was rerun."""
    paths = [folder / spec.name / "result.json" for spec in cases]
    return Validation(tuple(CaseResult.read(path) for path in paths if path.exists()))


def run_case(
    name: str,
    prepared: Prepared,
    profile: Profile,
    policies: Sequence[str],
    *,
    mechanism: Mechanism = OURS,
    repeats: int = REPEATS,
    folder: Path | None = None,
    pool: DevicePool | None = None,
    on_event: Callable[[Event], None] | None = None,
    about: Mapping[str, Any] | None = None,
) -> CaseResult:
    """Simulate a plan for every policy, then execute the plans in turn, `repeats` times each.

    folder: gets the profile, plans and simulated timelines, with their hashes, before the first unit
    runs; then every measured timeline. Weights stay as they are.

    Raises:
        ExecutionError: a run failed for another reason than memory, which is counted.
    """
    workload, cluster, costs = prepared.workload, prepared.cluster, profile.costs(prepared.cluster)
    predicted = {
        policy: make_plan(workload, cluster, policy, costs=costs, mechanism=mechanism, profile_digest=profile.digest)
        for policy in policies
    }
    perturbed = {policy: _perturbed(prepared, profile, plan, mechanism) for policy, (plan, _) in predicted.items()}
    if folder is not None:
        _write_predictions(folder, profile, predicted)
    measured: dict[str, list[Timeline]] = {policy: [] for policy in policies}
    num_oom = 0
    for repeat in range(repeats):
        for policy, (plan, _) in predicted.items():
            try:
                result = train(
                    prepared, plan=plan, mechanism=mechanism, pool=pool, update_models=False, on_event=on_event
                )
            except ExecutionError as reason:
                if not reason.out_of_memory or (repeat == repeats - 1 and not measured[policy]):
                    raise
                num_oom += 1
                continue
            measured[policy].append(result.timeline)
            if folder is not None:
                result.timeline.write(folder / f"measured-{policy}-{repeat}.jsonl.gz")
    naive = naive_s(workload, cluster, costs)
    plans = tuple(
        _result(policy, *predicted[policy], runs, naive, perturbed[policy], prepared, mechanism)
        for policy, runs in measured.items()
    )
    label = str(measured[policies[0]][0].header["label"])
    done = CaseResult(name, plans, label, {**(about or {}), "num_units": workload.num_units}, num_oom)
    if folder is not None:
        write_text(folder / "result.json", json.dumps(done.fields(), indent=1) + "\n")
    return done


def _result(
    policy: str,
    plan: Plan,
    simulated: Timeline,
    runs: list[Timeline],
    naive: float,
    perturbed: dict[str, float],
    prepared: Prepared,
    mechanism: Mechanism,
) -> PlanResult:
    measured = [seconds_by_cause(run) for run in runs]
    return PlanResult(
        policy,
        simulated.makespan_s,
        naive,
        tuple(run.makespan_s for run in runs),
        tuple(replay(prepared.workload, prepared.cluster, plan, run, mechanism=mechanism).makespan_s for run in runs),
        perturbed,
        dict(seconds_by_cause(simulated)),
        {cause: fmean(seconds[cause] for seconds in measured) for cause in CAUSES},
        tuple(simulated.header["peak_bytes"]),
        tuple(max(peaks) for peaks in zip(*(run.header["peak_bytes"] for run in runs), strict=True)),
    )


def _write_predictions(folder: Path, profile: Profile, predicted: Predicted) -> None:
    """Write what is predicted and the hashes of the files, so that nobody can adjust it to what comes out."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.jsonl.gz"):
        old.unlink()  # of a run before
    profile.write(folder / "profile.json")
    for policy, (plan, timeline) in predicted.items():
        plan.write(folder / f"plan-{policy}.json")
        timeline.write(folder / f"simulated-{policy}.jsonl.gz")
    names = sorted(path.name for path in folder.iterdir() if path.name.startswith(("plan-", "simulated-", "profile")))
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    write_text(folder / "predictions.json", json.dumps(digests, indent=1) + "\n")


def _perturbed(prepared: Prepared, profile: Profile, plan: Plan, mechanism: Mechanism) -> dict[str, float]:
    """Predict the plan from distorted profiles: all units slower, all copies slower, each unit at random."""
    more = 1 + PERTURBATION
    rng = random.Random(0)
    distorted = {
        "units +30 %": profile.distorted(lambda _: more, lambda _: 1.0),
        "copies +30 %": profile.distorted(lambda _: 1.0, lambda _: more),
        "each unit +30 % or -30 %": profile.distorted(
            lambda _: 1 + rng.choice((-PERTURBATION, PERTURBATION)), lambda _: 1.0
        ),
    }
    return {
        name: simulate(
            prepared.workload, prepared.cluster, FollowPlan(plan), costs=other.costs(prepared.cluster),
            mechanism=mechanism,
        ).makespan_s
        for name, other in distorted.items()
    }  # fmt: skip


def _about(spec: CaseSpec) -> dict[str, Any]:
    return {
        "mix": spec.mix,
        "budget": spec.budget,
        "num_devices": spec.num_devices,
        "link_bytes_per_s": spec.link_bytes_per_s,
        "shared_link": spec.shared,
        "prefetch": spec.prefetch,
    }
