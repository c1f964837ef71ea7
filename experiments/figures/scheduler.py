"""Fig. 7: schedulers against what no plan can beat, in makespan and in the time they take to decide."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from experiments.figures import About
from experiments.paper.drawing import new_figure
from experiments.paper.runs import SMOKE_MINIBATCHES, STEADY_MINIBATCHES
from hydrasim.disk import make_folder, write_text
from hydrasim.optimum import lower_bounds, milp
from hydrasim.optimum.problem import problem_of
from hydrasim.policies import Policy, make_policy
from hydrasim.presets import Kind, Preset, paper_fig7
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
    "paper's 1.25 to 1.41 between Random and Sharded-LRTF there cannot be. On HiGHS the paper's program finds no plan "
    "in 100 s for 8 heterogeneous models on 4 devices when it starts cold, and from Sharded-LRTF's order no better "
    "one: a solver that is stopped is no optimum to divide by.",
    keys=("kind", "models", "devices", "policy"),
    measured_columns=("scheduling_s",),
)

SOLVED = Path("results/scheduler/solved.json")
KINDS: tuple[Kind, ...] = ("homogeneous", "heterogeneous")
MODELS, DEVICES, SEEDS = (8, 64), (4, 8), (0, 1, 2)
POLICIES = ("random", "sharded-lrtf", "round-robin", "fifo", "shortest-remaining-first", "hydra-released")
WAYS = WARM, COLD = "MILP from LRTF", "MILP, cold"
TIME_LIMIT_S = 100.0  # as the paper's

# Share of the paper's units that are simulated, by models: there are eight times as many units with 64.
_UNITS_SCALE = {8: 0.4, 64: 0.05}

# Fig. 7 of 2021, digitised: by policy, makespan over "Optimal" and seconds of scheduling.
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
_PAPER_SOLVER_S = 318.0  # 306 to 330 everywhere, although its limit is 100
_COLOURS = ("#E69F00", "#0072B2", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#999999")

Answer = dict[str, Any]  # of a solver, as JSON values


class Setting(NamedTuple):
    """A world of the figure."""

    kind: Kind
    models: int
    devices: int

    def preset(self, seed: int, units_scale: float = 1.0) -> Preset:
        """Return its jobs and devices."""
        return paper_fig7(self.models, self.devices, self.kind, seed, units_scale)


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
    smoke: bool = False, *, num_minibatches: int = STEADY_MINIBATCHES, fresh: bool = False, solved: Path = SOLVED
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
    answers = {} if smoke else _answers(settings, solved, fresh=fresh)
    for setting, way in product(settings, WAYS):
        answer = _solve(setting, way, pieces=2, time_limit_s=1.0) if smoke else answers[_key(setting, way)]
        rows.append(setting._asdict() | {"policy": way} | _solver_row(setting, answer))
    return pd.DataFrame(rows)


def largest_pieces(setting: Setting) -> int:
    """Return into how many pieces each model's units are put together, so that the program is not refused."""
    pairs = math.comb(setting.models, 2)
    return max(
        pieces
        for pieces in range(1, milp.PIECES_PER_JOB + 1)
        if 2 * setting.models * pieces + 2 * setting.devices * pairs * pieces**2 <= milp.MAX_CONSTRAINTS
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
    """Return a row of what a solver said of the first draw."""
    bound_s = _bound_s(setting.preset(SEEDS[0]))
    ratio = (answer["makespan_s"] or math.nan) / bound_s
    return {
        "costs": "stated",
        "label": ABOUT.label,
        "ratio": ratio,
        "paper_ratio": 1.0,
        "error_fraction": ratio - 1,
        "paper_scheduling_s": _PAPER_SOLVER_S,
        "scheduling_s": answer["seconds"],
        "status": answer["status"],
        "proven_fraction": answer["bound_s"] / bound_s,
        "num_pieces": answer["num_pieces"],
        "num_constraints": answer["num_constraints"],
        "error": "" if answer["makespan_s"] else "the solver found no plan in its time",
    }


def _answers(settings: Sequence[Setting], solved: Path, *, fresh: bool) -> dict[str, Answer]:
    """Return the solver's answers by key; what the file lacks is solved and kept there."""
    known: dict[str, Answer] = json.loads(solved.read_text()) if solved.exists() and not fresh else {}
    missing = {_key(*pair): pair for pair in product(settings, WAYS) if _key(*pair) not in known}
    with ProcessPoolExecutor(mp_context=get_context("forkserver")) as pool:
        for key, answer in zip(missing, pool.map(_solve, *zip(*missing.values(), strict=True)), strict=True):
            known[key] = answer
            make_folder(solved.parent)
            write_text(solved, json.dumps(dict(sorted(known.items())), indent=1) + "\n")
    return known


def _key(setting: Setting, way: str) -> str:
    """Return a name for a program, with a hash of all that goes into it."""
    preset = setting.preset(SEEDS[0])
    fields = [TIME_LIMIT_S, largest_pieces(setting), asdict(preset.workload), asdict(preset.cluster)]
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
    return f"{setting.kind}, {setting.models} models, {setting.devices} devices, {way}, {digest}"


def _solve(setting: Setting, way: str, pieces: int | None = None, time_limit_s: float = TIME_LIMIT_S) -> Answer:
    """Return what the paper's program comes to within a limit, as JSON values."""
    preset = setting.preset(SEEDS[0])
    costs = StatedCosts(preset.workload, preset.cluster)
    problem = problem_of(preset.workload, preset.cluster, costs, pieces or largest_pieces(setting))
    milp.check_size(problem)
    started = time.perf_counter()
    model = milp.solve(problem, (), time_limit_s, warm_start=way == WARM).model
    return {
        "status": model.status,
        "makespan_s": model.makespan_s,
        "bound_s": model.bound_s or 0.0,
        "num_pieces": model.num_pieces,
        "num_constraints": model.num_constraints,
        "seconds": round(time.perf_counter() - started, 1),
    }


def draw(frame: pd.DataFrame) -> Figure:
    """Draw ratios with their spread above scheduling times, a panel a kind of models."""
    kinds = list(dict.fromkeys(frame["kind"]))
    figure = new_figure(2, len(kinds), width=7.0 * len(kinds), height=3.2)
    for column, kind in enumerate(kinds):
        part = frame[frame["kind"] == kind]
        top, bottom = figure.axes[column], figure.axes[len(kinds) + column]
        _bars(top, part, "ratio")
        _bars(bottom, part, "scheduling_s")
        top.axhline(1.0, color="black", linewidth=0.8)
        top.set_ylim(bottom=0.75)
        top.set_ylabel("makespan / lower bound (simulated);\npaper: / its solver's answer", fontsize=8)
        top.set_title(f"{kind} models", fontsize=9, loc="left")
        bottom.set_yscale("log")
        bottom.set_ylabel("seconds of scheduling (measured)", fontsize=8)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=8)
    return figure


def _bars(axes: Axes, frame: pd.DataFrame, value: str) -> None:
    """Draw a bar a policy and setting; the paper's as a dash, and a cross where a solver found nothing."""
    groups = frame.drop_duplicates(["models", "devices"])[["models", "devices"]].to_numpy().tolist()
    policies = list(dict.fromkeys(frame["policy"]))
    width = 0.85 / len(policies)
    for order, (policy, colour) in enumerate(zip(policies, _COLOURS, strict=True)):
        rows = frame[frame["policy"] == policy]
        places = [place + (order - (len(policies) - 1) / 2) * width for place in range(len(groups))]
        spread = rows["ratio_std"] if value == "ratio" else None
        axes.bar(places, rows[value], width, yerr=spread, color=colour, label=policy, error_kw={"linewidth": 0.8})
        paper = "paper (quoted)" if not order else None
        axes.plot(places, rows[f"paper_{value}"], "_", color="black", markersize=7, label=paper)
        for place, found in zip(places, rows[value], strict=True):
            if math.isnan(found):
                axes.text(place, 0.76, "no plan found", rotation=90, ha="center", va="bottom", fontsize=6)
    axes.set_xticks(
        range(len(groups)), [f"{models} models,\n{devices} devices" for models, devices in groups], fontsize=8
    )
    axes.spines[["top", "right"]].set_visible(False)
