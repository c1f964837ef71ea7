"""How much of a device's memory to set aside for prefetched shards: from nothing to a quarter."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from experiments.figures import About
from experiments.paper.drawing import new_figure
from experiments.paper.runs import SMOKE_MINIBATCHES, STEADY_MINIBATCHES, Outcome, Run, run_all, scaled
from experiments.paper.table import value_range
from experiments.paper.worlds import World, bert_grid, largest_shard_fraction, sharp_world
from hydrasim.machines import MACHINES
from hydrasim.mechanism import PAPER

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ABOUT = About(
    title="Loading zone: makespan by the share of device memory that is kept for prefetched shards",
    label="simulated",
    note="Not a figure of the paper, whose defaults are 15 % (2021) and 5 % (2022). A larger zone is not always better "
    "where the model is cut anew for each: the partitioner makes fewest shards, and of large ones a zone holds a part. "
    "Cut as for the largest zone (hollow), one of 5 % takes {recut} of the least, cut for itself {own}, none {none}.",
    keys=("machine", "cuts_for_zone_fraction", "zone_fraction", "costs"),
)

ZONES = (0.0, 0.025, 0.05, 0.10, 0.15, 0.20, 0.25)  # of device memory; 0 is no prefetch
PAPER_DEFAULTS = {"8x1080ti": 0.15, "8x2080ti": 0.05}  # by the machine of each version
_LENGTH = 2 * STEADY_MINIBATCHES  # without prefetch, fewer come out 0.7 % longer
_RECUT = 0.05  # also with the largest zone's cuts
_COLOURS = {"8x1080ti": "#0072B2", "8x2080ti": "#D55E00"}


def run(smoke: bool = False, *, num_minibatches: int = STEADY_MINIBATCHES) -> pd.DataFrame:
    """Return a row a machine, zone and cuts; ratio: of the makespan to the machine's least."""
    zones = ZONES[:: len(ZONES) - 1] if smoke else ZONES
    keys, worlds = [], []
    for machine in PAPER_DEFAULTS:
        for zone in zones:
            keys.append((machine, zone, zone))
            worlds.append(zone_world(machine, zone))
        keys.append((machine, zones[-1], _RECUT))
        worlds.append(zone_world(machine, _RECUT, cut_as=worlds[-1]))
    length = SMOKE_MINIBATCHES if smoke else scaled(_LENGTH, num_minibatches)
    outcomes = run_all([Run(world) for world in worlds], length)
    rows = [_row(*key, world, outcome) for key, world, outcome in zip(keys, worlds, outcomes, strict=True)]
    frame = pd.DataFrame(rows)
    frame["ratio"] = frame["hours"] / frame.groupby("machine")["hours"].transform("min")
    return frame


def zone_world(machine: str, zone_fraction: float, cut_as: World | None = None) -> World:
    """Return the BERT-Large* grid under the paper's mechanism with a zone; cut_as: with another world's cuts."""
    mechanism = replace(PAPER, prefetch=zone_fraction > 0, loading_zone_fraction=zone_fraction)
    cuts = cut_as.cuts.__getitem__ if cut_as else None
    return sharp_world(bert_grid(), MACHINES[machine], precision="fp32", mechanism=mechanism, cuts=cuts)


def _row(machine: str, cuts_for: float, zone: float, world: World, outcome: Outcome) -> dict[str, object]:
    shards = {job.model.batch_size: len(world.cuts[job.model]) + 1 for job in bert_grid()}
    return {
        "machine": machine,
        "cuts_for_zone_fraction": cuts_for,
        "zone_fraction": zone,
        "costs": "zero-constant",
        "label": ABOUT.label,
        **{f"num_shards_of_batch_{size}": count for size, count in shards.items()},
        "units_per_minibatch": sum(job.units_per_minibatch for job in world.workload.jobs),
        "largest_shard_fraction": largest_shard_fraction(world),
        "hours": outcome.makespan_s / 3600,
        "utilization": outcome.utilization,
        "error": outcome.error,
    }


def facts(frame: pd.DataFrame) -> dict[str, str]:
    """Return what the note says of the table."""
    own = frame["cuts_for_zone_fraction"] == frame["zone_fraction"]
    return {
        "recut": value_range(frame["ratio"][~own]),
        "own": value_range(frame["ratio"][own & (frame["zone_fraction"] == _RECUT)]),
        "none": value_range(frame["ratio"][frame["zone_fraction"] == 0]),
    }


def draw(frame: pd.DataFrame) -> Figure:
    """Draw makespans above the shards that they come with, over the zone, a line a machine."""
    figure = new_figure(2, height=3.0, width=8.0)
    top, bottom = figure.axes
    for machine, part in frame.groupby("machine"):
        colour, name = _COLOURS[str(machine)], str(machine)
        own = part["cuts_for_zone_fraction"] == part["zone_fraction"]
        percent = 100 * part["zone_fraction"]
        top.plot(percent[own], part["ratio"][own], "o-", color=colour, label=f"{name}, cut for the zone")
        top.plot(
            percent[~own], part["ratio"][~own], "D", color=colour, markerfacecolor="white",
            label=f"{name}, cut as for {part['zone_fraction'].max():.0%}",
        )  # fmt: skip
        default = 100 * PAPER_DEFAULTS[name]
        top.axvline(default, color=colour, linewidth=0.8, linestyle=":", label=f"the paper's default for {name}")
        bottom.plot(percent[own], 100 * part["largest_shard_fraction"][own], "o-", color=colour, label=name)
    ends = [0, 100 * frame["zone_fraction"].max()]
    bottom.plot(ends, ends, color="#999999", linewidth=0.8, label="as large as the zone")
    top.set_ylabel("makespan / least (simulated)")
    bottom.set_ylabel("largest shard, % of device memory")
    for axes in (top, bottom):
        axes.set_xlabel("loading zone, % of device memory")
        axes.legend(frameon=False, fontsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    bottom.set_ylim(bottom=0)
    return figure
