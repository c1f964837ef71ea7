"""Equal transformers under Hydra and under model parallelism, as the paper's scaling figures vary them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from experiments.paper.calibration import COSTS, KEEPING, RECOMPUTING, Costs, compute_fraction, efficiency
from experiments.paper.drawing import against_paper
from experiments.paper.runs import Outcome, Run, run_all
from experiments.paper.table import percent_range, value_range
from experiments.paper.worlds import rival_world, sharp_world, transformers
from hydrasim.machines import MACHINES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Of the 2022 version, which alone has all points of Figs. 9 and 10; so is its loading zone, 5 %, the mechanism's.
MACHINE = MACHINES["8x2080ti"]
# What the notes of these figures say of their baseline; `facts` fills it.
BASELINES = (
    "Whether the paper's baseline recomputes is not said. Over one that does, as the constant of Fig. 8 takes it to "
    "({fraction} of the peak), errors here are {errors}; over one that keeps its activations, {errors_keeping}. With "
    "nothing fitted ({fraction_free}) they are {errors_free} and {errors_free_keeping}."
)
RATIOS = ("ratio", "ratio_keeping")  # that the figures have
_BARS = {
    "ratio": "speedup over model\nparallelism, recomputing",
    "ratio_keeping": "speedup over model\nparallelism, keeping",
    "utilization": "compute-busy",
}


@dataclass(frozen=True)
class Point:
    """How many models of how many parameters on how many devices, and what the paper says of them.

    speedup: over model parallelism; utilization: Hydra's; baseline_utilization: model parallelism's.
    """

    num_models: int
    num_parameters: float
    num_gpus: int
    speedup: float
    utilization: float
    baseline_utilization: float
    batch_size: int = 16  # the middle one of the paper's grid, which does not say it here

    @property
    def model(self) -> str:
        return f"{self.num_parameters / 1e6:g}M"


def scaling(points: Sequence[Point], num_minibatches: int) -> pd.DataFrame:
    """Return a row a point and costs; ratio: speedup over a baseline that recomputes, ratio_keeping: that does not."""
    import pandas as pd

    runs = {(point, costs): _runs(point, costs) for point in points for costs in COSTS}
    distinct = list(dict.fromkeys(run for found in runs.values() for run in found))
    outcomes = dict(zip(distinct, run_all(distinct, num_minibatches), strict=True))
    rows = []
    for (point, costs), found in runs.items():
        num_shards = len(found[0].world.workload.jobs[0].shards)
        rows.append(_row(point, costs, num_shards, *(outcomes[run] for run in found)))
    return pd.DataFrame(rows)


def facts(frame: pd.DataFrame) -> dict[str, str]:
    """Return what `BASELINES` says."""
    free, fitted = (frame[frame["costs"] == costs] for costs in COSTS)
    return {
        "fraction_free": value_range(free["compute_fraction"]),
        "errors_free": percent_range(free["error_fraction"]),
        "errors_free_keeping": percent_range(free["error_keeping_fraction"]),
        "fraction": value_range(fitted["compute_fraction"]),
        "errors": percent_range(fitted["error_fraction"]),
        "errors_keeping": percent_range(fitted["error_keeping_fraction"]),
    }


def of_batch_sizes(points: Sequence[Point], batch_sizes: Sequence[int]) -> list[Point]:
    """Return the points at each of the batch sizes."""
    return [replace(point, batch_size=batch_size) for batch_size in batch_sizes for point in points]


def draw_scaling(frame: pd.DataFrame, group: str, label: str, *, panel: str | None = None) -> Figure:
    """Draw speedups over both baselines above Hydra's utilization, ours beside the paper's."""
    return against_paper(frame.assign(paper_ratio_keeping=frame["paper_ratio"]), group, _BARS, panel=panel, label=label)


def _runs(point: Point, costs: Costs) -> tuple[Run, Run, Run]:
    """Return the point's runs by Hydra and both baselines, all in fp32: half precision is a gain of its own."""
    jobs = transformers(point.num_models, point.num_parameters, point.batch_size)
    chosen = efficiency(MACHINE, costs)
    hydra = sharp_world(jobs, MACHINE, num_devices=point.num_gpus, precision="fp32", efficiency=chosen)
    rival = rival_world(jobs, MACHINE, num_devices=point.num_gpus, efficiency=chosen)
    return Run(hydra), Run(rival, system=RECOMPUTING), Run(rival, system=KEEPING)


def _row(
    point: Point, costs: Costs, num_shards: int, hydra: Outcome, recomputing: Outcome, keeping: Outcome
) -> dict[str, object]:
    ratio, ratio_keeping = recomputing.makespan_s / hydra.makespan_s, keeping.makespan_s / hydra.makespan_s
    return {
        "num_models": point.num_models,
        "model": point.model,
        "num_gpus": point.num_gpus,
        "batch_size": point.batch_size,
        "costs": costs,
        "label": "simulated",
        "num_shards": num_shards,
        "compute_fraction": compute_fraction(efficiency(MACHINE, costs)),
        "ratio": ratio,
        "paper_ratio": point.speedup,
        "error_fraction": ratio / point.speedup - 1,
        "ratio_keeping": ratio_keeping,
        "error_keeping_fraction": ratio_keeping / point.speedup - 1,
        "utilization": hydra.utilization,
        "paper_utilization": point.utilization,
        "baseline_utilization": recomputing.utilization,
        "paper_baseline_utilization": point.baseline_utilization,
        "error": hydra.error or recomputing.error or keeping.error,
    }
