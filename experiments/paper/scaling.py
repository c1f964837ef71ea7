"""Equal transformers under Hydra and under model parallelism, as the paper's scaling figures vary them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from experiments.paper.calibration import COSTS, efficiency
from experiments.paper.drawing import against_paper
from experiments.paper.runs import Outcome, Run, run_all
from experiments.paper.worlds import World, rival_world, sharp_world, transformers
from hydrasim.machines import MACHINES
from hydrasim.systems import make_system

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Of the 2022 version, which alone has all points of Figs. 9 and 10; so is its loading zone, 5 %, the mechanism's.
MACHINE = MACHINES["8x2080ti"]
# Whether the baseline recomputes is not said: the scripts of the later version do, layer by layer, as the other
# figures' baseline does. Where a model is one shard, Hydra recomputes nothing, and keeping is the like-for-like.
RECOMPUTING = make_system("deepspeed-mp", {"recompute": "true"})
KEEPING = make_system("deepspeed-mp")
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

    keys, runs, worlds = [], [], []
    for point in points:
        for costs in COSTS:
            hydra, rival = _worlds(point, costs)
            keys.append((point, costs))
            worlds.append(hydra)
            runs += [Run(hydra), Run(rival, system=RECOMPUTING), Run(rival, system=KEEPING)]
    outcomes = run_all(runs, num_minibatches)
    return pd.DataFrame(
        _row(point, costs, len(world.workload.jobs[0].shards), *outcomes[3 * order : 3 * order + 3])
        for order, ((point, costs), world) in enumerate(zip(keys, worlds, strict=True))
    )


def of_batch_sizes(points: Sequence[Point], batch_sizes: Sequence[int]) -> list[Point]:
    """Return the points at each of the batch sizes."""
    return [replace(point, batch_size=batch_size) for batch_size in batch_sizes for point in points]


def draw_scaling(frame: pd.DataFrame, group: str, label: str, *, panel: str | None = None) -> Figure:
    """Draw speedups over both baselines above Hydra's utilization, ours beside the paper's."""
    return against_paper(frame.assign(paper_ratio_keeping=frame["paper_ratio"]), group, _BARS, panel=panel, label=label)


def _worlds(point: Point, costs: str) -> tuple[World, World]:
    """Return the point's world for Hydra and for its baseline, both in fp32: half precision is a gain of its own."""
    jobs = transformers(point.num_models, point.num_parameters, point.batch_size)
    chosen = efficiency(MACHINE, costs)
    hydra = sharp_world(jobs, MACHINE, num_devices=point.num_gpus, precision="fp32", efficiency=chosen)
    return hydra, rival_world(jobs, MACHINE, num_devices=point.num_gpus, efficiency=chosen)


def _row(
    point: Point, costs: str, num_shards: int, hydra: Outcome, recomputing: Outcome, keeping: Outcome
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
