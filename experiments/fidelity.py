"""How close predictions came: errors, skill, ranking and causes over the cases of a validation."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import combinations
from statistics import fmean, median, quantiles
from typing import Any

from hydrasim.causes import CAUSES

MAX_SPREAD_FRACTION = 0.03  # repeats that vary more say little; run it longer
NAIVE_ERRS_FRACTION = 0.10  # where the naive predictor is wrong by more, a simulator is needed


@dataclass(frozen=True)
class PlanResult:
    """One plan, executed again and again. Errors are (predicted - median measured) / median measured.

    perturbed_s: what distorted profiles would have predicted, by distortion. replayed_s: per repeat, the
    simulation of the measured durations. *_by_cause_s: the makespan by cause, measured ones averaged over
    the repeats. *_peak_bytes: per device, the arena's fullest moment plus the activation peak.
    """

    policy: str
    simulated_s: float
    naive_s: float
    measured_s: tuple[float, ...]
    replayed_s: tuple[float, ...] = ()
    perturbed_s: dict[str, tuple[float, ...]] = field(default_factory=dict)
    simulated_by_cause_s: dict[str, float] = field(default_factory=dict)
    measured_by_cause_s: dict[str, float] = field(default_factory=dict)
    simulated_peak_bytes: tuple[int, ...] = ()
    measured_peak_bytes: tuple[int, ...] = ()

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
        """Distance of the worst repeat from the median, over the median."""
        return max(abs(seconds - self.median_s) for seconds in self.measured_s) / self.median_s

    @property
    def is_valid(self) -> bool:
        return self.spread_fraction <= MAX_SPREAD_FRACTION

    @property
    def replay_error_fraction(self) -> float:
        """The largest error of a replay, over the repeats."""
        pairs = zip(self.replayed_s, self.measured_s, strict=True)
        return max(abs(replayed / measured - 1) for replayed, measured in pairs)

    @property
    def residuals(self) -> dict[str, float]:
        """Simulated minus measured seconds by cause, over the measured makespan."""
        if not self.measured_by_cause_s:
            return {}
        whole = sum(self.measured_by_cause_s.values())
        return {c: (self.simulated_by_cause_s[c] - self.measured_by_cause_s[c]) / whole for c in CAUSES}

    @property
    def memory_error_fraction(self) -> float:
        """The predicted over the measured peak less one, of the device where they are farthest apart."""
        pairs = zip(self.simulated_peak_bytes, self.measured_peak_bytes, strict=True)
        return max((p / m - 1 for p, m in pairs if m), key=abs, default=0.0)  # a device may have run nothing

    def is_separable_from(self, other: PlanResult) -> bool:
        """Whether no repeat of the one plan took as long as any of the other."""
        return max(self.measured_s) < min(other.measured_s) or max(other.measured_s) < min(self.measured_s)

    def fields(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self) | {
            "error_fraction": self.error_fraction,
            "naive_error_fraction": self.naive_error_fraction,
            "spread_fraction": self.spread_fraction,
            "replay_error_fraction": self.replay_error_fraction,
            "memory_error_fraction": self.memory_error_fraction,
            "residuals": self.residuals,
            "valid": self.is_valid,
        }


@dataclass(frozen=True)
class CaseResult:
    """All plans of one case. about: what the case is, for people. label: what kind of device was measured."""

    name: str
    plans: tuple[PlanResult, ...]
    label: str
    about: dict[str, Any] = field(default_factory=dict)
    num_oom: int = 0

    @property
    def pairs(self) -> list[bool]:
        """For each pair of plans that repeats tell apart, whether the simulation has them in that order."""
        return [
            (a.simulated_s - b.simulated_s) * (a.median_s - b.median_s) > 0
            for a, b in combinations(self.plans, 2)
            if a.is_separable_from(b)
        ]

    @property
    def chosen(self) -> PlanResult:
        return min(self.plans, key=lambda plan: plan.simulated_s)

    @property
    def best(self) -> PlanResult:
        return min(self.plans, key=lambda plan: plan.median_s)

    @property
    def regret_fraction(self) -> float:
        """How much longer the plan of least predicted makespan took than the best one."""
        return self.chosen.median_s / self.best.median_s - 1

    @property
    def is_top1(self) -> bool:
        """Whether the chosen plan is the best, or one that repeats cannot tell from it."""
        return not self.chosen.is_separable_from(self.best)

    def fields(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "name": self.name,
            "label": self.label,
            "about": self.about,
            "regret_fraction": self.regret_fraction,
            "top1": self.is_top1,
            "num_separable_pairs": len(self.pairs),
            "num_oom": self.num_oom,
            "plans": [plan.fields() for plan in self.plans],
        }


@dataclass(frozen=True)
class Validation:
    """All cases of a suite."""

    cases: tuple[CaseResult, ...]

    @property
    def plans(self) -> list[PlanResult]:
        return [plan for case in self.cases for plan in case.plans]

    def summary(self) -> dict[str, Any]:
        """Return the figures over all plans, none left out.

        skill: the median error over the naive predictor's, over the plans where that one is wrong by more
        than a tenth. kendall_tau: over the pairs of plans of one case that repeats tell apart.
        """
        plans = self.plans
        errors = [abs(plan.error_fraction) for plan in plans]
        hard = [plan for plan in plans if abs(plan.naive_error_fraction) > NAIVE_ERRS_FRACTION]
        pairs = [pair for case in self.cases for pair in case.pairs]
        regrets = [case.regret_fraction for case in self.cases]
        return {
            "labels": sorted({case.label for case in self.cases}),
            "num_cases": len(self.cases),
            "num_plans": len(plans),
            "num_runs": sum(len(plan.measured_s) for plan in plans),
            "median_error_fraction": median(errors),
            "p90_error_fraction": _p90(errors),
            "max_error_fraction": max(errors),
            "mean_signed_error_fraction": fmean(plan.error_fraction for plan in plans),
            "naive_median_error_fraction": median(abs(plan.naive_error_fraction) for plan in plans),
            "num_cases_naive_wrong": sum(any(plan in hard for plan in case.plans) for case in self.cases),
            "num_plans_naive_wrong": len(hard),
            "skill": _skill(hard),
            "median_repeat_spread_fraction": median(plan.spread_fraction for plan in plans),
            "max_repeat_spread_fraction": max(plan.spread_fraction for plan in plans),
            "num_invalid_plans": sum(not plan.is_valid for plan in plans),
            "kendall_tau": (2 * sum(pairs) - len(pairs)) / len(pairs) if pairs else None,
            "num_separable_pairs": len(pairs),
            "num_top1": sum(case.is_top1 for case in self.cases),
            "regret_fraction": fmean(regrets),
            "max_regret_fraction": max(regrets),
            "num_oom": sum(case.num_oom for case in self.cases),
            "memory_error_fraction": median(abs(plan.memory_error_fraction) for plan in plans),
            "replay_error_fraction": max(plan.replay_error_fraction for plan in plans),
            "median_error_fraction_if_perturbed": self._perturbed(),
        }

    def _perturbed(self) -> dict[str, float]:
        """Return the median error that each distortion of the profile would have had."""
        errors: dict[str, list[float]] = {}
        for plan in self.plans:
            for name, predictions in plan.perturbed_s.items():
                errors.setdefault(name, []).extend(abs(seconds / plan.median_s - 1) for seconds in predictions)
        return {name: median(found) for name, found in errors.items()}


def _skill(plans: list[PlanResult]) -> float | None:
    if not plans:
        return None
    naive = median(abs(plan.naive_error_fraction) for plan in plans)
    return median(abs(plan.error_fraction) for plan in plans) / naive


def _p90(values: list[float]) -> float:
    return quantiles(values, n=10, method="inclusive")[-1] if len(values) > 1 else values[0]
