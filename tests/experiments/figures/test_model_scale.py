"""Every size is there at every batch size, and the quoted points are the paper's."""

from __future__ import annotations

from experiments.figures import model_scale
from experiments.paper.scaling import of_batch_sizes


def test_the_smoke_run_has_a_row_for_each_costs_and_can_be_drawn():
    frame = model_scale.run(True)
    assert list(frame["costs"]) == ["zero-constant", "calibrated"]
    assert not frame.duplicated(list(model_scale.ABOUT.keys)).any()
    assert (frame["model"] == "100M").all()
    assert (frame["ratio"] > frame["ratio_keeping"]).all()
    slow, quick = frame.set_index("costs").loc[["calibrated", "zero-constant"], "utilization"]
    assert slow > quick  # slower cards wait less for copies
    assert len(model_scale.draw(frame).axes) == 3


def test_all_sizes_are_run_at_all_batch_sizes():
    points = of_batch_sizes(model_scale.POINTS, model_scale.BATCH_SIZES)
    assert {(point.model, point.batch_size) for point in points} == {
        (size, batch) for size in ("100M", "300M", "600M", "900M") for batch in (8, 16, 32)
    }
    assert {(point.num_models, point.num_gpus) for point in points} == {(12, 8)}
    assert [point.speedup for point in model_scale.POINTS] == [7.20, 7.30, 7.25, 7.43]
