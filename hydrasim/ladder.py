"""Climbs the ladder of effects: every policy on every rung, to see which effect decides who wins."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

from hydrasim.compare import Comparison, Row, compare
from hydrasim.errors import HydraError
from hydrasim.gantt import save
from hydrasim.mechanism import EFFECTS, OURS, Effects, Mechanism

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

    from hydrasim.cluster import Cluster
    from hydrasim.policies import Policy
    from hydrasim.profile import CostModel
    from hydrasim.systems import System
    from hydrasim.workload import Workload

NUM_DRAWS = 5  # of the rung with noise
_SAME = 1e-9  # relative; makespans closer than that are equal
_COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#332288",
    "#999933",
    "#882255",
    "#44AA99",
)


@dataclass(frozen=True)
class Standing:
    """How a policy fares on a rung. makespan_s: under noise the mean over draws; None when it cannot run.

    spread_s: standard deviation over draws. rank: 1 is best; equal makespans share a rank.
    """

    policy: str
    effects: Effects
    makespan_s: float | None
    spread_s: float = 0.0
    rank: int | None = None
    error: str = ""


@dataclass(frozen=True)
class Ladder:
    """All standings, rung by rung from the lowest, in each the policies in their order."""

    standings: tuple[Standing, ...]

    def on(self, effects: Effects) -> dict[str, Standing]:
        """Return a rung's standings by policy."""
        return {standing.policy: standing for standing in self.standings if standing.effects == effects}

    def kendall_tau(self, lower: Effects, upper: Effects) -> float | None:
        """Return how alike two rungs rank the policies: 1 the same, -1 reversed.

        None when one of them tells no two policies apart that run on both.

        Source: Kendall, The treatment of ties in ranking problems (1945); tau-b.
        """
        below, above = self.on(lower), self.on(upper)
        both = [name for name in below if below[name].rank and above[name].rank]
        signs = [(_sign(below[a], below[b]), _sign(above[a], above[b])) for a, b in combinations(both, 2)]
        told_apart = math.prod(sum(sign[rung] != 0 for sign in signs) for rung in (0, 1))
        return sum(a * b for a, b in signs) / math.sqrt(told_apart) if told_apart else None

    def overtakings(self, lower: Effects, upper: Effects) -> list[tuple[str, str]]:
        """Return pairs (winner, loser) of the upper rung that stood the other way round on the lower one."""
        below, above = self.on(lower), self.on(upper)
        found = []
        for a, b in combinations([name for name in below if below[name].rank and above[name].rank], 2):
            if _sign(below[a], below[b]) * _sign(above[a], above[b]) < 0:
                found.append((a, b) if _sign(above[a], above[b]) < 0 else (b, a))
        return found

    def to_frame(self) -> pd.DataFrame:
        """Return one row a policy and rung, columns named as the fields of Standing."""
        import pandas as pd

        frame: pd.DataFrame = pd.DataFrame([vars(s) for s in self.standings], columns=list(Standing.__annotations__))
        return frame


def climb(
    workload: Workload,
    cluster: Cluster,
    policies: Sequence[Policy | str] | None = None,
    *,
    systems: Sequence[System | str] = (),
    costs: CostModel | None = None,
    mechanism: Mechanism = OURS,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
    on_policy: Callable[[Row], None] | None = None,
) -> Ladder:
    """Compare policies, and rival systems, on every rung; under noise over so many draws, from the seed on.

    on_policy: called with each row of each comparison as it comes.

    Raises:
        PolicyError: a policy is unknown. HydraError: num_draws is not positive.
    """
    if num_draws < 1:
        raise HydraError(f"num_draws is {num_draws}; it must be at least 1.")
    standings: list[Standing] = []
    for effects in EFFECTS:
        seeds = range(seed, seed + (num_draws if effects == "noise" else 1))
        draws = [
            compare(
                workload, cluster, policies, systems=systems, costs=costs, mechanism=mechanism, effects=effects,
                seed=one, on_policy=on_policy,
            )
            for one in seeds
        ]  # fmt: skip
        standings += _ranked([_standing(draws, effects, index) for index in range(len(draws[0].rows))])
    return Ladder(tuple(standings))


def _standing(draws: list[Comparison], effects: Effects, index: int) -> Standing:
    rows = [draw.rows[index] for draw in draws]
    found = [row.makespan_s for row in rows if row.makespan_s is not None]
    error = next((row.error for row in rows if row.error), "")
    if error:
        return Standing(rows[0].policy, effects, None, error=error)
    return Standing(rows[0].policy, effects, fmean(found), pstdev(found))


def _ranked(standings: list[Standing]) -> list[Standing]:
    running = [standing for standing in standings if standing.makespan_s is not None]
    return [
        standing
        if standing.makespan_s is None
        else replace(standing, rank=1 + sum(_sign(other, standing) < 0 for other in running))
        for standing in standings
    ]


def _sign(one: Standing, other: Standing) -> int:
    """Return -1 when one is faster, 1 when the other is, 0 when they are equal."""
    assert one.makespan_s is not None
    assert other.makespan_s is not None
    if abs(one.makespan_s - other.makespan_s) <= _SAME * max(one.makespan_s, other.makespan_s):
        return 0
    return -1 if one.makespan_s < other.makespan_s else 1


def draw(ladder: Ladder, path: Path | None = None) -> Figure:
    """Draw each policy's rank from rung to rung, its makespan over the rung's best beside; write it to a file."""
    from matplotlib.figure import Figure

    policies = list(ladder.on(EFFECTS[0]))
    figure = Figure(figsize=(11, 1.2 + 0.55 * len(policies)), layout="constrained")
    axes = figure.subplots()
    best = {
        effects: min((s.makespan_s for s in ladder.on(effects).values() if s.makespan_s is not None), default=0.0)
        for effects in EFFECTS
    }
    rows = {effects: _rows(ladder, effects) for effects in EFFECTS}
    for order, policy in enumerate(policies):
        colour = _COLOURS[order % len(_COLOURS)]
        places = [(x, rows[e][policy]) for x, e in enumerate(EFFECTS) if policy in rows[e]]
        for (x, y), (next_x, next_y) in pairwise(places):
            axes.plot((x + 0.16, next_x - 0.16), (y, next_y), color=colour, linewidth=2.2, solid_capstyle="round")
        for x, y in places:
            makespan_s = ladder.on(EFFECTS[x])[policy].makespan_s or 0.0
            times = f"{makespan_s / best[EFFECTS[x]]:.2f}x" if best[EFFECTS[x]] else "="
            axes.text(x, y, times, ha="center", va="center", color=colour, fontsize=9)
        if places:
            axes.text(places[0][0] - 0.2, places[0][1], policy, ha="right", va="center", color=colour, fontsize=9)
            axes.text(places[-1][0] + 0.2, places[-1][1], policy, ha="left", va="center", color=colour, fontsize=9)
    axes.set_xlim(-1.0, len(EFFECTS))
    axes.set_ylim(len(policies) - 0.4, -0.6)
    axes.set_xticks(range(len(EFFECTS)), EFFECTS)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    axes.set_title(
        "Simulated: policies by makespan on each rung of effects; makespan over the rung's best", fontsize=10
    )
    if path is not None:
        save(figure, path)
    return figure


def _rows(ladder: Ladder, effects: Effects) -> dict[str, int]:
    """Return where each policy stands on a rung; of equal ones, those that stood higher below stay higher."""
    running = [s for s in ladder.on(effects).values() if s.rank is not None]
    index = EFFECTS.index(effects)
    below = _rows(ladder, EFFECTS[index - 1]) if index else {}
    ordered = sorted(running, key=lambda s: (s.rank, below.get(s.policy, 0)))
    return {standing.policy: row for row, standing in enumerate(ordered)}
