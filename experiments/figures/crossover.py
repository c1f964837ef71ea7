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
from experiments.paper.runs import STEADY_MINIBATCHES, Outcome, Run, run_by_difference, scaled
from experiments.paper.worlds import PaperJob, World, rival_world, sharp_world
from hydrasim.cluster import Bus
from hydrasim.machine import Machine
from hydrasim.machines import MACHINES
from hydrasim.mechanism import OURS
from hydrasim.systems.task_groups import TaskGroups

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

ABOUT = About(
    title="When not to use SHARP: who trains equal jobs soonest, by jobs, devices and link speed",
    label="simulated",
    source="",
    keys=("model", "link_gb_per_s", "num_jobs", "num_devices", "costs"),
    rivals=("ddp", "gpipe", "gpipe-equal-memory", "fsdp2-offload", "zero3-offload"),
    note="When not to use SHARP: with fewer jobs than devices, as devices without a job idle: in {num_few_lost} of "
    "{num_few} such fields a rival is sooner done, up to {few_times} times as fast; and for a model that fits the "
    "devices together but not one of them, where with more than one device SHARP has {together_low} to {together_high} "
    "of the best rival's throughput. Where a model fits one device, it has {one_low} to {one_high} times that of plain "
    "task parallelism, a job a device at a time, with at least as many jobs as devices: nothing to gain. When to use "
    "it: with at least as many jobs as devices where a model does not fit all of them together, and fast links: "
    "{none_50} times the best rival's throughput at 50 GB/s and {none_25} at 25. At 12 and 6 GB/s it is {none_12} and "
    "{none_6}, as SHARP copies parameters in fp32, to update them on the device, and ZeRO-3 in half. The map shows the "
    "soonest only: of its {num_fields} fields {beaten}. SHARP is taken at the better of resident-lrtf and fifo; the "
    "former takes up to {policy_times} times as long as the latter, and by itself is not sooner than the best rival in "
    "{num_fifo} of the {num_won} fields that SHARP wins. That the two blues alternate is how resident-lrtf behaves, "
    "and does not vanish in longer runs. Rivals are at their best of {num_settings} settings and of 1, 2, 4 or 8 "
    "groups of devices that train jobs beside each other; FSDP and ZeRO-3 gather and reduce in half, DDP reduces in "
    "fp32. Simulated are {minibatches} mini-batches of each of SHARP's jobs, {rival_minibatches} of rivals whose "
    "mini-batches are alike, and {sharing_minibatches} of offloading ones beside each other; a difference of two "
    "lengths extends them to {full_minibatches}. Held fixed: A100s of 40 GB, two a PCIe switch, NVSwitch, host memory "
    "without end, autocast, SGD, mini-batches of 16 sequences of 512 tokens. Without NVSwitch the rivals would "
    "exchange layers over the links too.",
)

_TASK = "task parallelism"

# Held fixed: A100s of 40 GB, NVSwitch between them, two a PCIe switch as fast as one's link, host memory of 170 GB/s
# without end; autocast, SGD, mini-batches of 16 sequences of 512 tokens.
_MACHINE, _BATCH_SIZE, _NUM_MINIBATCHES = MACHINES["8xa100-40gb"], 16, 1000
_MODELS = {  # blocks of GPT-J's width; shards for the rivals to gather or to make stages of
    "1B: fits one device": (4, 6),
    "6B: fits two together": (28, 8),
    "41B: fits not even eight": (200, 40),
}
_LINKS_GB, _JOBS, _DEVICES = (6, 12, 25, 50), (1, 2, 4, 8, 16), (1, 2, 4, 8)
# Mini-batches of each of SHARP's jobs. Who stays with a job as long as two loads take does so for tens of them where a
# job is small; with resident-lrtf where models fit one device, makespans are known to 2 %, all others do not change.
_LENGTHS = dict(zip(_MODELS, (100, 8, 4), strict=True))
_ALIKE_LENGTH = 2  # of rivals whose mini-batches are alike
_SHARING_LENGTH = 4  # of groups that load from the host beside each other
_RECOMPUTE = ("recompute=false", "recompute=true")
_HALF = ":mixed_precision=true"
_RIVALS = {  # techniques, each at its best of these; what is simplest comes first
    _TASK: [f"deepspeed-mp:{mode}" for mode in _RECOMPUTE],
    "DDP": [f"ddp:{mode}" for mode in _RECOMPUTE],
    "FSDP": [f"fsdp:{mode}{_HALF}" for mode in _RECOMPUTE],
    "GPipe": [
        f"gpipe:microbatches={count}:recompute={mode}" for count, mode in product((2, 4, 8, 16), ("never", "always"))
    ],
    "FSDP offload": [f"fsdp-offload:{mode}{_HALF}" for mode in _RECOMPUTE],
    "ZeRO-3 offload": [f"zero3-offload:{mode}{_HALF}" for mode in _RECOMPUTE],
}
_OFFLOADING = ("FSDP offload", "ZeRO-3 offload")
_EVEN_FRACTION, _EVEN_HATCH = 0.005, "//"
_SHARP, _FIFO = "SHARP", "SHARP, by fifo alone"
_POLICIES = {_SHARP: "resident-lrtf", _FIFO: "fifo"}
_COLOURS = {  # from Okabe and Ito
    _SHARP: "#4A90D9", _FIFO: "#C4E3FA", _TASK: "#BBBBBB", "DDP": "#E69F00", "FSDP": "#009E73",
    "GPipe": "#CC79A7", "FSDP offload": "#F0E442", "ZeRO-3 offload": "#D55E00",
}  # fmt: skip
_NAMES = {_SHARP: "SHARP, by resident-lrtf", _FIFO: "SHARP, but by fifo alone"}  # in the legend

Place = tuple[str, int, int]  # model, link, number of devices
Rival = tuple[Place, str, str, int]  # name, setting, and number of groups of devices that train jobs beside each other


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
    """Return a row a model, link, number of jobs and of devices; jobs are equal."""
    models = list(_MODELS)[:2] if smoke else list(_MODELS)
    links, counts = (_LINKS_GB[:1], _JOBS[:2]) if smoke else (_LINKS_GB, _JOBS)
    rows = []
    for model in models:
        places = [(model, link, num_devices) for link in links for num_devices in _DEVICES]
        rivals: dict[Rival, Run] = {}
        sharp: dict[tuple[Place, int, str], Run] = {}
        for place in places:
            worlds = _worlds(place, counts)
            rivals |= _rivals(place, counts)
            sharp |= {(place, n, name): Run(worlds[n], _POLICIES[name]) for n, name in product(counts, _POLICIES)}
        length = 2 if smoke else scaled(_LENGTHS[model], num_minibatches)
        of_sharp = dict(zip(sharp, run_by_difference([*sharp.values()], length), strict=True))
        of_rivals: dict[Rival, Outcome] = {}
        for sharing, least in ((False, _ALIKE_LENGTH), (True, 2 if smoke else _SHARING_LENGTH)):
            chosen = {key: run for key, run in rivals.items() if _shares_the_host(key) is sharing}
            found = run_by_difference([*chosen.values()], scaled(least, num_minibatches))
            of_rivals |= dict(zip(chosen, found, strict=True))
        for place, count in product(places, counts):
            ours = {name: of_sharp[place, count, name] for name in _POLICIES}
            rows.append(_row(place, count, ours, _best(of_rivals, place, count)))
    return pd.DataFrame(rows)


def _worlds(place: Place, counts: Sequence[int]) -> dict[int, World]:
    """Return a place's world by the number of jobs."""
    model, link, num_devices = place
    return {
        n: sharp_world(_jobs(model, n), machine(link), num_devices=num_devices, mechanism=OURS) for n in counts
    }  # fmt: skip


def _jobs(model: str, count: int) -> list[PaperJob]:
    spec = ModelSpec("gptj", str(_MODELS[model][0]), _BATCH_SIZE)
    return [PaperJob(f"j{index}", spec, _NUM_MINIBATCHES) for index in range(count)]


def _rivals(place: Place, counts: Sequence[int]) -> dict[Rival, Run]:
    """Return a run a setting and number of groups, with a job a group."""
    model, link, num_devices = place
    runs: dict[Rival, Run] = {}
    for groups in (n for n in counts if n <= num_devices):
        jobs, shards = _jobs(model, groups), _MODELS[model][1]
        world = rival_world(jobs, machine(link), num_devices=num_devices, precision="autocast", num_shards=shards)
        for name, settings in _RIVALS.items():
            runs |= {(place, name, text, groups): Run(world, system=TaskGroups(text, groups)) for text in settings}
    return runs


def _shares_the_host(rival: Rival) -> bool:
    """Tell whether groups get in each other's way, so that their mini-batches are not alike from the first on."""
    _, name, _, groups = rival
    return name in _OFFLOADING and groups > 1


def _best(outcomes: dict[Rival, Outcome], place: Place, num_jobs: int) -> dict[str, tuple[float, int]]:
    """Return what each rival that is not refused takes at its best for so many jobs, and in how many groups."""
    best: dict[str, tuple[float, int]] = {}
    for (where, name, _, groups), outcome in outcomes.items():
        if where == place and groups <= num_jobs and not outcome.error:
            taken_s = -(-num_jobs // groups) * outcome.makespan_s
            best[name] = min((taken_s, groups), best.get(name, (math.inf, 0)))
    return best


def _row(
    place: Place, num_jobs: int, ours: dict[str, Outcome], rivals: dict[str, tuple[float, int]]
) -> dict[str, object]:
    """Return a row; the winner is SHARP by its usual policy, by the other one only, or the best rival.

    Whoever is within half a per cent of another is as fast. Of rivals that are as fast the simplest is the best; if it
    is as fast as SHARP, it wins, as it asks for less.
    """
    model, link, num_devices = place
    least_rival_s = min((seconds for seconds, _ in rivals.values()), default=math.nan)
    best = next((name for name in _RIVALS if name in rivals and _even(rivals[name][0], least_rival_s)), "")
    usual_s = ours[_SHARP].makespan_s
    least_s = min(usual_s, ours[_FIFO].makespan_s)
    even = _even(least_s, least_rival_s)
    sharp = _SHARP if usual_s < least_rival_s * (1 - _EVEN_FRACTION) or not rivals else _FIFO
    return {
        "model": model,
        "link_gb_per_s": link,
        "num_jobs": num_jobs,
        "num_devices": num_devices,
        "costs": "zero-constant",
        "label": ABOUT.label,
        **{f"{name} hours": outcome.makespan_s / 3600 for name, outcome in ours.items()},
        **{f"{name} hours": rivals.get(name, (math.nan, 0))[0] / 3600 for name in _RIVALS},
        "best_rival": best,
        "num_groups": rivals[best][1] if best else 0,
        "winner": best if even or least_rival_s < least_s else sharp,
        "even": even,
        "ratio": least_rival_s / least_s,
        "simulated_minibatches": ours[_SHARP].simulated_minibatches,
        "utilization": ours[_SHARP].utilization,
        "error": ours[_SHARP].error,
    }


def _even(seconds: float, other_s: float) -> bool:
    return abs(seconds / other_s - 1) <= _EVEN_FRACTION


def facts(frame: pd.DataFrame) -> dict[str, str]:
    """Return the numbers of the note."""
    ratio, several = frame["ratio"], frame["num_devices"] > 1
    one, together, _ = (frame["model"] == model for model in _MODELS)
    few = frame[frame["num_jobs"] < frame["num_devices"]]
    enough = frame["num_jobs"] >= frame["num_devices"]
    lost = few[~few["even"] & ~few["winner"].isin(_POLICIES)]
    won = frame["winner"].isin(_POLICIES)
    each = (frame["simulated_minibatches"] / frame["num_jobs"]).groupby(frame["model"], sort=False).first()
    spans = {"together": together & several, "one": one & enough}
    missing = ~one & ~together & enough | together & ~several
    by_link = {link: ratio[missing & (frame["link_gb_per_s"] == link)] for link in _LINKS_GB}
    return {
        "num_few": str(len(few)),
        "num_few_lost": str(len(lost)),
        "few_times": f"{1 / lost['ratio'].min():.0f}",
        **{f"{name}_low": f"{ratio[rows].min():.2f}" for name, rows in spans.items()},
        **{f"{name}_high": f"{ratio[rows].max():.2f}" for name, rows in spans.items()},
        **{f"none_{link}": f"{found.min():.2f} to {found.max():.2f}" for link, found in by_link.items()},
        "num_fields": str(len(frame)),
        "num_won": str(int(won.sum())),
        "num_fifo": str(int((frame["winner"] == _FIFO).sum())),
        "beaten": beaten(frame),
        "policy_times": f"{(frame[f'{_SHARP} hours'] / frame[f'{_FIFO} hours']).max():.1f}",
        "num_settings": str(sum(map(len, _RIVALS.values()))),
        "minibatches": ", ".join(f"{each[model]:.0f} ({model.partition(':')[0]})" for model in _MODELS),
        "rival_minibatches": str(_ALIKE_LENGTH),
        "sharing_minibatches": str(_SHARING_LENGTH),
        "full_minibatches": str(_NUM_MINIBATCHES),
    }


def beaten(frame: pd.DataFrame) -> str:
    """Say in how many fields each of the paper's kinds of rivals is sooner done than SHARP, as the best or not."""
    least = frame[[f"{name} hours" for name in _POLICIES]].min(axis=1)
    names = ("GPipe", "FSDP", "ZeRO-3 offload")
    counts = [int((frame[f"{name} hours"] < least * (1 - _EVEN_FRACTION)).sum()) for name in names]
    first, *others = zip(names, counts, strict=True)
    return ", ".join([f"{first[0]} beats SHARP in {first[1]}", *(f"{name} in {count}" for name, count in others)])


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
    handles = [
        Patch(facecolor=_COLOURS[name], edgecolor="black", linewidth=0.5, label=_NAMES.get(name, name))
        for name in shown
    ]
    as_fast = f"hatched: SHARP is as fast, within {_EVEN_FRACTION:.1%}"
    handles.append(Patch(facecolor="white", edgecolor="black", linewidth=0.5, hatch=_EVEN_HATCH, label=as_fast))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=11, title_fontsize=11,
        title="colour: who is soonest done; number: throughput of SHARP, by the better of two policies, / best rival's",
    )  # fmt: skip
    return figure


def _panel(axes: Axes, frame: pd.DataFrame) -> None:
    jobs, devices = sorted(set(frame["num_jobs"])), sorted(set(frame["num_devices"]))
    for _, row in frame.iterrows():
        x, y = devices.index(row["num_devices"]), jobs.index(row["num_jobs"])
        axes.add_patch(_field(x, y, _COLOURS[row["winner"]], _EVEN_HATCH if row["even"] else ""))
        text = "alone" if math.isnan(row["ratio"]) else f"{row['ratio']:.2f}"
        axes.text(x, y, text, ha="center", va="center", fontsize=9)
    axes.set_xlim(-0.5, len(devices) - 0.5)
    axes.set_ylim(-0.5, len(jobs) - 0.5)
    axes.set_xticks(range(len(devices)), [str(count) for count in devices])
    axes.set_yticks(range(len(jobs)), [str(count) for count in jobs])
    axes.set_xlabel("devices", fontsize=8)
    axes.set_ylabel("jobs", fontsize=8)


def _field(x: int, y: int, colour: str, hatch: str) -> Patch:
    """Return a coloured field."""
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white", hatch=hatch)
