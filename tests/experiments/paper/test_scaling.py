"""A point of a scaling figure is Hydra against both baselines, at the point's size."""

from __future__ import annotations

from dataclasses import replace

import pytest

from experiments.paper import scaling
from experiments.paper.calibration import KEEPING, RECOMPUTING, efficiency
from experiments.paper.runs import Run, run_one
from experiments.paper.scaling import Point, draw_scaling, of_batch_sizes
from experiments.paper.worlds import rival_world, sharp_world, transformers

POINT = Point(2, 90e6, 2, 2.0, 0.5, 0.25)


def test_the_ratio_is_the_baselines_makespan_over_hydras():
    frame = scaling.scaling([POINT], 4)
    assert list(frame["costs"]) == ["zero-constant", "calibrated"]
    row = frame.iloc[0]
    jobs = transformers(2, 90e6, 16)
    hydra = run_one(Run(sharp_world(jobs, scaling.MACHINE, num_devices=2, precision="fp32")), 4)
    rival = rival_world(jobs, scaling.MACHINE, num_devices=2)
    recomputing, keeping = (run_one(Run(rival, system=system), 4) for system in (RECOMPUTING, KEEPING))
    assert row["ratio"] == recomputing.makespan_s / hydra.makespan_s
    assert row["ratio_keeping"] == keeping.makespan_s / hydra.makespan_s
    assert row["error_fraction"] == row["ratio"] / 2.0 - 1
    assert row["error_keeping_fraction"] == row["ratio_keeping"] / 2.0 - 1
    assert (row["utilization"], row["baseline_utilization"]) == (hydra.utilization, recomputing.utilization)
    assert row["num_shards"] == 1  # so that Hydra recomputes nothing
    assert 1.2 < row["ratio"] / row["ratio_keeping"] < 4 / 3  # a forward more, of three passes and an update
    assert not row["error"]


def test_one_constant_is_for_hydra_and_both_baselines():
    row = scaling.scaling([POINT], 4).set_index("costs").loc["calibrated"]
    chosen, jobs = efficiency(scaling.MACHINE, "calibrated"), transformers(2, 90e6, 16)
    hydra = run_one(Run(sharp_world(jobs, scaling.MACHINE, num_devices=2, precision="fp32", efficiency=chosen)), 4)
    rival = rival_world(jobs, scaling.MACHINE, num_devices=2, efficiency=chosen)
    for column, system in (("ratio", RECOMPUTING), ("ratio_keeping", KEEPING)):
        assert row[column] == run_one(Run(rival, system=system), 4).makespan_s / hydra.makespan_s
    assert chosen is not None
    assert row["compute_fraction"] == chosen.compute_fraction


def test_model_parallelism_keeps_one_device_busy_at_most():
    frame = scaling.scaling([POINT, replace(POINT, num_gpus=3)], 4)
    assert (frame["baseline_utilization"] <= 1 / frame["num_gpus"]).all()


@pytest.mark.parametrize(("num_parameters", "name"), [(100e6, "100M"), (1.5e9, "1500M")])
def test_points_name_their_models_in_millions(num_parameters: float, name: str):
    assert Point(1, num_parameters, 1, 1.0, 1.0, 1.0).model == name


def test_points_are_repeated_at_each_batch_size():
    points = [POINT, replace(POINT, num_models=3)]
    found = of_batch_sizes(points, (8, 32))
    assert [(point.num_models, point.batch_size) for point in found] == [(2, 8), (3, 8), (2, 32), (3, 32)]


def test_the_paper_stands_beside_both_baselines():
    frame = scaling.scaling([POINT], 2)
    for axes in draw_scaling(frame, "model", "parameters").axes[:2]:
        heights = [bar.get_height() for bars in axes.containers if hasattr(bars, "patches") for bar in bars]
        assert len(heights) == 3
        assert heights[-1] == 2.0
