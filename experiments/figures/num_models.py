"""Fig. 9A: two to sixteen transformers of 250M parameters on eight devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.figures import About
from experiments.paper.runs import SMOKE_MINIBATCHES, STEADY_MINIBATCHES
from experiments.paper.scaling import BASELINES, RATIOS, Point, draw_scaling, facts, scaling

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["ABOUT", "draw", "facts", "run"]

ABOUT = About(
    title="Number of models: transformers of 250M on eight RTX 2080 Ti, speedup over model parallelism",
    label="simulated",
    source="Fig. 9A (2022)",
    keys=("num_models", "costs"),
    ratios=RATIOS,
    note="As the paper, Hydra gains with models up to the number of devices. A model is one shard, of which it "
    "recomputes nothing, so over a baseline that recomputes it can gain more than eight. Batch size, which the paper "
    "does not say, is 16. With nothing fitted, copies on links that two cards share are waited for. " + BASELINES,
)

# Read off the vector figure: Hydra's speedup, its utilization and that of model parallelism.
POINTS = [
    Point(2, 250e6, 8, 1.78, 0.19, 0.08),
    Point(4, 250e6, 8, 3.63, 0.39, 0.09),
    Point(8, 250e6, 8, 7.16, 0.81, 0.11),
    Point(12, 250e6, 8, 7.20, 0.79, 0.10),
    Point(16, 250e6, 8, 7.13, 0.82, 0.07),
]


def run(smoke: bool = False, *, num_minibatches: int = STEADY_MINIBATCHES) -> pd.DataFrame:
    """Return a row a number of models and costs."""
    return scaling(POINTS[:2], SMOKE_MINIBATCHES) if smoke else scaling(POINTS, num_minibatches)


def draw(frame: pd.DataFrame) -> Figure:
    """Draw speedups above utilizations."""
    return draw_scaling(frame, "num_models", "models")
