"""Twice as many models as two keep twice as many devices busy, and the quoted points are the paper's."""

from __future__ import annotations

from experiments.figures import num_models


def test_the_smoke_run_has_a_row_a_number_of_models_and_costs_and_can_be_drawn():
    frame = num_models.run(True)
    assert not frame.duplicated(list(num_models.ABOUT.keys)).any()
    assert set(frame["costs"]) == {"zero-constant", "calibrated"}
    few, more = (frame[frame["num_models"] == count].set_index("costs") for count in (2, 4))
    assert (more["ratio"] > few["ratio"]).all()
    assert (few["utilization"] <= 2 / 8).all()  # no more devices than models compute
    assert (more["utilization"] <= 4 / 8).all()
    assert len(num_models.draw(frame).axes) == 3


def test_the_papers_speedups_never_exceed_what_models_and_devices_allow():
    assert [point.num_models for point in num_models.POINTS] == [2, 4, 8, 12, 16]
    for point in num_models.POINTS:
        assert (point.num_gpus, point.num_parameters) == (8, 250e6)
        assert point.speedup <= min(point.num_models, 8)
        assert point.utilization <= min(point.num_models, 8) / 8
