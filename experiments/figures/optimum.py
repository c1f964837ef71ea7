"""How far policies are from the best plan there is, on small instances that CP-SAT solves, with and without transfers.

The solver's answers are kept in results/optimum/solved.json; --fresh solves all instances again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.figures import About
from experiments.paper.instances import NUM_WORLDS, Instance, followed, instances, named, solve
from experiments.paper.solved import Answer, Solved, solved_file
from hydrasim.compare import compare
from hydrasim.optimum import lower_bounds
from hydrasim.optimum.solution import PROVEN_FRACTION, sound_bound_s
from hydrasim.planning import make_plan
from hydrasim.profile import StatedCosts

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


ABOUT = About(
    title="Policies against the best plan, on 104 small instances",
    label="simulated",
    keys=("instance", "policy"),
    note="{proven}. `ratio` is to the optimum where it is proven, else to the bound, so it may be too large. "
    "`ratio_to_plan` is to the best plan known: a policy loses at least that much. Status, bound and gap are in every "
    "row.",
)
SOLVED = solved_file("optimum")
NUM_SMOKE = 4  # worlds, each with and without transfers
POLICY = "sharded-lrtf"  # of which the worst instance is shown
_STRIPS_INCHES = 5.6  # above that instance's timelines


def run(smoke: bool = False, fresh: bool = False, solved: Path = SOLVED) -> pd.DataFrame:
    """Return a row for each policy on each instance.

    optimum_s: the best plan known, whether `status` says that it is proven or not.
    ratio: of the policy's makespan to `against`: the optimum where it is proven, else the bound, which is no more than
    that. ratio_to_plan: to the best plan known, which is no less. smoke: a few instances. fresh: solve all of them
    again. solved: the file of the solver's answers.
    """
    import pandas as pd

    known = Solved(solved)
    rows: list[dict[str, Any]] = []
    for item in instances(NUM_SMOKE if smoke else NUM_WORLDS):
        if fresh or item.digest not in known:
            known.keep(item.digest, solve(item))
        rows += _rows(item, known[item.digest])
    return pd.DataFrame(rows)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each policy, with and without transfers: how far it is from the best plans known.

    num_instances, median and worst: of all instances, over the best plan known, so that a policy loses at least that
    much. num_proven, proven_median and proven_worst: of those whose optimum is proven, over that.
    """
    import pandas as pd

    rows = []
    for (policy, transfers), part in frame.groupby(["policy", "transfers"]):
        ratios, proven = part["ratio_to_plan"], part["status"] == "OPTIMAL"
        rows.append(
            {
                "policy": policy,
                "transfers": transfers,
                "num_instances": len(part),
                "median": ratios.median(),
                "worst": ratios.max(),
                "num_proven": int(proven.sum()),
                "proven_median": ratios[proven].median(),
                "proven_worst": ratios[proven].max(),
            }
        )
    return pd.DataFrame(rows)


def facts(frame: pd.DataFrame) -> dict[str, str]:
    """Return what the note says of the table."""
    counts = summary(frame).drop_duplicates("transfers").sort_values("transfers")
    parts = [
        f"{row.num_proven} of {row.num_instances} optima {'with' if row.transfers else 'without'} transfers"
        for row in counts.itertuples()
    ]
    return {"proven": " and ".join(parts) + " are proven"}


def worst(frame: pd.DataFrame, policy: str = POLICY) -> pd.Series[Any]:
    """Return the row where a policy loses most against the best plan known: it loses at least so much."""
    rows = frame[frame["policy"] == policy]
    return rows.loc[rows["ratio_to_plan"].idxmax()]


def draw(frame: pd.DataFrame, solved: Path = SOLVED) -> Figure:
    """Draw the ratios of every policy, and under them the instance where Sharded-LRTF loses most beside its optimum."""
    from hydrasim import gantt

    row = worst(frame)
    item = named(str(row["instance"]))
    best, lost = (
        followed(item, Solved(solved).answer(item.digest, item.name)),
        make_plan(item.workload, item.cluster, POLICY, effects=item.effects)[1],
    )
    times = float(row["ratio_to_plan"])
    named_plans = [(f"best plan of {item.name}", best), (f"{POLICY}, {times:.2f} times as long", lost)]
    figure = gantt.draw(named_plans, room_inches=_STRIPS_INCHES)
    order = list(frame.groupby("policy")["ratio"].median().sort_values().index)
    bottom, top = (1 - inches / figure.get_figheight() for inches in (_STRIPS_INCHES - 0.5, 0.35))
    for left, transfers in ((0.16, False), (0.59, True)):
        axes = figure.add_axes((left, bottom, 0.39, top - bottom))
        _strips(axes, frame[frame["transfers"] == transfers], order, with_text="with" if transfers else "without")
        if transfers:
            axes.set_yticklabels([])
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
    axes.set_xlabel("makespan / optimum (hollow: / bound); bar: median; simulated", fontsize=10)
    axes.invert_yaxis()
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _rows(item: Instance, answer: Answer) -> list[dict[str, Any]]:
    """Return an instance's rows; a bound of the present bounds counts if it is better than the solver's."""
    bounds = lower_bounds(item.workload, item.cluster, StatedCosts(item.workload, item.cluster), item.effects)
    rows = [
        row for row in compare(item.workload, item.cluster, effects=item.effects).rows if row.makespan_s is not None
    ]
    optimum_s = min([followed(item, answer).makespan_s, *(row.makespan_s or 0.0 for row in rows)])
    bound_s = sound_bound_s(bounds | {"solver": answer["bound_s"]}, optimum_s)
    gap_fraction = 1 - bound_s / optimum_s
    proven = gap_fraction <= PROVEN_FRACTION
    shared = {
        "instance": item.name,
        "kind": item.kind,
        "transfers": item.transfers,
        "num_jobs": len(item.workload.jobs),
        "num_devices": len(item.cluster.devices),
        "num_units": item.workload.num_units,
        "solver": answer["solver"],
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
            "ratio_to_plan": (row.makespan_s or 0.0) / optimum_s,
            "label": "simulated",
        }
        for row in rows
    ]
