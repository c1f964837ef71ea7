"""The calibrated constant makes one bar right, and is the same every time."""

from __future__ import annotations

import pytest

from experiments.paper.calibration import FITTED_HOURS, efficiency
from experiments.paper.runs import Run, run_one
from experiments.paper.worlds import bert_grid, rival_world
from hydrasim.machines import MACHINES
from hydrasim.systems import make_system


def test_model_parallelism_takes_the_papers_hours_after_calibration():
    machine = MACHINES["8x1080ti"]
    assert efficiency(machine, "zero-constant") is None
    chosen = efficiency(machine, "calibrated")
    assert chosen is not None
    assert chosen.memory_fraction == 0.85  # nothing else is fitted
    world = rival_world(bert_grid(), machine, efficiency=chosen)
    outcome = run_one(Run(world, system=make_system("deepspeed-mp", {"recompute": "true"})), 20)
    assert outcome.makespan_s / 3600 == pytest.approx(FITTED_HOURS["8x1080ti"], rel=0.002)


def test_machines_that_the_paper_did_not_have_cannot_be_calibrated():
    with pytest.raises(KeyError):
        efficiency(MACHINES["8xh100"], "calibrated")
