"""Fig. 8: twelve models end to end, by every system, with hours, speedup and utilization."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from experiments.figures import About
from experiments.paper.calibration import COSTS, KEEPING, RECOMPUTING, Costs, compute_fraction, efficiency
from experiments.paper.drawing import against_paper
from experiments.paper.runs import SMOKE_MINIBATCHES, STEADY_MINIBATCHES, Outcome, Run, run_all
from experiments.paper.table import cell, percent_range, value_range, where
from experiments.paper.worlds import (
    PAPER_2021,
    RIVAL_SHARDS,
    Cut,
    PaperJob,
    World,
    bert_grid,
    rival_world,
    sharp_world,
    vit_grid,
)  # fmt: skip
from hydrasim.machine import Machine
from hydrasim.machines import MACHINES
from hydrasim.mechanism import PAPER, Mechanism
from hydrasim.optimum import lower_bounds
from hydrasim.profile import StatedCosts
from hydrasim.systems import System, make_system
from hydrasim.systems.quoted import PAPER_FIG8, Quote, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ABOUT = About(
    title="End to end: twelve models on eight GTX 1080 Ti (2021) or RTX 2080 Ti (2022), speedup over model parallelism",
    label="simulated",
    source="Fig. 8 (2021, 2022)",
    keys=("version", "task", "system", "costs"),
    ratios=("ratio", "ratio_keeping"),
    rivals=("gpipe-equal-memory",),
    note="One constant is fitted a version, on PyTorch Distributed, WikiText-2 ({fraction} of the peak, not the quoted "
    "{fraction_free}). Held out, Hydra is then off by {text} there, and with none fitted by {text_free}, when cards "
    "compute so fast that shared links decide, of four cards each in 2021. On CIFAR-10 of 2021, whose mini-batches are "
    "small beside the weights that move, links decide in either case ({images_free}, calibrated {images}); with "
    "nothing fitted our GPipe, which moves no weights, beats our Hydra there, {gpipe} to {hydra}. At 512 and 1024 "
    "images, of 2022, Hydra is off by {images_2022}, whatever is fitted. Neither version's 7.36 on CIFAR-10 can be had "
    "under the paper's own rules: a model is on one device at a time, and the longest has 2B of all 12.4B parameters, "
    "by the paper's labels. Even if copies took no time, no plan of Hydra's units, of which the last shard's are not "
    "recomputed, could gain more than {most_2021} in 2021 and {most_2022} in 2022. The paper's GPipe falls from 4.86 "
    "and 4.95 to 3.89 and 3.79 between versions, ours stays at {gpipes}. How model+data and model+task split the "
    "devices is not said. The most replicas that fit are eight of one device for WikiText-2, no model parallelism: of "
    "{data_hours} h with nothing fitted they compute for {data_busy}, and else all-reduce all gradients of each "
    "mini-batch, in fp32, through the host. The most groups that fit train {groups} times as fast as the baseline, no "
    "weak rivals. In 2022 the most replicas gain {data_2022}, and for CIFAR-10 no more than two groups fit. Two "
    "replicas or groups come to the printed bars; chosen by these, they are in no error summary, nor is the baseline, "
    "1 by definition. DeepSpeed MP is the same model here as PyTorch Distributed; the paper's is slower, so that ours "
    "is off by {twin}. Baselines recompute, as the authors' later scripts do; over one that keeps activations "
    "Hydra gains {keeping} on WikiText-2. For CIFAR-10 of 2022 rivals are cut "
    "finer, or 2B models do not fit. FlexFlow is quoted only. Hours and utilization of 2022 are read off a picture, to "
    "1 or 2 %.",
)

_BASELINE, _HYDRA, _GPIPE = "PyTorch Distributed", "Hydra", "GPipe"
_TWIN = "DeepSpeed MP"  # simulated as the baseline is
_QUOTED = "FlexFlow"  # not simulated
_TEXT: Task = "wikitext-2"  # the task whose baseline is fitted
_IMAGES: Task = "cifar-10"
_TASKS = (_TEXT, _IMAGES)
_DATA, _TASK = "DeepSpeed model+data", "DeepSpeed model+task"
_TWO_REPLICAS, _TWO_GROUPS = "model+data, 2 replicas", "model+task, 2 groups"
_SYSTEMS: dict[str, System] = {
    _BASELINE: RECOMPUTING,
    _TWIN: RECOMPUTING,
    _DATA: make_system("deepspeed-mp-data", {"recompute": "true"}),
    _TWO_REPLICAS: make_system("deepspeed-mp-data", {"recompute": "true", "replicas": "2"}),
    _TASK: make_system("deepspeed-mp-task", {"recompute": "true"}),
    _TWO_GROUPS: make_system("deepspeed-mp-task", {"recompute": "true", "num_groups": "2"}),
    _GPIPE: make_system("gpipe", {"microbatches": "8", "recompute": "always"}),
}
_STANDS_FOR = {_TWO_REPLICAS: _DATA, _TWO_GROUPS: _TASK}  # the bar that a choice of ours was made to match
_LEFT_OUT = {  # of the summary of errors, and why
    _BASELINE: "1 by definition",
    _TWO_REPLICAS: "replicas chosen to match",
    _TWO_GROUPS: "groups chosen to match",
}


# Hours of WikiText-2 and CIFAR-10, then utilization in %, of the 2022 version's bars, read off a picture. Its printed
# speedups are those of 2021, but for GPipe's.
_READ_2022 = {
    _BASELINE: ((84.3, 18.1), (8, 6)),
    _TWIN: ((88.1, 19.4), (9, 7)),
    _DATA: ((49.1, 11.0), (21, 25)),
    _TASK: ((45.9, 10.0), (26, 25)),
    _QUOTED: ((47.3, 10.1), (22, 21)),
    _GPIPE: ((21.7, 4.8), (48.5, 48)),
    _HYDRA: ((11.3, 2.46), (82, 81)),
}
_PRINTED_2022 = {(_GPIPE, _TEXT): 3.89, (_GPIPE, _IMAGES): 3.79}


def _bars_2022() -> tuple[Quote, ...]:
    """Return the bars as the 2022 version draws them anew."""
    source = "Hydra, Fig. 8 of the April 2022 draft (8 RTX 2080 Ti); hours and utilization read off a picture"
    found = []
    for old in PAPER_FIG8:
        hours, percent = (values[_TASKS.index(old.task)] for values in _READ_2022[old.system])
        speedup = _PRINTED_2022.get((old.system, old.task), old.speedup)
        found.append(Quote(old.system, old.simulated_as, old.task, hours * 3600, speedup, percent / 100, source))
    return tuple(found)


@dataclass(frozen=True)
class Version:
    """Fig. 8 as one version of the paper has it. num_shards: of rivals' models, by task."""

    year: int
    machine: Machine
    mechanism: Mechanism
    tasks: Mapping[Task, list[PaperJob]]
    quotes: tuple[Quote, ...]
    num_shards: Mapping[Task, int]


VERSIONS = (
    Version(
        2021, MACHINES["8x1080ti"], PAPER_2021, {_TEXT: bert_grid(), _IMAGES: vit_grid()}, PAPER_FIG8,
        {_TEXT: RIVAL_SHARDS, _IMAGES: RIVAL_SHARDS},
    ),
    Version(
        2022, MACHINES["8x2080ti"], PAPER, {_TEXT: bert_grid(), _IMAGES: vit_grid((512, 1024))},
        _bars_2022(),
        {_TEXT: RIVAL_SHARDS, _IMAGES: 2 * RIVAL_SHARDS},
    ),
)  # fmt: skip


class _Key(NamedTuple):
    year: int
    task: Task
    system: str
    costs: Costs
    baseline: System = RECOMPUTING


def run(smoke: bool = False, *, num_minibatches: int = STEADY_MINIBATCHES) -> pd.DataFrame:
    """Return a row a version, task, system and costs.

    most_ratio: the speedup that no plan of Hydra's units can exceed. ratio_keeping: over a baseline that keeps.
    """
    versions = VERSIONS[:1] if smoke else VERSIONS
    runs: dict[_Key, Run] = {}
    for version in versions:
        for task in [_TEXT] if smoke else version.tasks:
            cuts = None
            for costs in COSTS:
                for baseline in (RECOMPUTING, KEEPING) if task == _TEXT else (RECOMPUTING,):
                    rivals, sharp = _worlds(version, task, costs, cuts)
                    cuts = sharp.cuts.__getitem__  # which hang on bytes alone
                    systems = _SYSTEMS if baseline == RECOMPUTING else {_BASELINE: KEEPING}
                    for name, system in systems.items():
                        runs[_Key(version.year, task, name, costs, baseline)] = Run(rivals, system=system)
                    runs[_Key(version.year, task, _HYDRA, costs, baseline)] = Run(sharp)
    distinct = list(dict.fromkeys(runs.values()))
    found = dict(zip(distinct, run_all(distinct, SMOKE_MINIBATCHES if smoke else num_minibatches), strict=True))
    outcomes = {key: found[run] for key, run in runs.items()}
    quoted = [_quoted(version, quote) for version in versions for quote in version.quotes if quote.system == _QUOTED]
    rows = [_row(key, runs[key], outcomes) for key in runs if key.baseline == RECOMPUTING]
    tasks = {key.task for key in runs}
    return pd.DataFrame([*(row for row in quoted if row["task"] in tasks), *rows], columns=list(rows[-1]))


def _worlds(version: Version, task: Task, costs: Costs, cuts: Cut | None) -> tuple[World, World]:
    """Return the version's world for rivals and for Hydra, both in fp32."""
    jobs, machine, chosen = version.tasks[task], version.machine, efficiency(version.machine, costs)
    return (
        rival_world(jobs, machine, efficiency=chosen, num_shards=version.num_shards[task]),
        sharp_world(jobs, machine, precision="fp32", mechanism=version.mechanism, efficiency=chosen, cuts=cuts),
    )


def _row(key: _Key, run: Run, outcomes: Mapping[_Key, Outcome]) -> dict[str, object]:
    version = next(version for version in VERSIONS if version.year == key.year)
    bar = key.task, _STANDS_FOR.get(key.system, key.system)
    quote = next(quote for quote in version.quotes if (quote.task, quote.system) == bar)
    outcome, ratio = outcomes[key], _speedup(key, outcomes)
    keeping = key._replace(baseline=KEEPING)
    return {
        "version": key.year,
        "task": key.task,
        "system": key.system,
        "costs": key.costs,
        "label": "simulated",
        "compute_fraction": compute_fraction(efficiency(version.machine, key.costs)),
        "hours": outcome.makespan_s / 3600,
        "paper_hours": quote.makespan_s / 3600,
        "ratio": ratio,
        "paper_ratio": quote.speedup,
        "error_fraction": math.nan if key.system in _LEFT_OUT else ratio / quote.speedup - 1,
        "left_out": _LEFT_OUT.get(key.system, ""),
        "most_ratio": ratio * outcome.makespan_s / _bound_s(run.world) if key.system == _HYDRA else math.nan,
        "ratio_keeping": _speedup(keeping, outcomes) if keeping in outcomes else math.nan,
        "utilization": outcome.utilization,
        "paper_utilization": quote.utilization_fraction,
        "error": outcome.error,
    }


def _speedup(key: _Key, outcomes: Mapping[_Key, Outcome]) -> float:
    return outcomes[key._replace(system=_BASELINE)].makespan_s / outcomes[key].makespan_s


def _bound_s(world: World) -> float:
    """Return what no plan can beat, even if copies took no time."""
    return max(lower_bounds(world.workload, world.cluster, StatedCosts(world.workload, world.cluster)).values())


def _quoted(version: Version, quote: Quote) -> dict[str, object]:
    """Return the row of a system that is not simulated."""
    return {
        "version": version.year,
        "task": quote.task,
        "system": quote.system,
        "costs": "none",
        "label": "quoted",
        "paper_hours": quote.makespan_s / 3600,
        "paper_ratio": quote.speedup,
        "paper_utilization": quote.utilization_fraction,
        "error": "not simulated",
    }


def facts(frame: pd.DataFrame) -> dict[str, str]:
    """Return what the note says of the table."""
    free, fitted = (where(frame, costs=costs) for costs in COSTS)
    data = where(free, version=2021, task=_TEXT, system=_DATA)

    def off(part: pd.DataFrame, **row: object) -> str:
        return percent_range(where(part, system=_HYDRA, **row)["error_fraction"])

    return {
        "fraction": value_range(fitted["compute_fraction"]),
        "fraction_free": value_range(free["compute_fraction"]),
        "text": off(fitted, task=_TEXT),
        "text_free": off(free, task=_TEXT),
        "images": off(fitted, task=_IMAGES, version=2021),
        "images_free": off(free, task=_IMAGES, version=2021),
        "images_2022": off(frame, task=_IMAGES, version=2022),
        **{
            f"most_{year}": value_range(where(frame, version=year, task=_IMAGES)["most_ratio"]) for year in (2021, 2022)
        },
        "twin": percent_range(where(frame, system=_TWIN)["error_fraction"]),
        "gpipe": f"{cell(free, version=2021, task=_IMAGES, system=_GPIPE):.2f}",
        "hydra": f"{cell(free, version=2021, task=_IMAGES, system=_HYDRA):.2f}",
        "gpipes": value_range(where(frame, system=_GPIPE)["ratio"]),
        "data_hours": value_range(data["hours"], 1),
        "data_busy": value_range(data["hours"] * data["utilization"], 1),
        "data_2022": value_range(where(frame, version=2022, system=_DATA)["ratio"]),
        "groups": value_range(where(frame, system=_TASK, version=2021)["ratio"], 1),
        "keeping": value_range(where(fitted, system=_HYDRA, task=_TEXT)["ratio_keeping"], 1),
    }


def draw(frame: pd.DataFrame) -> Figure:
    """Draw speedups beside utilizations, a row a version and task, ours beside the paper's."""
    cards = {version.year: version.machine.accelerator.name for version in VERSIONS}
    panels = [f"{row.task}, {row.version} version, eight {cards[row.version]}" for row in frame.itertuples()]
    order = [*list(_SYSTEMS)[:-1], _QUOTED, _GPIPE, _HYDRA]
    titled = frame.assign(panel=panels).sort_values("system", key=lambda names: names.map(order.index), kind="stable")
    titled = titled.sort_values(["version", "task"], ascending=[True, False], kind="stable")
    titled["system"] = titled["system"].replace(_QUOTED, f"{_QUOTED} (quoted only)")
    values = {"ratio": "speedup over model parallelism", "utilization": "compute-busy, share of the time"}
    return against_paper(titled, group="system", panel="panel", values=values)
