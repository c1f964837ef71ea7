"""The largest model that one device can train, by the way of training: what the code itself accepts and refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import pandas as pd

from experiments.figures import About
from experiments.paper.counting import ModelSpec, Precision, count_layers
from experiments.paper.drawing import new_figure
from experiments.paper.runs import beside
from experiments.paper.table import cell
from hydrasim.cluster import GIB, Cluster, Device
from hydrasim.errors import HydraError
from hydrasim.machines import MACHINES
from hydrasim.mechanism import DEFAULT_EFFECTS, PAPER
from hydrasim.profile import StatedCosts
from hydrasim.residency import Residency
from hydrasim.systems import System, make_system
from hydrasim.workload import TrainingJob, Workload

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ABOUT = About(
    title="Largest model on one device: blocks of GPT-2 XL, batch 1, context 1024, SGD; arithmetic, nothing is run",
    label="analytic",
    source="README of knagrecha/hydra (one K80): 850M parameters without spilling, 110B with it",
    note="What fits is what the simulator's own checks accept. The README's 850M without spilling is met under "
    "autocast, as Hydra's code trains ({autocast}M); in fp32 a block's activations weigh more, and {fp32}M fit. "
    "Spilling is limited by host memory alone: parameters once, and the boundaries of a mini-batch, a layer a shard. "
    "ZeRO-3 offload keeps each layer's input on the device, and gradients beside parameters on the host; DeepSpeed's "
    "offload of activations, and disks, are left out.",
    keys=("card", "way", "precision"),
)

# The README's machine: a K80 of 12 GB with 500 GB of host memory.
_K80 = Cluster((Device(12 * 10**9, kind="K80"),), host_memory_bytes=500 * 10**9)
_MACHINES = ("8x1080ti", "8x2080ti", "1x4090", "8xa100-40gb", "8xh100")
RESIDENT, SPILLING = "in device memory", "spilling (Hydra)"
PAPER_PARAMETERS = {("K80", RESIDENT): 850e6, ("K80", SPILLING): 110e9}
PRECISIONS: tuple[Precision, ...] = ("fp32", "autocast")

_BYTES_PER_PARAMETER = 4  # under autocast too
_SMALL = 3  # blocks that are counted; the middle one stands for all others
_MIDDLE = 2  # the second block's place among the layers: what one block hands to another passes through it
_COLOURS = ("#999999", "#56B4E9", "#E69F00", "#0072B2")

Accepts = Callable[[TrainingJob, Cluster], None]  # or raises what the code refuses with


def run(smoke: bool = False) -> pd.DataFrame:
    """Return a row a card, way of training and precision; ratio: to what fits in device memory at that precision."""
    chosen = {name: cluster for name, cluster in cards().items() if not smoke or cluster is _K80}
    keys = list(product(chosen, PRECISIONS, WAYS))
    asked = [(chosen[card], precision, way) for card, precision, way in keys]
    most = dict(zip(keys, beside(_largest, asked), strict=True))
    rows = []
    for (card, precision, way), found in most.items():
        cluster = chosen[card]
        paper = PAPER_PARAMETERS.get((card, way), math.nan)
        rows.append(
            {
                "card": card,
                "way": way,
                "precision": precision,
                "label": ABOUT.label,
                "device_memory_bytes": cluster.devices[0].memory_bytes,
                "host_memory_bytes": cluster.host_memory_bytes,
                "num_blocks": found.num_blocks,
                "num_parameters": found.num_parameters,
                "ratio": found.num_parameters / most[card, precision, RESIDENT].num_parameters,
                "paper_parameters": paper,
                "error_fraction": found.num_parameters / paper - 1,
                "refusal": found.refusal,
            }
        )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Largest:
    """The most blocks that are accepted, and why one more is not."""

    num_blocks: int
    num_parameters: int
    refusal: str


def cards() -> dict[str, Cluster]:
    """Return machines with one device and no disk, so that all there is has to fit host memory."""
    found = {_K80.devices[0].kind: _K80}
    for name in _MACHINES:
        cluster = replace(MACHINES[name].first(1), disk=None)
        found[cluster.devices[0].kind] = cluster
    return found


def stack(num_blocks: int, precision: Precision) -> TrainingJob:
    """Return one mini-batch of a stack of blocks, a layer a shard; only three blocks are counted."""
    job = count_layers(ModelSpec("gpt2", str(_SMALL), 1), precision).job
    first, middle, last = job.shards[:_MIDDLE], job.shards[_MIDDLE], job.shards[_MIDDLE + 1 :]
    return replace(job, shards=(*first, *[middle] * (num_blocks - _SMALL + 1), *last))


def _largest(cluster: Cluster, precision: Precision, way: str) -> Largest:
    return largest(WAYS[way], cluster, precision)


def largest(accepts: Accepts, cluster: Cluster, precision: Precision) -> Largest:
    """Bisect for the most blocks that a way of training accepts.

    Raises:
        HydraError: not even three are; why.
    """

    def refusal(num_blocks: int) -> str:
        try:
            accepts(stack(num_blocks, precision), cluster)
        except HydraError as reason:
            return str(reason).splitlines()[0]
        return ""

    low, high = _SMALL, 2 * _SMALL
    accepts(stack(low, precision), cluster)
    while not refusal(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if refusal(middle) else (middle, high)
    weight_bytes = sum(shard.parameter_bytes for shard in stack(low, precision).shards)
    return Largest(low, weight_bytes // _BYTES_PER_PARAMETER, refusal(high))


def _by_system(system: System) -> Accepts:
    """Have a rival system say whether it would train a job."""

    def accepts(job: TrainingJob, cluster: Cluster) -> None:
        workload = Workload((job,))
        system.training(workload, cluster, StatedCosts(workload, cluster), DEFAULT_EFFECTS)

    return accepts


def _by_spilling(job: TrainingJob, cluster: Cluster) -> None:
    """Have a run by the paper's mechanism say whether a job fits device and host."""
    Residency(Workload((job,)), cluster, PAPER, None)


WAYS: dict[str, Accepts] = {
    RESIDENT: _by_system(make_system("deepspeed-mp")),
    "recomputation": _by_system(make_system("deepspeed-mp", {"recompute": "true"})),
    "ZeRO-3 offload": _by_system(make_system("zero3-offload")),
    SPILLING: _by_spilling,
}


def facts(frame: pd.DataFrame) -> dict[str, str]:
    """Return what the note says of the table: millions of parameters that fit the README's card without spilling."""
    return {
        precision: f"{cell(frame, 'num_parameters', card='K80', way=RESIDENT, precision=precision) / 1e6:.0f}"
        for precision in PRECISIONS
    }


def draw(frame: pd.DataFrame) -> Figure:
    """Draw parameters by card, a bar a way of training and a panel a precision, with what is claimed of the K80."""
    precisions = list(dict.fromkeys(frame["precision"]))
    figure = new_figure(len(precisions), width=9.5, height=3.4)
    for axes, precision in zip(figure.axes, precisions, strict=True):
        _bars(axes, frame[frame["precision"] == precision])
        axes.set_title(precision, fontsize=9, loc="left")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=8)
    return figure


def _bars(axes: Axes, frame: pd.DataFrame) -> None:
    names, ways = list(dict.fromkeys(frame["card"])), list(dict.fromkeys(frame["way"]))
    width = 0.8 / len(ways)
    for order, (way, colour) in enumerate(zip(ways, _COLOURS, strict=True)):
        rows = frame[frame["way"] == way]
        places = [place + (order - (len(ways) - 1) / 2) * width for place in range(len(names))]
        billions = rows["num_parameters"] / 1e9
        bars = axes.bar(places, billions, width, color=colour, label=way)
        axes.bar_label(bars, [f"{value:.2f}" if value < 10 else f"{value:.0f}" for value in billions], fontsize=6)
        claimed = [value / 1e9 for value in rows["paper_parameters"]]
        axes.plot(
            places, claimed, "_", color="black", markersize=14, label=None if order else "Hydra's README (quoted)"
        )
    axes.set_xticks(range(len(names)), [f"{name}\n{_sizes(frame, name)}" for name in names], fontsize=7)
    axes.set_yscale("log")
    axes.set_ylabel("billions of parameters (analytic)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.1)


def _sizes(frame: pd.DataFrame, card: str) -> str:
    """Return a machine's memory in words: nominal of the card, of which CUDA reports a little less."""
    row = frame[frame["card"] == card].iloc[0]
    host = int(row["host_memory_bytes"])
    of_host = f"{host // GIB} GiB" if host % GIB == 0 else f"{host / 1e9:.0f} GB"
    return f"{math.ceil(row['device_memory_bytes'] / GIB)} GB, host {of_host}"
