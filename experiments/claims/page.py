"""Claims in words: a line for each that was checked, and CLAIMS.md, which is written from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from experiments.claims.check import Checked
from experiments.claims.claim import Claim
from experiments.report import percent, signed_percent

_GPU = "no GPU has run this"
_HEAD = """# Claims

What this project claims, and the commands that find out whether it is true. `make claims` runs all of them and prints
PASS or FAIL for each claim; `make claims QUICK=1` the quick ones, as CI does; `make claims NAMES={example}` one.
This page is written from [experiments/claims/](experiments/claims/) by `python -m experiments.claims --write`.

- *seen* is what the command came to when it was last recorded; `--update` writes it, nobody types it. `--committed`
  checks the files that are in [results/](results/) instead of running anything, which takes a second.
- *+-* is around what was seen: PASS says that our value is still that, not that the paper's is; how far they are
  apart stands beside the paper's. *at most* and *at least* are promises, whatever was seen.
- *simulated*: by the simulator; *emulated*: really trained, on worker processes with a memory budget; *measured*: by
  the clock or by counting what happened; *analytic*: counted beforehand. The paper's value is quoted.
- Not claimed: anything about GPUs. {gpu} waits for a machine that has one, and says NOT RUN anywhere else.

`$OUT` is an empty folder: `export OUT=$(mktemp -d)`; what lies in it lies in results/, too. Minutes are of two cores.

| claim | expected | seen | paper (ours) | label | minutes |
|---|---|---|---|---|---|
"""


def line(checked: Checked, seen: float | None) -> str:
    """Return what is printed of a claim that was checked."""
    claim = checked.claim
    found = checked.reason if checked.found is None else f"found {shown(claim, checked.found)}"
    return f"{checked.verdict:7} {claim.name}: {found}; expected {expected(claim, seen)}"


def expected(claim: Claim, seen: float | None) -> str:
    """Say what a claim's value may be."""
    wanted = claim.expected
    why = f" ({wanted.why})" if wanted.why else ""
    if wanted.relative_fraction is not None:
        if seen is None:
            return "not recorded"
        return f"{_seen(claim, seen)} +- {percent(wanted.relative_fraction)}{why}"
    if wanted.low == wanted.high:
        return f"{shown(claim, wanted.low)}{why}"
    if math.isinf(wanted.high):
        return f"at least {shown(claim, wanted.low)}{why}"
    sign = "" if math.isinf(wanted.low) else "+-"
    return f"at most {sign}{shown(claim, wanted.high)}{why}"


def shown(claim: Claim, value: float) -> str:
    """Return a value in its claim's unit."""
    if claim.unit == "yes":
        return "yes" if value == 1 else "no"
    return {"x": f"{value:.4g}x", "%": f"{100 * value:.2g} %", "": f"{value:.6g}"}[claim.unit]


def markdown(claims: Sequence[Claim], seen: Mapping[str, float]) -> str:
    """Return CLAIMS.md."""
    gpu = " and ".join(f"`{claim.name}`" for claim in claims if claim.gpu)
    rows = [_row(claim, seen.get(claim.name)) for claim in claims]
    commands = [_command(command, claims) for command in dict.fromkeys(claim.command for claim in claims)]
    head = _HEAD.format(example=claims[0].name, gpu=gpu)
    return head + "\n".join(rows) + "\n\n## Commands\n\n" + "\n".join(commands)


def _row(claim: Claim, seen: float | None) -> str:
    quick = ", quick" if claim.quick else ""
    cells = (
        f"**{claim.name}**: {claim.text}", expected(claim, seen), _seen(claim, seen), _paper(claim, seen), claim.label,
        f"{claim.minutes:g}{quick}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _seen(claim: Claim, seen: float | None) -> str:
    if seen is None:
        return _GPU if claim.gpu else "not recorded"
    return shown(claim, seen)


def _paper(claim: Claim, seen: float | None) -> str:
    """Return the paper's value, and how far ours is from it."""
    if claim.paper is None:
        return ""
    ours = "" if seen is None else f" ({signed_percent(seen / claim.paper - 1)})"
    return shown(claim, claim.paper) + ours


def _command(command: str, claims: Sequence[Claim]) -> str:
    """Show a command, and where each of its claims reads its value."""
    places = [f"- {claim.name}: {_place(claim)}" for claim in claims if claim.command == command]
    return "\n".join(["```sh", command, "```", "", *places, ""])


def _place(claim: Claim) -> str:
    """Say where a claim's value is read."""
    path = ""
    for step in claim.path:
        if isinstance(step, str):
            path += f".{step}" if path else step
        else:
            path += "[" + ", ".join(f"{key}={value}" for key, value in step.items()) + "]"
    where = f"`$OUT/{claim.file}`" if claim.file else "the output"
    of = "" if claim.of == "median" else f", {claim.of}"
    return f"{where}, `{path}`{of}" if path else where
