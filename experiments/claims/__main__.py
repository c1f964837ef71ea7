"""Checks the project's claims: `python -m experiments.claims`.

Exit code 1: a claim failed. What cannot be checked here is NOT RUN, which is neither.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from experiments.claims.catalogue import CLAIMS
from experiments.claims.check import ROOT, SEEN, Checked, check, check_committed, read_seen
from experiments.claims.claim import Claim
from experiments.claims.page import line, markdown
from hydrasim.disk import write_text

PAGE = ROOT / "CLAIMS.md"


def main(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="These claims, instead of all.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only those cheap enough for CI.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Record what is found, and write CLAIMS.md.")] = False,
    committed: Annotated[
        bool, typer.Option("--committed", help="Run nothing; check, or with --update record, the files in results/.")
    ] = False,
    write: Annotated[bool, typer.Option("--write", help="Run nothing; write CLAIMS.md.")] = False,
) -> None:
    """Run the commands of the claims and print PASS, FAIL or NOT RUN for each."""
    known = {claim.name for claim in CLAIMS}
    seen = {name: value for name, value in read_seen().items() if name in known}  # the others are claimed no more
    if write:
        write_text(PAGE, markdown(CLAIMS, seen))
        return
    counts: Counter[str] = Counter()
    checking = check_committed if committed else check
    for found in checking(chosen(names or [], quick=quick), seen):
        checked = record(found, seen) if update and found.found is not None else found
        counts[checked.verdict] += 1
        typer.echo(line(checked, seen.get(checked.claim.name)))
    if update:
        write_text(PAGE, markdown(CLAIMS, seen))
    typer.echo(", ".join(f"{counts[verdict]} {verdict}" for verdict in ("PASS", "FAIL", "NOT RUN")))
    if counts["FAIL"]:
        raise typer.Exit(1)


def chosen(names: list[str], *, quick: bool = False) -> list[Claim]:
    """Return the claims of these names, all without any; with quick only the quick ones of them.

    Raises:
        BadParameter: there is no such claim.
    """
    unknown = set(names) - {claim.name for claim in CLAIMS}
    if unknown:
        raise typer.BadParameter(f"no claim is named {', '.join(sorted(unknown))}; CLAIMS.md lists them.")
    return [claim for claim in CLAIMS if (not names or claim.name in names) and (claim.quick or not quick)]


def record(checked: Checked, seen: dict[str, float], path: Path = SEEN) -> Checked:
    """Write down what was found, and judge it by that: a promise can still fail."""
    assert checked.found is not None
    seen[checked.claim.name] = checked.found
    write_text(path, json.dumps(dict(sorted(seen.items())), indent=1) + "\n")
    holds = checked.claim.expected.holds(checked.found, checked.found)
    return Checked(checked.claim, "PASS" if holds else "FAIL", checked.found)


if __name__ == "__main__":
    typer.run(main)
