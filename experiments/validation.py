"""Holds predictions against reality: plans are simulated, hashed, then executed several times."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from executor import DevicePool, Prepared, train
from executor.errors import ExecutionError
from executor.profiler import MINIBATCHES, ROUNDS
from executor.profiler import profile as measure
from experiments.evidence import Evidence
from experiments.fidelity import CaseResult, PlanResult, Validation
from experiments.progress import Progress, on_compute
from experiments.suite import CaseSpec
from experiments.validation_report import write_report
from hydrasim.causes import CAUSES, seconds_by_cause
from hydrasim.cluster import Cluster
from hydrasim.command import Event
from hydrasim.compare import compare, naive_s
from hydrasim.disk import write_text
from hydrasim.mechanism import OURS, Mechanism
from hydrasim.plan import Plan
from hydrasim.planning import make_plan
from hydrasim.policies import make_policy
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.profile import Profile, UnitKind
from hydrasim.replay import replay
from hydrasim.simulator import simulate

REPEATS = 3
PERTURBATION = 0.3  # how far the profile is distorted, to show that it matters
_NUM_DISTORTIONS = 5  # of the random kind
_MUCH_COPYING_FRACTION = 0.1  # of the makespan spent waiting for copies: from there on their times matter


def run_suite(
    cases: Sequence[CaseSpec], *, repeats: int = REPEATS, folder: Path | None = None, progress: Progress | None = None
) -> Validation:
    """Run every case: cut, profile, plan, execute, score. folder: gets a folder a case.

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


def read_suite(cases: Sequence[CaseSpec], folder: Path) -> Validation:
    """Score those cases that the folder has, from their files; nothing runs.

    Raises:
        HydraError: a prediction was changed after it was hashed, or a file is damaged.
    """
    found = [folder / spec.name for spec in cases if (folder / spec.name / "case.json").exists()]
    return Validation(tuple(score(Evidence.read(path)) for path in found))


def write_evidence(validation: Validation, folder: Path) -> None:
    """Write summary.json, report.md and report.png of the cases into the folder."""
    fields = {**validation.summary(), "cases": [case.fields() for case in validation.cases]}
    write_text(folder / "summary.json", json.dumps(fields, indent=1) + "\n")
    write_report(validation, folder)


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
        PolicyError: a policy is unknown. ExecutionError: a run failed for another reason than memory, which
            is counted.
    """
    progress = progress or Progress()
    for policy in policies:
        make_policy(policy)  # before anything runs
    with DevicePool(prepared.devices) as pool:
        tick = progress.step(f"{name}: profile", ROUNDS * prepared.limited(MINIBATCHES).workload.num_units)
        found = measure(prepared, mechanism=mechanism, pool=pool, on_event=on_compute(tick))
        if not policies:
            cluster = found.cluster or prepared.cluster
            table = compare(prepared.workload, cluster, costs=found.costs(cluster), mechanism=mechanism)
            policies = (table.best.policy, table.worst_work_conserving.policy)
        tick = progress.step(f"{name}: execute", repeats * len(policies) * prepared.workload.num_units)
        return run_case(
            name, prepared, found, policies, mechanism=mechanism, repeats=repeats, folder=folder, pool=pool,
            on_event=on_compute(tick), about=about,
        )  # fmt: skip


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

    folder: gets what `experiments.evidence` says. Weights stay as they are.

    Raises:
        ExecutionError: a run failed for another reason than memory, which is counted.
    """
    workload, cluster = prepared.workload, profile.cluster or prepared.cluster
    costs = profile.costs(cluster)
    predicted = {
        policy: make_plan(workload, cluster, policy, costs=costs, mechanism=mechanism, profile_digest=profile.digest)
        for policy in policies
    }
    evidence = Evidence(name, profile, predicted, mechanism, {**(about or {}), "num_units": workload.num_units})
    if folder is not None:
        evidence.write_predictions(folder)
    for repeat in range(repeats):
        for policy, (plan, _) in predicted.items():
            try:
                result = train(
                    prepared, plan=plan, mechanism=mechanism, pool=pool, update_models=False, on_event=on_event,
                    strict=True,
                )  # fmt: skip
            except ExecutionError as reason:
                if not reason.out_of_memory or (repeat == repeats - 1 and policy not in evidence.measured):
                    raise
                evidence.num_oom += 1
                continue
            evidence.add(policy, result.timeline, folder)
    if folder is not None:
        evidence.write_outcome(folder)
    return score(evidence)


def score(evidence: Evidence) -> CaseResult:
    """Work out a case's figures from its files, or from what would be in them."""
    profile = evidence.profile
    assert profile.cluster is not None  # the profiler says what it measured on
    naive = naive_s(profile.workload, profile.cluster, profile.costs(profile.cluster))
    plans = []
    for policy, runs in evidence.measured.items():
        plan, simulated = evidence.predicted[policy]
        expected, measured = seconds_by_cause(simulated), [seconds_by_cause(run) for run in runs]
        again = partial(replay, profile.workload, profile.cluster, plan, mechanism=evidence.mechanism)
        copying = expected["h2d"] + expected["d2h"] >= _MUCH_COPYING_FRACTION * simulated.makespan_s
        plans.append(
            PlanResult(
                policy,
                simulated.makespan_s,
                naive,
                tuple(run.makespan_s for run in runs),
                replayed_s=tuple(again(run).makespan_s for run in runs),
                perturbed_s=_perturbed(profile, profile.cluster, plan, evidence.mechanism, copying),
                simulated_by_cause_s=dict(expected),
                measured_by_cause_s={cause: fmean(seconds[cause] for seconds in measured) for cause in CAUSES},
                simulated_peak_bytes=tuple(simulated.header["peak_bytes"]),
                measured_peak_bytes=tuple(
                    max(peaks) for peaks in zip(*(run.header["peak_bytes"] for run in runs), strict=True)
                ),
            )
        )
    label = str(next(iter(evidence.measured.values()))[0].header["label"])
    about = {**evidence.about, "num_attempts": evidence.num_attempts, "provenance": profile.provenance}
    return CaseResult(evidence.name, tuple(plans), label, about, evidence.num_oom)


def _perturbed(
    profile: Profile, cluster: Cluster, plan: Plan, mechanism: Mechanism, copying: bool
) -> dict[str, tuple[float, ...]]:
    """Predict the plan from distorted profiles: all units slower, copies slower, each unit off at random."""
    more, less = 1 + PERTURBATION, 1 - PERTURBATION

    def at_random(seed: int) -> Callable[[UnitKind], float]:
        return lambda unit: random.Random(f"{seed} {unit}").choice((more, less))

    def predict(distorted: Profile) -> float:
        costs = distorted.costs(cluster)
        return simulate(profile.workload, cluster, FollowPlan(plan), costs=costs, mechanism=mechanism).makespan_s

    found = {
        "units +30 %": (predict(profile.distorted(lambda _: more, lambda _: 1.0)),),
        "each unit +30 % or -30 %": tuple(
            predict(profile.distorted(at_random(seed), lambda _: 1.0)) for seed in range(_NUM_DISTORTIONS)
        ),
    }
    if copying:
        found["copies +30 %, in plans that wait for them"] = (
            predict(profile.distorted(lambda _: 1.0, lambda _: more)),
        )
    return found


def _about(spec: CaseSpec) -> dict[str, Any]:
    return {
        "mix": spec.mix,
        "budget": spec.budget,
        "num_devices": spec.num_devices,
        "link_bytes_per_s": spec.link_bytes_per_s,
        "shared_link": spec.shared,
        "prefetch": spec.prefetch,
    }
