"""A claim: a sentence, the command that checks it, where the value is read, and what it may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Label = Literal["simulated", "emulated", "measured", "analytic"]
Unit = Literal["", "x", "%", "yes"]
Step = str | Mapping[str, str]
Of = Literal["median", "largest", "share above 1"]  # several values


@dataclass(frozen=True)
class Expected:
    """What a value may be: from low to high; relative_fraction: so far from what was seen when it was last updated.

    why: what the tolerance is for.
    """

    low: float = -math.inf
    high: float = math.inf
    relative_fraction: float | None = None
    why: str = ""

    def range(self, seen: float | None) -> tuple[float, float]:
        """Return the least and the greatest value that pass."""
        if self.relative_fraction is None:
            return self.low, self.high
        if seen is None:
            return math.nan, math.nan  # nothing passes
        width = abs(seen) * self.relative_fraction
        return seen - width, seen + width

    def holds(self, found: float, seen: float | None) -> bool:
        """Tell whether a value passes."""
        low, high = self.range(seen)
        return low <= found <= high


def exactly(value: float) -> Expected:
    """Expect this value and no other; True is 1."""
    return Expected(value, value)


def at_most(value: float, why: str = "") -> Expected:
    """Expect a value that is not greater."""
    return Expected(high=value, why=why)


def at_least(value: float, why: str = "") -> Expected:
    """Expect a value that is not less."""
    return Expected(low=value, why=why)


def within(value: float, why: str = "") -> Expected:
    """Expect a value that is no further from zero, either way."""
    return Expected(-value, value, why=why)


def near(relative_fraction: float, why: str) -> Expected:
    """Expect what was seen when the claim was last updated, or a value this close to it."""
    return Expected(relative_fraction=relative_fraction, why=why)


@dataclass(frozen=True)
class Claim:
    """What is claimed, and how it is checked.

    command: for bash, in the repository's folder; $OUT is an empty folder, and claims with the same command share a
    run. file: in $OUT, and in results/, .json or .csv; "" is the command's output, JSON. path: into it, at each step a
    key or the rows that match. of: what counts of several values; "largest" is the one that is farthest from zero.
    unit: how the value is printed. paper: the paper's value of the same, quoted. quick: cheap enough for CI. gpu: the
    command needs one.
    """

    name: str
    text: str
    command: str
    expected: Expected
    label: Label
    minutes: float
    file: str = ""
    path: tuple[Step, ...] = ()
    unit: Unit = ""
    paper: float | None = None
    quick: bool = False
    gpu: bool = False
    of: Of = "median"
