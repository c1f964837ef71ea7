"""How far policies are from the best plan there is, on small instances that CP-SAT solves, with and without transfers.

Every instance is drawn from a seed by `instance`; nothing of it is kept but what the solver found: the order of units
and the bound that it proved, in results/optimum/solved.json, by a digest of the instance. The plan is simulated anew
each time, so that a makespan in the table is always one of the present simulator; --fresh solves all of them again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from experiments.figures import About
from hydrasim import Cluster, Device, Link, Plan, Shard, ShardUnit, TrainingJob, Workload
from hydrasim.compare import compare
from hydrasim.disk import make_folder, write_text
from hydrasim.optimum import find_optimum, lower_bounds
from hydrasim.optimum.solution import PROVEN_FRACTION
from hydrasim.plan import Step
from hydrasim.planning import make_plan
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.profile import StatedCosts

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hydrasim.mechanism import Effects
    from hydrasim.timeline import Timeline

ABOUT = About(
    title="Policies against the best plan, on 104 small instances",
    label="simulated",
    keys=("instance", "policy"),
    note="Where the optimum is not proven, the ratio is to the bound; status, bound and gap are in every row.",
)
SOLVED = Path(__file__).resolve().parents[2] / "results/optimum/solved.json"
NUM_WORLDS, NUM_SMOKE = 52, 4  # each with and without transfers
TIME_LIMIT_S = 6.0  # for an instance, in the solver's deterministic time
POLICY = "sharded-lrtf"  # of which the worst instance is shown

_MAX_UNITS = {False: 40, True: 14}  # of an instance, by transfers
_BLOCK_BYTES = 64
_VERSION = 1  # of the model that proved the bounds


@dataclass(frozen=True)
class Instance:
    """A small world. kind: whether its devices are equally fast."""

    name: str
    kind: str
    effects: Effects
    workload: Workload
    cluster: Cluster

    @property
    def transfers(self) -> bool:
        return self.effects != "theory"

    @property
    def digest(self) -> str:
        """A hash of all that the solver's answer depends on."""
        fields = [_VERSION, TIME_LIMIT_S, self.effects, asdict(self.workload), asdict(self.cluster)]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def instance(seed: int, *, transfers: bool) -> Instance:
    """Draw 3 to 8 jobs of 1 to 4 shards on 2 to 4 devices; every other one has devices of two speeds.

    All times are multiples of a quarter of a second. With transfers all shards of an instance weigh the same, a load or
    a store takes 1 to 4 s, and a device holds 1, 2 or 3 shards; what units hand on weighs nothing.
    """
    rng, kind = Random(f"optimum {seed} {transfers}"), "heterogeneous" if seed % 2 else "homogeneous"
    num_jobs, num_devices, left = rng.randint(3, 8), rng.randint(2, 4), _MAX_UNITS[transfers]
    parameter_bytes = _BLOCK_BYTES * rng.randint(1, 4) if transfers else 0
    jobs = []
    for index in range(num_jobs):
        shards, minibatches = rng.randint(1, 4), rng.randint(1, 3)
        while (2 * shards - 1) * minibatches > left - (num_jobs - index - 1):  # a unit at least for each that follows
            shards, minibatches = (shards, minibatches - 1) if minibatches > 1 else (shards - 1, 1)
        left -= (2 * shards - 1) * minibatches
        seconds = [(rng.randint(1, 8) / 2, rng.randint(1, 8) / 2) for _ in range(shards)]
        cut = tuple(Shard(forward, backward, parameter_bytes=parameter_bytes) for forward, backward in seconds)
        jobs.append(TrainingJob(f"j{index}", cut, minibatches))
    link = Link(float(_BLOCK_BYTES))
    memory_bytes = parameter_bytes * rng.randint(1, 3) if transfers else 1
    speeds = [1.0 if kind == "homogeneous" else rng.choice([1.0, 2.0]) for _ in range(num_devices)]
    devices = tuple(Device(memory_bytes, speed, h2d=link, d2h=link) for speed in speeds)
    name = f"{'transfers' if transfers else 'theory'}-{seed:02}"
    return Instance(name, kind, "transfers" if transfers else "theory", Workload(tuple(jobs)), Cluster(devices))


def run(
    smoke: bool, fresh: bool = False, solved: Path = SOLVED, on_instance: Callable[[], None] | None = None
) -> pd.DataFrame:
    """Return a row for each policy on each instance.

    optimum_s: the best plan known, whether `status` says that it is proven or not.
    ratio: of the policy's makespan to `against`: the optimum where it is proven, else the bound, which is no more than
    that. smoke: a few instances. fresh: solve all of them again. solved: the file of the solver's answers.
    """
    import pandas as pd

    known = json.loads(solved.read_text()) if solved.exists() else {}
    rows: list[dict[str, Any]] = []
    for item in _instances(NUM_SMOKE if smoke else NUM_WORLDS):
        if fresh or item.digest not in known:
            known[item.digest] = _solve(item)
            make_folder(solved.parent)
            write_text(solved, json.dumps(dict(sorted(known.items())), indent=1) + "\n")
        rows += _rows(item, known[item.digest])
        if on_instance is not None:
            on_instance()
    return pd.DataFrame(rows)


def worst(frame: pd.DataFrame, policy: str = POLICY) -> pd.Series[Any]:
    """Return the row where a policy loses most against the best plan known: it loses at least so much."""
    rows = frame[frame["policy"] == policy]
    return rows.loc[(rows["makespan_s"] / rows["optimum_s"]).idxmax()]


def draw(frame: pd.DataFrame, solved: Path = SOLVED) -> Figure:
    """Draw the ratios of every policy, and under them the instance where Sharded-LRTF loses most beside its optimum."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from hydrasim import gantt

    row = worst(frame)
    item = _named(str(row["instance"]))
    found = json.loads(solved.read_text())[item.digest]
    best, lost = _followed(item, found), make_plan(item.workload, item.cluster, POLICY, effects=item.effects)[1]
    times = float(row["makespan_s"]) / float(row["optimum_s"])
    picture = gantt.draw([(f"best plan of {item.name}", best), (f"{POLICY}, {times:.2f} times as long", lost)])
    canvas = FigureCanvasAgg(picture)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    height = 12 * pixels.shape[0] / pixels.shape[1]
    figure = Figure(figsize=(12, 5.2 + height), facecolor="white", layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[5.2, height])
    left, right = top.subplots(1, 2, sharey=True)
    order = list(frame.groupby("policy")["ratio"].median().sort_values().index)
    for axes, transfers in ((left, False), (right, True)):
        _strips(axes, frame[frame["transfers"] == transfers], order, with_text="with" if transfers else "without")
    axes = bottom.subplots()
    axes.imshow(pixels)
    axes.axis("off")
    return figure


def _strips(axes: Axes, frame: pd.DataFrame, order: list[str], with_text: str) -> None:
    """Draw a dot for each instance, full where the optimum is proven, and a bar at each policy's median."""
    for place, policy in enumerate(order):
        rows = frame[frame["policy"] == policy].sort_values("instance")
        shaken = [place + (index % 7 - 3) / 12 for index in range(len(rows))]
        for proven in (True, False):
            mask = (rows["status"] == "OPTIMAL") == proven
            ratios, places = rows["ratio"][mask], [y for y, there in zip(shaken, mask, strict=True) if there]
            axes.scatter(
                ratios, places, s=14, linewidths=0.7, alpha=0.8, edgecolors="#0072B2",
                facecolors="#0072B2" if proven else "white",
            )  # fmt: skip
        axes.plot([rows["ratio"].median()] * 2, [place - 0.35, place + 0.35], color="#D55E00", linewidth=2)
    instances = frame.drop_duplicates("instance")
    num_proven = int((instances["status"] == "OPTIMAL").sum())
    axes.set_title(f"{with_text} transfers: {num_proven} of {len(instances)} optima proven", fontsize=10, loc="left")
    axes.set_yticks(range(len(order)), order)
    axes.set_xscale("log")
    axes.set_xticks([1, 1.5, 2, 3, 4], ["1", "1.5", "2", "3", "4"])
    axes.minorticks_off()
    axes.set_xlabel("makespan / optimum (hollow: / bound); bar: median; simulated", fontsize=9)
    axes.invert_yaxis()
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _instances(num_worlds: int) -> list[Instance]:
    return [instance(seed, transfers=transfers) for transfers in (False, True) for seed in range(num_worlds)]


def _named(name: str) -> Instance:
    effects, _, seed = name.rpartition("-")
    return instance(int(seed), transfers=effects == "transfers")


def _solve(item: Instance) -> dict[str, Any]:
    """Return what the solver says of an instance, as JSON values."""
    found = find_optimum(item.workload, item.cluster, effects=item.effects, time_limit_s=TIME_LIMIT_S)
    return {
        "instance": item.name,
        "bound_s": found.bound_s,
        "solver": "bound" if found.model.status == "NOT NEEDED" else found.solver,
        "model_status": found.model.status,
        "order": [[str(step.unit) for step in steps] for steps in found.plan.devices],
    }


def _followed(item: Instance, found: dict[str, Any]) -> Timeline:
    """Simulate the plan that the solver found."""
    devices = tuple(tuple(Step(ShardUnit.parse(unit)) for unit in units) for units in found["order"])
    plan = Plan(devices, item.workload.digest, item.cluster.digest)
    return make_plan(item.workload, item.cluster, FollowPlan(plan), effects=item.effects)[1]


def _rows(item: Instance, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return an instance's rows; a bound of the present bounds counts if it is better than the solver's."""
    bounds = lower_bounds(item.workload, item.cluster, StatedCosts(item.workload, item.cluster), item.effects)
    rows = [
        row for row in compare(item.workload, item.cluster, effects=item.effects).rows if row.makespan_s is not None
    ]
    optimum_s = min([_followed(item, found).makespan_s, *(row.makespan_s or 0.0 for row in rows)])
    bound_s = min(optimum_s, max(found["bound_s"], *bounds.values()))
    gap_fraction = 1 - bound_s / optimum_s
    proven = gap_fraction <= PROVEN_FRACTION
    shared = {
        "instance": item.name,
        "kind": item.kind,
        "transfers": item.transfers,
        "num_jobs": len(item.workload.jobs),
        "num_devices": len(item.cluster.devices),
        "num_units": item.workload.num_units,
        "solver": found["solver"],
        "status": "OPTIMAL" if proven else "FEASIBLE",
        "optimum_s": optimum_s,
        "bound_s": bound_s,
        "gap_fraction": gap_fraction,
    }
    return [
        shared
        | {
            "policy": row.policy,
            "makespan_s": row.makespan_s,
            "against": "optimum" if proven else "bound",
            "ratio": (row.makespan_s or 0.0) / bound_s,
            "label": "simulated",
        }
        for row in rows
    ]
