"""How far predictions are from reality: plans are simulated, hashed, then executed several times."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from executor import DevicePool, Prepared, train
from hydrasim.command import Event
from hydrasim.compare import naive_s
from hydrasim.files import write_text
from hydrasim.planning import make_plan
from hydrasim.profile import Profile

MAX_SPREAD_FRACTION = 0.03  # a case whose repeats vary more says nothing; run it longer


@dataclass(frozen=True)
class Case:
    """One plan, executed again and again. Errors are (predicted - median measured) / median measured."""

    policy: str
    simulated_s: float
    naive_s: float
    measured_s: tuple[float, ...]

    @property
    def median_s(self) -> float:
        return median(self.measured_s)

    @property
    def error_fraction(self) -> float:
        return self.simulated_s / self.median_s - 1

    @property
    def naive_error_fraction(self) -> float:
        return self.naive_s / self.median_s - 1

    @property
    def spread_fraction(self) -> float:
        """Median distance of a repeat from the median, over the median."""
        return median(abs(seconds - self.median_s) for seconds in self.measured_s) / self.median_s


@dataclass(frozen=True)
class Validation:
    """All cases of one workload. label: what kind of device was measured."""

    cases: tuple[Case, ...]
    label: str

    def summary(self) -> dict[str, Any]:
        """Return the figures. skill: the median size of the error over that of the naive predictor's."""
        error = median(abs(case.error_fraction) for case in self.cases)
        naive = median(abs(case.naive_error_fraction) for case in self.cases)
        return {
            "label": self.label,
            "num_cases": len(self.cases),
            "median_error_fraction": error,
            "naive_median_error_fraction": naive,
            "skill": error / naive if naive else None,
            "median_repeat_spread_fraction": median(case.spread_fraction for case in self.cases),
            "cases": [
                asdict(case)
                | {
                    "error_fraction": case.error_fraction,
                    "naive_error_fraction": case.naive_error_fraction,
                    "spread_fraction": case.spread_fraction,
                    "valid": case.spread_fraction <= MAX_SPREAD_FRACTION,
                }
                for case in self.cases
            ],
        }


def validate(
    prepared: Prepared,
    profile: Profile,
    policies: Sequence[str],
    *,
    repeats: int = 9,
    folder: Path | None = None,
    pool: DevicePool | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Validation:
    """Simulate a plan for every policy, then execute the plans in turn, `repeats` times each.

    folder: gets plans and simulated timelines, with their hashes, before the first unit runs; then every
    measured timeline and summary.json. Weights stay as they are.

    Raises:
        ExecutionError: a run failed.
    """
    workload, cluster, costs = prepared.workload, prepared.cluster, profile.costs(prepared.cluster)
    predicted = {
        policy: make_plan(workload, cluster, policy, costs=costs, profile_digest=profile.digest) for policy in policies
    }
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        files = {}
        for policy, (plan, timeline) in predicted.items():
            for name, text in (
                (f"plan-{policy}.json", plan.to_json()),
                (f"simulated-{policy}.jsonl", timeline.to_lines()),
            ):
                write_text(folder / name, text)
                files[name] = hashlib.sha256(text.encode()).hexdigest()
        write_text(folder / "predictions.json", json.dumps(files, indent=1) + "\n")
    measured: dict[str, list[float]] = {policy: [] for policy in policies}
    label = ""
    for repeat in range(repeats):
        for policy, (plan, _) in predicted.items():
            result = train(prepared, plan=plan, pool=pool, update_models=False, on_event=on_event)
            measured[policy].append(result.makespan_s)
            label = str(result.timeline.header["label"])
            if folder is not None:
                result.timeline.write(folder / f"measured-{policy}-{repeat}.jsonl")
    naive = naive_s(workload, cluster, costs)
    cases = tuple(
        Case(policy, timeline.makespan_s, naive, tuple(measured[policy])) for policy, (_, timeline) in predicted.items()
    )
    validation = Validation(cases, label)
    if folder is not None:
        write_text(folder / "summary.json", json.dumps(validation.summary(), indent=1) + "\n")
    return validation
