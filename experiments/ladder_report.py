"""Policies on every rung of effects, for people: a table of makespans and ranks, who overtakes whom, a picture."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import typer

from experiments import report
from hydrasim import ladder as rungs
from hydrasim.mechanism import EFFECTS

if TYPE_CHECKING:
    from pathlib import Path

    from experiments.inputs import Inputs

_MAX_NAMED = 4  # overtakings that a line names


def compare_on_every_rung(
    inputs: Inputs, policies: list[str], systems: list[str], chart: Path | None, *, as_json: bool
) -> None:
    """Compare policies and rival systems on every rung and print, and draw if asked to, how their ranking changes."""
    num_steps = (len(policies) + len(systems)) * (len(EFFECTS) - 1 + rungs.NUM_DRAWS)
    with report.step_progress(num_steps, "comparing", quiet=as_json) as advance:
        ladder = rungs.climb(
            inputs.workload, inputs.cluster, policies, systems=systems, costs=inputs.costs, mechanism=inputs.mechanism,
            seed=inputs.seed, on_policy=lambda _: None if advance is None else advance(1),
        )  # fmt: skip
    if chart is not None:
        rungs.draw(ladder, chart)
    if as_json:
        report.print_json(
            {
                "label": "simulated",
                "seed": inputs.seed,
                "num_draws": rungs.NUM_DRAWS,
                "rows": [vars(standing) for standing in ladder.standings],
                "kendall_tau": {f"{a} to {b}": ladder.kendall_tau(a, b) for a, b in pairwise(EFFECTS)},
            }
        )
    else:
        print_ladder(ladder)


def print_ladder(ladder: rungs.Ladder) -> None:
    """Print makespan and rank of every policy on every rung, and what changes from rung to rung."""
    rows = [[policy, *(_cell(ladder.on(effects)[policy]) for effects in EFFECTS)] for policy in ladder.on(EFFECTS[0])]
    report.print_table(("policy", *EFFECTS), rows)
    for reason in dict.fromkeys(f"{s.policy}: {s.error}" for s in ladder.standings if s.error):
        report.print_error(reason)
    for lower, upper in pairwise(EFFECTS):
        tau, changed = ladder.kendall_tau(lower, upper), ladder.overtakings(lower, upper)
        named = ", ".join(f"{winner} overtakes {loser}" for winner, loser in changed[:_MAX_NAMED])
        more = f" and {len(changed) - _MAX_NAMED} more" if len(changed) > _MAX_NAMED else ""
        likeness = "" if tau is None else f" (Kendall's tau {tau:.2f})"
        same = all(ladder.on(lower)[name].makespan_s == s.makespan_s for name, s in ladder.on(upper).items())
        nothing = "nothing changes: no cost of this rung is stated or measured" if same else "nobody overtakes anybody"
        typer.echo(f"{lower} to {upper}{likeness}: {named or nothing}{more}")
    typer.echo(f"simulated; (rank) after each makespan; noise: mean of {rungs.NUM_DRAWS} draws +- standard deviation")


def _cell(standing: rungs.Standing) -> str:
    if standing.makespan_s is None:
        return "cannot run"
    spread = f" +-{report.seconds(standing.spread_s)}" if standing.spread_s else ""
    return f"{report.seconds(standing.makespan_s)}{spread} ({standing.rank})"
