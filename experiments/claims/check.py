"""Checks claims: runs each command once, reads the values that it left, and says PASS, FAIL or NOT RUN."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any, Literal

from experiments.claims.claim import Claim, Of, Step
from hydrasim.errors import HydraError

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "results"
SEEN = Path(__file__).with_name("seen.json")
_ERROR_LINES = 8  # of a command that failed
_OF_SEVERAL: Mapping[Of, Callable[[list[float]], float]] = {
    "median": median,
    "largest": lambda values: max(values, key=abs),
    "share above 1": lambda values: sum(value > 1 for value in values) / len(values),
}

Verdict = Literal["PASS", "FAIL", "NOT RUN"]


@dataclass(frozen=True)
class Checked:
    """What became of a claim. reason: why there is no value."""

    claim: Claim
    verdict: Verdict
    found: float | None = None
    reason: str = ""


class ClaimError(HydraError):
    """A command failed, or left no such value."""


def check(claims: Sequence[Claim], seen: Mapping[str, float]) -> Iterator[Checked]:
    """Check claims one after another; those that share a command stand together and share its run."""
    for command, group in groupby(claims, key=lambda claim: claim.command):
        sharing = list(group)
        if any(claim.gpu for claim in sharing) and not _has_gpu():
            yield from (Checked(claim, "NOT RUN", reason="there is no GPU here") for claim in sharing)
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                output = _run(command, Path(folder))
            except ClaimError as reason:
                yield from (Checked(claim, "FAIL", reason=str(reason)) for claim in sharing)
                continue
            yield from (_judged(claim, output, Path(folder), seen.get(claim.name)) for claim in sharing)


def check_committed(claims: Sequence[Claim], seen: Mapping[str, float], results: Path = RESULTS) -> Iterator[Checked]:
    """Check claims against the files in results/, of an earlier run of their commands; run nothing."""
    for claim in claims:
        if not claim.file:
            yield Checked(claim, "NOT RUN", reason="its command leaves no file")
        elif not (results / claim.file).exists():
            yield Checked(claim, "NOT RUN", reason=f"there is no results/{claim.file}")
        else:
            yield _judged(claim, "", results, seen.get(claim.name))


def value_at(found: Any, path: Sequence[Step], of: Of = "median") -> float:
    """Follow a path of keys and of rows that match; return the number there, or what counts of several.

    Raises:
        ClaimError: there is no such thing, or no number.
    """
    for step in path:
        if isinstance(step, str):
            found = [_item(row, step) for row in found] if isinstance(found, list) else _item(found, step)
            if isinstance(found, list) and found and isinstance(found[0], list):
                found = [value for row in found for value in row]
        else:
            found = [row for row in found if all(str(_item(row, key)) == value for key, value in step.items())]
            if not found:
                raise ClaimError(f"no row has {dict(step)}.")
    try:
        return _OF_SEVERAL[of]([float(value) for value in found]) if isinstance(found, list) else float(found)
    except (TypeError, ValueError):
        raise ClaimError(f"{found!r} is no number.") from None


def read_seen() -> dict[str, float]:
    """Return what each claim's command last came to when it was recorded with --update."""
    found: dict[str, float] = json.loads(SEEN.read_text())
    return found


def _judged(claim: Claim, output: str, folder: Path, seen: float | None) -> Checked:
    try:
        found = value_at(_parsed(claim, output, folder), claim.path, claim.of)
    except ClaimError as reason:
        return Checked(claim, "FAIL", reason=str(reason))
    return Checked(claim, "PASS" if claim.expected.holds(found, seen) else "FAIL", found)


def _run(command: str, folder: Path) -> str:
    """Run a command with this Python's programs first; return its output."""
    programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=ROOT, env={**os.environ, "OUT": str(folder), "PATH": programs},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()[-_ERROR_LINES:]
        raise ClaimError("\n".join([f"the command exited with {done.returncode}.", *lines]))
    return done.stdout


def _parsed(claim: Claim, output: str, folder: Path) -> Any:
    """Return a claim's file, or the command's output, as rows or JSON values."""
    try:
        text = (folder / claim.file).read_text() if claim.file else output
        return list(csv.DictReader(text.splitlines())) if claim.file.endswith(".csv") else json.loads(text)
    except OSError:
        raise ClaimError(f"the command left no {claim.file}.") from None
    except ValueError as reason:
        raise ClaimError(f"{claim.file or 'the output'} is no JSON: {reason}.") from None


def _item(found: Any, key: str) -> Any:
    if not isinstance(found, dict) or key not in found:
        raise ClaimError(f"there is no {key!r}.")
    return found[key]


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
