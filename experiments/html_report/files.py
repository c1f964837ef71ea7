"""The files that the page is made of, as far as it needs them; each is checked once, as it is read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from hydrasim.disk import read_text
from hydrasim.errors import HydraError, shortened

Model = TypeVar("Model", bound=BaseModel)

# What can be shown and divided without running over: thirty thousand years, and a million times too much.
Seconds = Annotated[FiniteFloat, Field(ge=0.0, le=1e12)]
Fraction = Annotated[FiniteFloat, Field(ge=-1e6, le=1e6)]


def read_json(path: Path, model: type[Model]) -> Model:
    """Read what a JSON file says, as far as the page needs it.

    Raises:
        HydraError: it is missing, no JSON, or lacks something; the message says what.
    """
    try:
        return model.model_validate(json.loads(read_text(path, HydraError)))
    except ValidationError as reason:
        found = reason.errors(include_url=False)[0]
        where = ".".join(map(str, found["loc"])) or "it"
        raise HydraError(shortened(f"{path} is not what the page can show: {where}: {found['msg']}.")) from None
    except (ValueError, RecursionError) as reason:
        raise HydraError(shortened(f"{path} is no JSON: {reason}.")) from None


class PolicyRow(BaseModel):
    """A policy or system on a workload; measured_s where its plan was executed, error where it cannot run."""

    policy: str
    makespan_s: Seconds | None = None
    ratio_to_bound: FiniteFloat | None = None
    utilization: FiniteFloat | None = None
    moved_bytes: int | None = None
    measured_s: Seconds | None = None
    error: str | None = None


class Comparison(BaseModel):
    """What `hydrasim compare --json` prints."""

    label: str
    effects: str = ""
    bounds: dict[str, Seconds]
    naive_s: Seconds | None = None
    rows: list[PolicyRow] = Field(min_length=1)
    title: str = ""
    measured_label: str = ""

    @property
    def bound_s(self) -> float:
        return max(self.bounds.values(), default=0.0)

    @property
    def by_makespan(self) -> list[PolicyRow]:
        """The rows, the shortest makespan first, those that cannot run last."""
        return sorted(self.rows, key=lambda row: (row.makespan_s is None, row.makespan_s or 0.0))


class DemoSummary(BaseModel):
    """What the page needs of the demo's summary.json."""

    label: str
    policy: str
    simulated_makespan_s: Seconds
    measured_makespan_s: Seconds
    error_fraction: Fraction
    worst_policy: str
    worst_measured_makespan_s: Seconds
    devices: list[str]
    losses: dict[str, dict[str, FiniteFloat]]
    simulated_gain: FiniteFloat
    measured_gain: FiniteFloat
    bit_identical: bool
    policies: dict[str, Seconds | None] = Field(min_length=1)
    lower_bound_s: Annotated[FiniteFloat, Field(ge=1e-9, le=1e12)]
    naive_s: Seconds
    provenance: dict[str, Any] = {}

    def comparison(self) -> Comparison:
        executed = {self.policy: self.measured_makespan_s, self.worst_policy: self.worst_measured_makespan_s}
        rows = [
            PolicyRow(
                policy=name, makespan_s=makespan_s, measured_s=executed.get(name),
                ratio_to_bound=makespan_s / self.lower_bound_s if makespan_s else None,
            )
            for name, makespan_s in self.policies.items()
        ]  # fmt: skip
        return Comparison(
            label="simulated", bounds={"least": self.lower_bound_s}, naive_s=self.naive_s, rows=rows,
            title=f"The demo's {len(self.losses)} jobs on {len(self.devices)} devices", measured_label=self.label,
        )  # fmt: skip


class PlanError(BaseModel):
    """A plan of a validation case: predicted, and every repeat."""

    policy: str
    simulated_s: Seconds
    measured_s: list[Seconds] = Field(min_length=1)
    error_fraction: Fraction
    naive_error_fraction: Fraction
    spread_fraction: Fraction


class CaseErrors(BaseModel):
    """A validation case."""

    name: str
    label: str
    plans: list[PlanError] = Field(min_length=1)


class Fidelity(BaseModel):
    """What the page needs of the validation's summary.json."""

    labels: list[str]
    num_cases: int
    num_plans: int
    num_runs: int
    median_error_fraction: Fraction
    p90_error_fraction: Fraction
    max_error_fraction: Fraction
    naive_median_error_fraction: Fraction
    median_repeat_spread_fraction: Fraction
    kendall_tau: FiniteFloat | None
    num_separable_pairs: int
    regret_fraction: Fraction
    num_top1: int
    num_oom: int
    replay_error_fraction: Fraction
    cases: list[CaseErrors] = Field(min_length=1)

    @property
    def reach_fraction(self) -> float:
        """How far the errors reach from 0 on either side, rounded up to a tenth."""
        errors = [(plan.error_fraction, plan.naive_error_fraction) for case in self.cases for plan in case.plans]
        return math.ceil(10 * max(abs(error) for pair in errors for error in pair) + 1e-9) / 10


class FigureRun(BaseModel):
    """How a figure was made: its run.json. source: what of the paper it remakes. smoke: it is a small version."""

    name: str
    title: str
    command: str
    label: str = "unlabelled"
    source: str = ""
    note: str | None = None
    smoke: bool = False


class Evidence(BaseModel):
    """Further results, by the label and command of their summary.json."""

    folder: str = ""
    label: str
    command: str
