"""When not to use SHARP: jobs, devices and link speeds at which another system trains the same jobs sooner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import pandas as pd

from experiments.figures import About
from experiments.paper.counting import ModelSpec
from experiments.paper.drawing import new_figure
from experiments.paper.runs import STEADY_MINIBATCHES, Outcome, Run, run_by_difference
from experiments.paper.worlds import PaperJob, World, rival_world, sharp_world
from hydrasim.cluster import Bus
from hydrasim.machine import Machine
from hydrasim.machines import MACHINES
from hydrasim.mechanism import OURS
from hydrasim.systems import System, make_system

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

ABOUT = About(
    title="When not to use SHARP: who trains equal jobs soonest, by jobs, devices and link speed",
    label="simulated",
    source="",
    keys=("model", "link_gb_per_s", "num_jobs", "num_devices", "costs"),
    note="When not to use SHARP: with fewer jobs than devices (70 of 72 fields), as devices without a job idle: DDP, "
    "FSDP or FSDP with offload are up to 24 times as fast; and for a model that fits the devices together but not "
    "one of them, which FSDP trains sooner at every link speed and number of jobs shown (SHARP has 0.04 to 0.97 "
    "of its throughput). When to use it: with at least as many jobs as devices, SHARP has 1.0 to 1.5 times the "
    "throughput of the best rival where a model fits one device, and 1.1 to 2.1 times where it does not fit all "
    "together; on a single device 1.3 to 1.7 times where it does not fit that. SHARP is taken at the better of "
    "resident-lrtf and fifo; the former takes up to 1.8 times as long as the latter. Held fixed: A100s of 40 GB, "
    "two a PCIe switch, NVSwitch, host memory without end, autocast, SGD, mini-batches of 16 sequences of 512 "
    "tokens. Without NVSwitch the rivals would exchange layers over the links too.",
)

# Held fixed: A100s of 40 GB, NVSwitch between them, two a PCIe switch as fast as one's link, host memory of 170 GB/s
# without end; autocast, SGD, mini-batches of 16 sequences of 512 tokens.
_MACHINE, _BATCH_SIZE, _NUM_MINIBATCHES = MACHINES["8xa100-40gb"], 16, 1000
_MODELS = {  # blocks of GPT-J's width; shards for the rivals to gather or to make stages of
    "1B: fits one device": (4, 6),
    "6B: fits two together": (28, 8),
    "41B: not even eight": (200, 40),
}
_LINKS_GB, _JOBS, _DEVICES = (6, 12, 25, 50), (1, 2, 4, 8, 16), (1, 2, 4, 8)
# Of the mini-batches that other figures simulate. Who stays with a job as long as two loads take does so for more of
# them, the smaller the job.
_SHARES = dict(zip(_MODELS, (6, 25, 50), strict=True))
_RIVALS_LENGTH = 2  # their mini-batches are alike
_RIVALS: dict[str, list[System]] = {  # each at its best of these settings
    "DDP": [make_system("ddp", {"recompute": flag}) for flag in ("false", "true")],
    "FSDP": [make_system("fsdp", {"recompute": flag}) for flag in ("false", "true")],
    "FSDP offload": [make_system("fsdp-offload")],
    "GPipe": [make_system("gpipe", {"microbatches": "8", "recompute": mode}) for mode in ("never", "always")],
    "ZeRO-3 offload": [make_system("zero3-offload")],
}
_EVEN_FRACTION = 0.005
_SHARP, _FIFO = "SHARP", "SHARP, by fifo alone"
_POLICIES = {_SHARP: "resident-lrtf", _FIFO: "fifo"}
_COLOURS = {  # from Okabe and Ito
    _SHARP: "#56B4E9", _FIFO: "#BBDFF5", "DDP": "#E69F00", "FSDP": "#009E73", "FSDP offload": "#F0E442",
    "GPipe": "#CC79A7", "ZeRO-3 offload": "#D55E00",
}  # fmt: skip

Place = tuple[str, int, int]  # model, link, number of devices


def machine(link_gb_per_s: float) -> Machine:
    """Return the machine with links of this speed to the host, each switch as fast as a link."""
    bytes_per_s = link_gb_per_s * 1e9
    devices = tuple(
        replace(
            device,
            h2d=replace(device.h2d, bytes_per_s=bytes_per_s),
            d2h=replace(device.d2h, bytes_per_s=bytes_per_s),
        )
        for device in _MACHINE.cluster.devices
    )
    buses = tuple(Bus(bus.name, bytes_per_s) for bus in _MACHINE.cluster.buses)
    return replace(_MACHINE, cluster=replace(_MACHINE.cluster, devices=devices, buses=buses, host_memory_bytes=None))


def run(smoke: bool = False, *, num_minibatches: int = STEADY_MINIBATCHES) -> pd.DataFrame:
    """Return a row a model, link, number of jobs and of devices; the rivals' jobs are equal and follow each other."""
    models = list(_MODELS)[:2] if smoke else list(_MODELS)
    links, counts = (_LINKS_GB[:1], _JOBS[:2]) if smoke else (_LINKS_GB, _JOBS)
    rows = []
    for model in models:
        rivals: dict[tuple[Place, str, int], Run] = {}
        sharp: dict[tuple[Place, int, str], Run] = {}
        places = [(model, link, num_devices) for link in links for num_devices in _DEVICES]
        for place in places:
            worlds = _worlds(place, counts)
            for name, settings in _RIVALS.items():
                rivals |= {(place, name, n): Run(worlds[0], system=system) for n, system in enumerate(settings)}
            for count, name in product(counts, _POLICIES):
                sharp[place, count, name] = Run(worlds[count], _POLICIES[name])
        length = 2 if smoke else num_minibatches // _SHARES[model]
        of_rivals = dict(zip(rivals, run_by_difference([*rivals.values()], min(length, _RIVALS_LENGTH)), strict=True))
        of_sharp = dict(zip(sharp, run_by_difference([*sharp.values()], length), strict=True))
        for place, count in product(places, counts):
            ours = {name: of_sharp[place, count, name] for name in _POLICIES}
            rows.append(_row(place, count, ours, _best(of_rivals, place)))
    return pd.DataFrame(rows)


def _worlds(place: Place, counts: Sequence[int]) -> dict[int, World]:
    """Return a place's world by the number of jobs, and at 0 the one of a single job for rivals."""
    model, link, num_devices = place
    num_blocks, num_shards = _MODELS[model]
    spec, made = ModelSpec("gptj", str(num_blocks), _BATCH_SIZE), machine(link)
    jobs = [PaperJob(f"j{index}", spec, _NUM_MINIBATCHES) for index in range(max(counts))]
    worlds = {n: sharp_world(jobs[:n], made, num_devices=num_devices, mechanism=OURS) for n in counts}
    rivals = rival_world(jobs[:1], made, num_devices=num_devices, precision="autocast", num_shards=num_shards)
    return worlds | {0: rivals}


def _best(outcomes: dict[tuple[Place, str, int], Outcome], place: Place) -> dict[str, float]:
    """Return what each rival takes for a job at its best setting, those that are not refused."""
    best: dict[str, float] = {}
    for (where, name, _), outcome in outcomes.items():
        if where == place and not outcome.error:
            best[name] = min(outcome.makespan_s, best.get(name, math.inf))
    return best


def _row(place: Place, num_jobs: int, ours: dict[str, Outcome], rivals: dict[str, float]) -> dict[str, object]:
    """Return a row; the winner is SHARP by its usual policy, by the other one only, or the best rival.

    Who is as fast but for half a per cent does not win over SHARP.
    """
    model, link, num_devices = place
    times = {name: num_jobs * seconds for name, seconds in rivals.items()}
    best = min(times, key=times.__getitem__, default="")
    best_s, usual_s = times.get(best, math.nan), ours[_SHARP].makespan_s
    least_s = min(usual_s, ours[_FIFO].makespan_s)
    enough_s = best_s * (1 + _EVEN_FRACTION)
    winner = best if least_s > enough_s else _FIFO if usual_s > enough_s else _SHARP
    return {
        "model": model,
        "link_gb_per_s": link,
        "num_jobs": num_jobs,
        "num_devices": num_devices,
        "costs": "zero-constant",
        "label": ABOUT.label,
        **{f"{name} hours": outcome.makespan_s / 3600 for name, outcome in ours.items()},
        **{f"{name} hours": times.get(name, math.nan) / 3600 for name in _RIVALS},
        "best_rival": best,
        "winner": winner,
        "ratio": best_s / usual_s,
        "ratio_of_best_policy": best_s / least_s,
        "utilization": ours[_SHARP].utilization,
        "error": ours[_SHARP].error,
    }


def draw(frame: pd.DataFrame) -> Figure:
    """Draw who wins as a map for each model and link, with SHARP's throughput over the best rival's."""
    from matplotlib.patches import Patch

    models, links = list(dict.fromkeys(frame["model"])), list(dict.fromkeys(frame["link_gb_per_s"]))
    figure = new_figure(len(models), len(links), width=max(5.0, 3.1 * len(links)), height=2.9)
    for row, model in enumerate(models):
        for column, link in enumerate(links):
            axes = figure.axes[row * len(links) + column]
            _panel(axes, frame[(frame["model"] == model) & (frame["link_gb_per_s"] == link)])
            axes.set_title(f"{model}\nlinks of {link} GB/s", fontsize=9)
    shown = [name for name in _COLOURS if name in set(frame["winner"])]
    figure.legend(
        handles=[Patch(facecolor=_COLOURS[name], edgecolor="black", linewidth=0.5, label=name) for name in shown],
        loc="outside lower center", ncols=len(shown), frameon=False,
        title="soonest done; number: throughput of SHARP, by the better of two policies, / best rival",
    )  # fmt: skip
    return figure


def _panel(axes: Axes, frame: pd.DataFrame) -> None:
    jobs, devices = sorted(set(frame["num_jobs"])), sorted(set(frame["num_devices"]))
    for _, row in frame.iterrows():
        x, y = devices.index(row["num_devices"]), jobs.index(row["num_jobs"])
        axes.add_patch(_field(x, y, _COLOURS[row["winner"]]))
        text = "alone" if math.isnan(row["ratio"]) else f"{row['ratio_of_best_policy']:.2f}"
        axes.text(x, y, text, ha="center", va="center", fontsize=8)
    axes.set_xlim(-0.5, len(devices) - 0.5)
    axes.set_ylim(-0.5, len(jobs) - 0.5)
    axes.set_xticks(range(len(devices)), [str(count) for count in devices])
    axes.set_yticks(range(len(jobs)), [str(count) for count in jobs])
    axes.set_xlabel("devices", fontsize=8)
    axes.set_ylabel("jobs", fontsize=8)


def _field(x: int, y: int, colour: str) -> Patch:
    """Return a coloured field."""
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white")
