"""The one constant that a machine may have: the share of its peak that matrix products reach, by one bar of Fig. 8.

What the bar's system does with activations is not said; it is taken to recompute them, as the scripts of the later
version do.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Literal, get_args

from experiments.paper.runs import Run, run_one
from experiments.paper.worlds import bert_grid, rival_world
from hydrasim.machine import Machine
from hydrasim.machines import MACHINES
from hydrasim.roofline import QUOTED, Efficiency
from hydrasim.systems import make_system

Costs = Literal["zero-constant", "calibrated"]
COSTS: tuple[Costs, ...] = get_args(Costs)

# Hours of "PyTorch Distributed" on WikiText-2, which moves next to nothing and so tells how fast cards compute: of
# 2021 by the authors' file of Fig. 8, of 2022 read off the figure.
FITTED_HOURS = {"8x1080ti": 60.48, "8x2080ti": 84.3}
RECOMPUTING = make_system("deepspeed-mp", {"recompute": "true"})
KEEPING = make_system("deepspeed-mp")
_BISECTIONS = 12
_MINIBATCHES = 20


def efficiency(machine: Machine, costs: Costs) -> Efficiency | None:
    """Return what share of their peaks a machine's cards reach, None for the quoted shares of large kernels.

    Raises:
        KeyError: the paper has no bar to calibrate the machine on.
    """
    return _calibrated(machine.name) if costs == "calibrated" else None


def compute_fraction(chosen: Efficiency | None, precision: str = "fp32") -> float:
    """Return the share of the peak that matrix products reach."""
    return (chosen or QUOTED[precision]).compute_fraction


@cache
def _calibrated(name: str) -> Efficiency:
    """Find, by bisection, the compute fraction at which model parallelism takes the paper's hours."""
    quoted, low, high = QUOTED["fp32"], 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = replace(quoted, compute_fraction=(low + high) / 2, source="calibrated on Fig. 8, PyTorch Distributed")
        world = rival_world(bert_grid(), MACHINES[name], efficiency=middle)
        if run_one(Run(world, system=RECOMPUTING), _MINIBATCHES).makespan_s > FITTED_HOURS[name] * 3600:
            low = middle.compute_fraction
        else:
            high = middle.compute_fraction
    return middle
