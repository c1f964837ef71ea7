"""Fig. 7: schedulers against what no plan can beat, in makespan and in the time they take to decide."""

from __future__ import annotations

import math
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from experiments.figures import About
from experiments.paper.drawing import new_figure
from experiments.paper.programs import COLD, SEED, TIME_LIMIT_S, WARM, WAYS, Setting, answers, solve
from experiments.paper.runs import SMOKE_MINIBATCHES, STEADY_MINIBATCHES
from experiments.paper.solved import Answer, solved_file
from experiments.report import percent
from hydrasim.optimum import lower_bounds
from hydrasim.policies import Policy, make_policy
from hydrasim.presets import Kind, Preset
from hydrasim.profile import StatedCosts
from hydrasim.simulator import simulate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hydrasim.view import View
    from hydrasim.workload import ShardUnit

ABOUT = About(
    title="Scheduler study: makespan over the lower bound, and time spent deciding",
    label="simulated",
    source="Fig. 7",
    note="The paper divides by its solver's unconverged answer, we by a bound that no plan beats, so its ratios below "
    "1 cannot return. With as many devices as models every policy that never idles ends with the longest model: the "
    "paper's 1.25 to 1.41 between Random and Sharded-LRTF there cannot be. The paper draws its heterogeneous models "
    "once and runs thrice, we draw them anew for each of {draws} runs: its deviations are of the scheduler's chance "
    "alone, ratio_std is of the models' too. Of the paper's units {simulated} are simulated; their seconds of "
    "scheduling are scaled up to all of them. The rows of the MILP are labelled solver: its own makespan, where each "
    "model's units are put together into at most {pieces} pieces, not simulated. The limit of {limit_s:.0f} s is of "
    "HiGHS's own clock, at which it looks between steps only; with building the program it took up to {most_s:.0f} s. "
    "Started cold it finds {cold}; from longest-remaining-time first {warm}. A solver that is stopped is no optimum to "
    "divide by.",
    keys=("kind", "models", "devices", "policy"),
    measured_columns=("scheduling_s",),
)

SOLVED = solved_file("scheduler")
KINDS: tuple[Kind, ...] = ("homogeneous", "heterogeneous")
MODELS, DEVICES, SEEDS = (8, 64), (4, 8), (SEED, 1, 2)
POLICIES = ("random", "sharded-lrtf", "round-robin", "fifo", "shortest-remaining-first", "hydra-released")

# Share of the paper's units that are simulated, by models: there are eight times as many units with 64.
_UNITS_SCALE = {8: 0.4, 64: 0.05}

# Fig. 7, digitised: by policy, makespan over "Optimal" and seconds of scheduling.
_Quoted = dict[str, tuple[float, float]]
_PAPER: dict[tuple[Kind, int, int], _Quoted] = {
    ("homogeneous", 8, 4): {"random": (1.15, 0.022), "sharded-lrtf": (1.01, 0.077)},
    ("homogeneous", 8, 8): {"random": (1.06, 0.077), "sharded-lrtf": (0.85, 0.11)},
    ("homogeneous", 64, 4): {"random": (0.98, 0.65), "sharded-lrtf": (0.90, 0.86)},
    ("homogeneous", 64, 8): {"random": (0.95, 0.76), "sharded-lrtf": (0.82, 1.08)},
    ("heterogeneous", 8, 4): {"random": (1.15, 0.022), "sharded-lrtf": (1.01, 0.076)},
    ("heterogeneous", 8, 8): {"random": (1.20, 0.043), "sharded-lrtf": (0.85, 0.55)},
    ("heterogeneous", 64, 4): {"random": (0.95, 0.85), "sharded-lrtf": (0.90, 1.07)},
    ("heterogeneous", 64, 8): {"random": (1.04, 1.07), "sharded-lrtf": (0.82, 1.38)},
}
_LOWEST, _TALLEST = 0.78, 1.4  # ratios that are drawn in their place
_PAPER_SOLVER_S = 318.0  # 306 to 330 everywhere, although its limit is 100
_COLOURS = ("#E69F00", "#0072B2", "#56B4E9", "#009E73", "#CC79A7", "#6A4C93", "#D55E00", "#777777")


@dataclass(frozen=True)
class Timed(Policy):
    """Another policy, and the seconds that each choice takes it: of the processor, which other programs do not stop."""

    inner: Policy = field(default_factory=lambda: make_policy("sharded-lrtf"))
    seconds: list[float] = field(default_factory=list, compare=False)

    def choose(self, device: int, view: View) -> ShardUnit | None:
        started = time.thread_time()
        unit = self.inner.choose(device, view)
        self.seconds.append(time.thread_time() - started)
        return unit


def run(
    smoke: bool = False,
    *,
    num_minibatches: int = STEADY_MINIBATCHES,
    fresh: bool = False,
    solved: Path = SOLVED,
) -> pd.DataFrame:
    """Return a row a setting and policy: mean and standard deviation over three draws of the makespan's ratio.

    num_minibatches: with twice as many, units are half as long; 0 for the paper's. fresh: solve again what is in
    `solved`, for half an hour. scheduling_s: of all the paper's units; what is not simulated takes as long a unit.
    """
    settings = [Setting("heterogeneous", 8, 4)] if smoke else [Setting(*s) for s in product(KINDS, MODELS, DEVICES)]
    length = SMOKE_MINIBATCHES if smoke else num_minibatches
    factor = length / STEADY_MINIBATCHES if length else math.inf
    asked = [
        (setting, policy, seed, min(1.0, factor * _UNITS_SCALE[setting.models]))
        for setting, policy, seed in product(settings, POLICIES, SEEDS)
    ]
    with ProcessPoolExecutor(mp_context=get_context("forkserver")) as pool:
        found = list(pool.map(_simulated, *zip(*asked, strict=True)))
    simulated = pd.DataFrame(
        [(*setting, policy, *result) for (setting, policy, _, _), result in zip(asked, found, strict=True)],
        columns=["kind", "models", "devices", "policy", "ratio", "scheduling_s"],
    )
    rows = []
    for setting in settings:
        for policy in POLICIES:
            keys = {**setting._asdict(), "policy": policy}
            part = simulated[(simulated[list(keys)] == pd.Series(keys)).all(axis=1)]
            rows.append(keys | _row(setting, policy, part))
    if smoke:
        answered = {pair: solve(*pair, pieces=2, time_limit_s=1.0) for pair in product(settings, WAYS)}
    else:
        answered = answers(settings, solved, fresh=fresh)
    for (setting, way), answer in answered.items():
        rows.append(setting._asdict() | {"policy": way} | _solver_row(setting, answer))
    return pd.DataFrame(rows)


def facts(frame: pd.DataFrame) -> dict[str, str | float]:
    """Return what the note says of the table."""
    solver = frame[frame["policy"].isin(WAYS)]
    pieces = sorted({int(row.num_pieces // row.models) for row in solver.itertuples()}, reverse=True)
    shares = [f"{percent(share)} with {models} models" for models, share in _UNITS_SCALE.items()]
    return {
        "simulated": " and ".join(shares),
        "draws": str(len(SEEDS)),
        "pieces": " or ".join(map(str, pieces)),
        "limit_s": TIME_LIMIT_S,
        "most_s": float(solver["scheduling_s"].max()),
        "cold": _found(solver[solver["policy"] == COLD]),
        "warm": _found(solver[solver["policy"] == WARM]),
    }


def _found(rows: pd.DataFrame) -> str:
    """Say in how many worlds a solver has a plan, how long these are, and how many are proven."""
    plans = rows.dropna(subset=["ratio"])
    if plans.empty:
        return f"a plan in none of {len(rows)} worlds"
    proven = int((plans["status"] == "OPTIMAL").sum())
    return (
        f"a plan in {len(plans)} of {len(rows)} worlds, {plans['ratio'].min():.3f} to {plans['ratio'].max():.3f} times "
        f"the bound, {proven} of them proven"
    )


def _simulated(setting: Setting, policy: str, seed: int, units_scale: float) -> tuple[float, float]:
    """Return a policy's makespan over the bound, and the seconds it would take to choose all the paper's units."""
    preset, timed = setting.preset(seed, units_scale), Timed(make_policy(policy))
    timeline = simulate(preset.workload, preset.cluster, timed, effects=preset.effects, seed=seed)
    share = preset.workload.num_units / setting.preset(seed).workload.num_units
    return timeline.makespan_s / _bound_s(preset), sum(timed.seconds) / share


def _bound_s(preset: Preset) -> float:
    costs = StatedCosts(preset.workload, preset.cluster)
    return max(lower_bounds(preset.workload, preset.cluster, costs, preset.effects).values())


def _row(setting: Setting, policy: str, simulated: pd.DataFrame) -> dict[str, object]:
    ratio, papers = float(simulated["ratio"].mean()), _PAPER.get(setting, {})
    paper_ratio, paper_scheduling_s = papers.get(policy, (math.nan, math.nan))
    return {
        "costs": "stated",
        "label": ABOUT.label,
        "ratio": ratio,
        "ratio_std": float(simulated["ratio"].std(ddof=0)),
        "paper_ratio": paper_ratio,
        "error_fraction": ratio / paper_ratio - 1,
        "paper_scheduling_s": paper_scheduling_s,
        "scheduling_s": float(simulated["scheduling_s"].mean()),
    }


def _solver_row(setting: Setting, answer: Answer) -> dict[str, object]:
    """Return a row of what a solver said of one draw; the paper divides by its own solver, so it has no ratio."""
    bound_s = _bound_s(setting.preset(SEED))
    return {
        "costs": "stated",
        "label": "solver",
        "ratio": (answer["makespan_s"] or math.nan) / bound_s,
        "paper_ratio": math.nan,
        "error_fraction": math.nan,
        "paper_scheduling_s": _PAPER_SOLVER_S,
        "scheduling_s": answer["seconds"],
        "status": answer["status"],
        "proven_fraction": answer["bound_s"] / bound_s,
        "num_pieces": answer["num_pieces"],
        "num_constraints": answer["num_constraints"],
        "error": "" if answer["makespan_s"] else "the solver found no plan in its time",
    }


def draw(frame: pd.DataFrame) -> Figure:
    """Draw ratios with their spread above scheduling times, a panel a kind of models."""
    kinds = list(dict.fromkeys(frame["kind"]))
    figure = new_figure(2, len(kinds), width=6.5 * len(kinds), height=3.8)
    for column, kind in enumerate(kinds):
        part = frame[frame["kind"] == kind]
        top, bottom = figure.axes[column], figure.axes[len(kinds) + column]
        _points(top, part, "ratio")
        _points(bottom, part, "scheduling_s")
        top.axhline(1.0, color="black", linewidth=0.8, zorder=0)
        top.set_ylim(_LOWEST, _TALLEST)
        top.set_ylabel("makespan / lower bound (simulated; MILP:\nsolver); paper: / its solver's answer", fontsize=9)
        top.set_title(f"{kind} models", fontsize=11, loc="left", pad=18)
        bottom.set_yscale("log")
        bottom.set_ylabel("seconds of scheduling (measured)", fontsize=9)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=5, frameon=False, fontsize=10)
    return figure


def _points(axes: Axes, frame: pd.DataFrame, value: str) -> None:
    """Draw a point a policy and setting, the paper's as a cross; what is too tall or was not found, in words."""
    groups = frame.drop_duplicates(["models", "devices"])[["models", "devices"]].to_numpy().tolist()
    policies = list(dict.fromkeys(frame["policy"]))
    width = 0.85 / len(policies)
    for order, (policy, colour) in enumerate(zip(policies, _COLOURS, strict=True)):
        rows = frame[frame["policy"] == policy]
        places = [place + (order - (len(policies) - 1) / 2) * width for place in range(len(groups))]
        spread = rows["ratio_std"] if value == "ratio" else None
        axes.errorbar(places, rows[value], spread, fmt="o", color=colour, markersize=7, elinewidth=1.5, label=policy)
        paper = "paper (quoted)" if not order else None
        axes.plot(places, rows[f"paper_{value}"], "x", color="black", markersize=7, markeredgewidth=1.5, label=paper)
        for place, ratio in zip(places, rows["ratio"] if value == "ratio" else [], strict=False):
            if math.isnan(ratio):
                axes.text(place, _LOWEST, "no plan found", rotation=90, ha="center", va="bottom", fontsize=8)
            elif ratio > _TALLEST:
                axes.text(place, _TALLEST, f"{ratio:.2f}\n\u2191", ha="center", va="center", fontsize=9, color=colour)
    axes.set_xticks(
        range(len(groups)), [f"{models} models,\n{devices} devices" for models, devices in groups], fontsize=9
    )
    for edge in range(1, len(groups)):
        axes.axvline(edge - 0.5, color="#DDDDDD", linewidth=0.8, zorder=0)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.spines[["top", "right"]].set_visible(False)
