"""The calibrated constant makes one bar right, and is the same every time."""

from __future__ import annotations

import pytest

from experiments.paper.calibration import (
    FITTED_HOURS,
    KEEPING,
    RECOMPUTING,
    compute_fraction,
    efficiency,
)
from experiments.paper.runs import Run, run_one
from experiments.paper.worlds import bert_grid, rival_world
from hydrasim.machines import MACHINES


def test_model_parallelism_takes_the_papers_hours_after_calibration():
    machine = MACHINES["8x1080ti"]
    assert efficiency(machine, "zero-constant") is None
    chosen = efficiency(machine, "calibrated")
    assert chosen is not None
    assert chosen.memory_fraction == 0.85  # nothing else is fitted
    world = rival_world(bert_grid(), machine, efficiency=chosen)
    outcome = run_one(Run(world, system=RECOMPUTING), 20)
    assert outcome.makespan_s / 3600 == pytest.approx(FITTED_HOURS["8x1080ti"], rel=0.002)


def test_a_baseline_that_keeps_activations_takes_two_thirds_of_its_hours():
    machine = MACHINES["8x1080ti"]
    world = rival_world(bert_grid(), machine, efficiency=efficiency(machine, "calibrated"))
    keeping = run_one(Run(world, system=KEEPING), 20)
    assert 0.7 < keeping.makespan_s / 3600 / FITTED_HOURS["8x1080ti"] < 0.8  # two passes of three, and updates
    assert compute_fraction(None) == 0.88


def test_machines_that_the_paper_did_not_have_cannot_be_calibrated():
    with pytest.raises(KeyError):
        efficiency(MACHINES["8xh100"], "calibrated")
