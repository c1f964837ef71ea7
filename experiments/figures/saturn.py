"""Saturn's workload: whether spilling on one GPU each is the slowest way to train it, and where SHARP comes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import pandas as pd

from experiments.figures import About
from experiments.paper.counting import ModelSpec, Precision
from experiments.paper.drawing import COLOURS, new_figure
from experiments.paper.runs import (
    ALIKE_MINIBATCHES,
    SMOKE_MINIBATCHES,
    STEADY_MINIBATCHES,
    Outcome,
    Run,
    rank,
    run_all,
)
from experiments.paper.worlds import PaperJob, World, rival_world, sharp_world
from hydrasim.cluster import Bus
from hydrasim.machine import Machine
from hydrasim.machines import MACHINES
from hydrasim.mechanism import OURS, PAPER
from hydrasim.systems.registry import parse_system
from hydrasim.systems.saturn import Saturn
from hydrasim.workload import Workload

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ABOUT = About(
    title="Saturn's workload on eight A100: makespan over that of one-GPU spilling",
    label="simulated",
    source="Saturn (2024), Fig. 5, one node, TXT",
    keys=("precision", "system", "costs"),
    rivals=("ddp", "fsdp2-offload", "gpipe", "gpipe-equal-memory"),
    note="Saturn's finding holds here too: one GPU a job with spilling (Min-heuristic: no SHARP, no prefetch) is the "
    "slowest of all. SHARP (ours) takes {sharp_autocast} of its time under autocast and {sharp_fp32} in fp32, yet FSDP "
    "over all GPUs, where both models fit together, takes {fsdp_autocast} and {fsdp_fp32}; offloaded it takes "
    "{offload_autocast} and {offload_fp32}. Under autocast FSDP gathers and reduces in half, DDP reduces in fp32. "
    "Saturn's precision is not known; fp32 comes nearer to its ratios ({saturn_fp32} where it has {saturn_paper}) than "
    "autocast ({saturn_autocast}), under which copies weigh more. Not the same as there: GPT-J as a stack of GPT-2's "
    "blocks of its size, sequences of 512 tokens, SGD, all GPUs behind one bus, the solver without introspection. "
    "Simulated are {minibatches} mini-batches of the shortest job, and {alone_minibatches} of jobs one after another, "
    "whose mini-batches are alike.",
)

_EPOCHS, _SEQUENCES = 10, 4781  # WikiText-2 in sequences of 512 tokens
_RATES = ("1e-5", "1e-4", "3e-3")
_PRECISIONS: tuple[Precision, ...] = ("autocast", "fp32")  # Saturn's is not known

# Hours read off Saturn's Fig. 5, and what here stands for them: its heuristics give a job the least or most GPUs.
PAPER_HOURS = {"Random": 39.0, "Min-heuristic": 46.2, "Max-heuristic": 27.5, "Optimus*-Greedy": 28.0, "Saturn": 21.0}
_MIN, _MAX, _SATURN = "Min-heuristic", "Max-heuristic", "Saturn"

_ON_ALL = {  # techniques that give each job all GPUs, as named in the picture, at the best of these for each job
    "DDP": ["ddp"],
    "FSDP": ["fsdp:recompute=false"],
    "FSDP, checkpointed": ["fsdp"],
    "FSDP, offloaded": ["fsdp-offload", "fsdp-offload:recompute=false"],
    "GPipe": [
        f"gpipe:recompute={mode}:microbatches={count}" for mode in ("never", "always") for count in (2, 4, 8, 16)
    ],
}
_LIBRARY = ("ddp", "fsdp", "fsdp:recompute=false", "fsdp-offload", "gpipe:recompute=never:microbatches=16", "spilling")
_SHARP = {"SHARP, paper's": ("sharded-lrtf", PAPER), "SHARP, ours": ("resident-lrtf", OURS)}


def technique(text: str, precision: Precision) -> str:
    """Return a technique with its options at a precision: under autocast FSDP gathers and reduces in half."""
    return f"{text}:mixed_precision=true" if precision == "autocast" and text.startswith("fsdp") else text


def jobs(rates: Sequence[str] = _RATES) -> list[PaperJob]:
    """Return GPT-2 1.5B and GPT-J 6B, batch {16, 32} x three learning rates; learning rates change no time."""
    models = [ModelSpec("gpt2", "xl", 16), ModelSpec("gpt2", "xl", 32)]
    models += [ModelSpec("gptj", "6b", 16), ModelSpec("gptj", "6b", 32)]
    return [
        PaperJob(f"{model.family}-b{model.batch_size}-lr{rate}", model, _EPOCHS * -(-_SEQUENCES // model.batch_size))
        for model in models
        for rate in rates
    ]


def machine() -> Machine:
    """Return the eight A100s behind one bus as fast as their four switches together.

    Saturn plans for devices that are alike, and those behind different switches are not.
    """
    made = MACHINES["8xa100-40gb"]
    bus = Bus("host", sum(bus.bytes_per_s for bus in made.cluster.buses))
    devices = tuple(
        replace(device, h2d=replace(device.h2d, shared=bus.name), d2h=replace(device.d2h, shared=bus.name))
        for device in made.cluster.devices
    )
    return replace(made, cluster=replace(made.cluster, devices=devices, buses=(bus,)))


def run(smoke: bool = False, *, num_minibatches: int = STEADY_MINIBATCHES) -> pd.DataFrame:
    """Return a row a precision and system, and one for what is only quoted."""
    length = SMOKE_MINIBATCHES // 4 if smoke else num_minibatches
    precisions, rates = (_PRECISIONS[:1], _RATES[:1]) if smoke else (_PRECISIONS, _RATES)
    together: dict[tuple[str, str], Run] = {}
    alone: dict[tuple[str, str, str, str], Run] = {}
    for precision in precisions:
        rivals = rival_world(jobs(rates), machine(), precision=precision)
        library, counts = (("fsdp", "spilling"), "8") if smoke else (_LIBRARY, "1,2,4,8")
        techniques = ",".join(technique(text, precision) for text in library)
        solver = Saturn(techniques, counts, time_limit_s=1.0, interval_s=math.inf)
        together[precision, _SATURN] = Run(rivals, system=solver)
        together[precision, _MIN] = Run(rivals, system="spilling")
        for system, (policy, mechanism) in _SHARP.items():
            world = sharp_world(jobs(rates), machine(), precision=precision, mechanism=mechanism)
            together[precision, system] = Run(world, policy)
        for (system, settings), job in product(_ON_ALL.items(), rivals.workload.jobs[:: len(rates)]):
            world = World(Workload((job,)), rivals.cluster)
            for text in settings:
                alone[precision, system, job.name, text] = Run(world, system=parse_system(technique(text, precision)))
    lengths = [length] * len(together) + [num_minibatches] * len(alone)
    found = run_all([*together.values(), *alone.values()], lengths)
    outcomes = {key: [outcome] for key, outcome in zip(together, found, strict=False)}
    best: dict[tuple[str, str, str], Outcome] = {}
    for (*key, _), outcome in zip(alone, found[len(together) :], strict=True):
        best[tuple(key)] = min(best.get(tuple(key), outcome), outcome, key=rank)
    for (own, system, _), outcome in best.items():
        outcomes.setdefault((own, system), []).append(outcome)
    return pd.DataFrame([row for precision in precisions for row in _rows(precision, len(rates), outcomes)])


def _rows(precision: str, num_alike: int, outcomes: dict[tuple[str, str], list[Outcome]]) -> list[dict[str, object]]:
    """Return rows; an outcome by itself is of all jobs together, several are of one each of those that are alike."""
    all_gpus = [outcomes[precision, system] for system in _ON_ALL]
    best = [min(ways, key=rank) for ways in zip(*all_gpus, strict=True)]
    joined = {system: found for (own, system), found in outcomes.items() if own == precision} | {_MAX: best}
    hours = {
        system: sum(o.makespan_s for o in found) * (num_alike if len(found) > 1 else 1) / 3600
        for system, found in joined.items()
    } | dict.fromkeys(PAPER_HOURS.keys() - joined.keys(), math.nan)
    rows = []
    for system, taken in hours.items():
        found = joined.get(system, [])
        ratio = taken / hours[_MIN]
        paper_ratio = PAPER_HOURS.get(system, math.nan) / PAPER_HOURS[_MIN]
        rows.append(
            {
                "precision": precision,
                "system": system,
                "costs": "zero-constant" if found else "none",
                "label": ABOUT.label if found else "quoted",
                "hours": taken,
                "paper_hours": PAPER_HOURS.get(system, math.nan),
                "ratio": ratio,
                "paper_ratio": paper_ratio,
                "error_fraction": ratio / paper_ratio - 1 if system != _MIN else math.nan,
                "error": next((o.error for o in found if o.error), "") if found else "not simulated",
            }
        )
    return sorted(rows, key=lambda row: str(row["system"]))


def facts(frame: pd.DataFrame) -> dict[str, str]:
    """Return the numbers of the note."""
    ratios = frame.set_index(["precision", "system"])["ratio"]
    systems = {"sharp": "SHARP, ours", "fsdp": "FSDP", "offload": "FSDP, offloaded", "saturn": _SATURN}
    return {
        **{f"{key}_{own}": f"{ratios[own, name]:.2f}" for own in _PRECISIONS for key, name in systems.items()},
        "saturn_paper": f"{PAPER_HOURS[_SATURN] / PAPER_HOURS[_MIN]:.2f}",
        "minibatches": str(STEADY_MINIBATCHES),
        "alone_minibatches": str(ALIKE_MINIBATCHES),
    }


def draw(frame: pd.DataFrame) -> Figure:
    """Draw makespans over that of one-GPU spilling, by precision, the quoted ones beside them."""
    precisions = list(dict.fromkeys(frame["precision"]))
    figure = new_figure(1, len(precisions), width=max(6.0, 5.0 * len(precisions)), height=4.2)
    for axes, precision in zip(figure.axes, precisions, strict=True):
        rows = frame[frame["precision"] == precision].sort_values("ratio", na_position="first")
        for offset, column, name, colour in (
            (0.2, "ratio", "simulated", "ours"), (-0.2, "paper_ratio", "Saturn's Fig. 5 (quoted)", "paper"),
        ):  # fmt: skip
            places = [place + offset for place in range(len(rows))]
            bars = axes.barh(places, rows[column].fillna(0.0), 0.38, label=name, color=COLOURS[colour])
            texts = ["" if math.isnan(value) else f"{value:.2f}" for value in rows[column]]
            axes.bar_label(bars, texts, fontsize=7, padding=2)
        for place, (_, row) in enumerate(rows.iterrows()):
            if math.isnan(row["ratio"]) and row["label"] == ABOUT.label:
                axes.text(0.01, place + 0.2, "refused: out of memory", va="center", fontsize=7)
        axes.set_yticks(range(len(rows)), rows["system"], fontsize=8)
        axes.set_xlabel("makespan / that of one-GPU spilling")
        axes.set_title(precision, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
    return figure
