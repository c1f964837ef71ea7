"""How much of a speedup is precision: Hydra and its rivals in fp32 and under autocast, all four ways."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from experiments.figures import About
from experiments.paper.calibration import COSTS, Costs, compute_fraction, efficiency
from experiments.paper.counting import Precision
from experiments.paper.drawing import COLOURS, NAMES, new_figure
from experiments.paper.runs import SMOKE_MINIBATCHES, STEADY_MINIBATCHES, Outcome, Run, run_all
from experiments.paper.table import cell, value_range, where
from experiments.paper.worlds import PAPER_2021, bert_grid, rival_world, sharp_world
from hydrasim.machines import MACHINES
from hydrasim.mechanism import PAPER
from hydrasim.systems import System, make_system

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ABOUT = About(
    title="Precision: speedup of Hydra over rivals, each in fp32 and under fp16 autocast",
    label="simulated",
    source="Fig. 8 (2021, 2022), in whose code Hydra runs autocast; its baselines' precision is unknown",
    note="On GTX 1080 Ti, which compute fp16 at the rate of fp32, precision changes little. On RTX 2080 Ti it changes "
    "more than the system does: as released, with Hydra alone under autocast, {released}x over model parallelism would "
    "be due at calibrated costs, of which {equal}x are Hydra's; the printed 7.46x, the same for both cards, goes with "
    "equal precision. Calibrated costs take the share of the peak that was fitted in fp32 ({fraction}) for fp16 too.",
    keys=("machine", "rival", "hydra_precision", "rival_precision", "costs"),
    rivals=("gpipe-equal-memory",),
)

MECHANISMS = {"8x1080ti": PAPER_2021, "8x2080ti": PAPER}  # of the version that each machine is of
PRECISIONS: tuple[Precision, ...] = ("fp32", "autocast")
_RIVALS: dict[str, System] = {
    "model parallelism": make_system("deepspeed-mp", {"recompute": "true"}),
    "GPipe": make_system("gpipe", {"microbatches": "8", "recompute": "always"}),
}

# Printed speedups over model parallelism: Hydra's, and Hydra's over GPipe's; that of GPipe differs between versions.
PAPER_SPEEDUP = {
    ("8x1080ti", "model parallelism"): 7.46,
    ("8x1080ti", "GPipe"): 7.46 / 4.86,
    ("8x2080ti", "model parallelism"): 7.46,
    ("8x2080ti", "GPipe"): 7.46 / 3.89,
}
_BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # of numbers, so that no line goes through them


class _Key(NamedTuple):
    machine: str
    costs: Costs
    who: str
    precision: Precision


def run(smoke: bool = False, *, num_minibatches: int = STEADY_MINIBATCHES) -> pd.DataFrame:
    """Return a row a machine, rival, costs and pair of precisions; ratio: the rival's makespan over Hydra's."""
    costs_of = COSTS[:1] if smoke else COSTS
    runs: dict[_Key, Run] = {}
    for machine, costs, precision in product(MECHANISMS, costs_of, PRECISIONS):
        made, chosen = MACHINES[machine], efficiency(MACHINES[machine], costs)
        world = sharp_world(
            bert_grid(), made, precision=precision, mechanism=MECHANISMS[machine], efficiency=chosen
        )  # fmt: skip
        runs[_Key(machine, costs, "Hydra", precision)] = Run(world)
        rivals = rival_world(bert_grid(), made, precision=precision, efficiency=chosen)
        for rival, system in _RIVALS.items():
            runs[_Key(machine, costs, rival, precision)] = Run(rivals, system=system)
    length = SMOKE_MINIBATCHES if smoke else num_minibatches
    outcomes = dict(zip(runs, run_all(list(runs.values()), length), strict=True))
    pairs = product(MECHANISMS, _RIVALS, costs_of, PRECISIONS, PRECISIONS)
    return pd.DataFrame([_row(outcomes, *pair) for pair in pairs])


def _row(
    outcomes: dict[_Key, Outcome], machine: str, rival: str, costs: Costs, hydra_precision: Precision,
    rival_precision: Precision,
) -> dict[str, object]:  # fmt: skip
    hydra = outcomes[_Key(machine, costs, "Hydra", hydra_precision)]
    other = outcomes[_Key(machine, costs, rival, rival_precision)]
    paper, ratio = PAPER_SPEEDUP[machine, rival], other.makespan_s / hydra.makespan_s
    return {
        "machine": machine,
        "rival": rival,
        "hydra_precision": hydra_precision,
        "rival_precision": rival_precision,
        "costs": costs,
        "label": ABOUT.label,
        "compute_fraction": compute_fraction(
            efficiency(MACHINES[machine], costs), "fp32" if hydra_precision == "fp32" else "fp16"
        ),
        "hydra_hours": hydra.makespan_s / 3600,
        "rival_hours": other.makespan_s / 3600,
        "ratio": ratio,
        "paper_ratio": paper,
        "error_fraction": ratio / paper - 1,
        "utilization": hydra.utilization,
        "rival_utilization": other.utilization,
        "error": hydra.error or other.error,
    }


def facts(frame: pd.DataFrame) -> dict[str, str]:
    """Return what the note says of the table."""
    fitted = where(frame, machine="8x2080ti", rival="model parallelism", costs="calibrated", rival_precision="fp32")
    return {
        "released": f"{cell(fitted, hydra_precision='autocast'):.0f}",
        "equal": f"{cell(fitted, hydra_precision='fp32'):.1f}",
        "fraction": value_range(fitted["compute_fraction"]),
    }


def draw(frame: pd.DataFrame) -> Figure:
    """Draw speedups by pair of precisions, a row a rival, a column a machine, with the paper's as a line."""
    machines, rivals = list(dict.fromkeys(frame["machine"])), list(dict.fromkeys(frame["rival"]))
    figure = new_figure(len(rivals), len(machines), width=5.5 * len(machines), height=3.4)
    for axes, (rival, machine) in zip(figure.axes, product(rivals, machines), strict=True):
        rows = frame[frame["rival"] == rival]
        _bars(axes, rows[rows["machine"] == machine])
        axes.set_ylim(0, 1.12 * rows["ratio"].max())
        axes.set_title(f"over {rival}, {machine}", fontsize=10, loc="left")
        axes.set_ylabel("speedup")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    return figure


def _bars(axes: Axes, part: pd.DataFrame) -> None:
    series = list(dict.fromkeys(part["costs"]))
    for order, costs in enumerate(series):
        rows = part[part["costs"] == costs]
        places = [place + (order - (len(series) - 1) / 2) * 0.4 for place in range(len(rows))]
        bars = axes.bar(places, rows["ratio"], 0.4, color=COLOURS[costs], label=NAMES[costs])
        axes.bar_label(bars, [f"{ratio:.2f}" for ratio in rows["ratio"]], fontsize=9, padding=1, bbox=_BEHIND)
    texts = [
        f"Hydra {row.hydra_precision},\nrival {row.rival_precision}{' *' if _as_released(row) else ''}"
        for row in part.drop_duplicates(["hydra_precision", "rival_precision"]).itertuples()
    ]
    axes.set_xticks(range(len(texts)), texts, fontsize=8)
    axes.axhline(part["paper_ratio"].iloc[0], color=COLOURS["paper"], label=NAMES["paper"], zorder=0)
    axes.set_xlabel("* as the released code has it", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _as_released(row: object) -> bool:
    return (row.hydra_precision, row.rival_precision) == ("autocast", "fp32")  # type: ignore[attr-defined]
