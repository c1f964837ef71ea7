"""Fig. 9B: four transformers of 250M parameters on two to eight devices."""

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
    title="Number of GPUs: four transformers of 250M on RTX 2080 Ti, speedup over model parallelism",
    label="simulated",
    source="Fig. 9B (2022)",
    keys=("num_gpus", "costs"),
    ratios=RATIOS,
    note="Speedups level off at the number of models, as the paper's do. A model is one shard, of which Hydra "
    "recomputes nothing, so over a baseline that recomputes it can gain more than there are devices. Batch size, which "
    "the paper does not say, is 16. Our baseline keeps 1/GPUs busy but for hops, the paper's less. " + BASELINES,
)

# Read off the vector figure, for three GPUs off a picture: Hydra's speedup, its utilization, model parallelism's.
POINTS = [
    Point(4, 250e6, 2, 1.84, 0.84, 0.39),
    Point(4, 250e6, 3, 2.78, 0.83, 0.28),
    Point(4, 250e6, 4, 3.71, 0.83, 0.21),
    Point(4, 250e6, 6, 3.64, 0.51, 0.16),
    Point(4, 250e6, 8, 3.65, 0.39, 0.08),
]


def run(smoke: bool = False, *, num_minibatches: int = STEADY_MINIBATCHES) -> pd.DataFrame:
    """Return a row a number of GPUs and costs."""
    return scaling(POINTS[:2], SMOKE_MINIBATCHES) if smoke else scaling(POINTS, num_minibatches)


def draw(frame: pd.DataFrame) -> Figure:
    """Draw speedups above utilizations."""
    return draw_scaling(frame, "num_gpus", "GPUs")
